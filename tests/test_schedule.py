"""Which snapshots are studied: schedules by name, steps that are missing, and snapshots chosen by how far they move."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ontogeny as og
from conftest import small_study
from ontogeny.activations.schedule import moved_steps
from ontogeny.config.schedules import SCHEDULES
from ontogeny.config.study import StudyConfig
from ontogeny.config.suite import SuiteConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import ConfigError, SuiteError
from ontogeny.models.hookpoints import read_hookpoint
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.suites.suite import suite_of


def test_published_schedules_have_their_snapshots() -> None:
    counts = {name: len(steps) for name, steps in SCHEDULES.items()}
    assert counts == {
        "pythia": 154, "crfm-gpt2": 609, "evolution-pythia": 32, "sae-track-pythia-410m": 29,
        "sae-track-pythia-160m": 30, "sae-track-pythia-1.4b": 30, "sae-track-crfm-gpt2": 46,
    }  # fmt: skip
    assert SCHEDULES["pythia"][:12] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    assert SCHEDULES["sae-track-pythia-410m"][10:14] == [512, 1000, 3000, 5000]
    assert [steps[-1] for steps in SCHEDULES.values()] == [143_000, 400_000, *[143_000] * 4, 400_000]
    for steps in SCHEDULES.values():
        assert steps == sorted(set(steps))
        assert steps[0] == 0


def test_a_study_names_a_schedule_and_skips_what_is_missing(small_run: Run) -> None:
    folder = small_run.suite_folder
    named = SuiteConfig(folder=folder, steps="pythia", missing="skip")
    assert og.open_suite(folder, steps=named.asked_steps, missing="skip").steps == [0]
    assert SuiteConfig(folder=folder).asked_steps is None
    with pytest.raises(SuiteError, match="no snapshot at step 1: nearest are 0 and 10"):
        og.open_suite(folder, steps=named.asked_steps)
    with pytest.raises(SuiteError, match="none of the steps asked for"):
        og.open_suite(folder, steps=[3, 4], missing="skip")
    with pytest.raises(ConfigError, match="no schedule 'pithia' \\(did you mean pythia\\?\\): give a list"):
        SuiteConfig(folder=folder, steps="pithia")


def test_snapshots_are_chosen_by_how_far_activations_move(small_run: Run) -> None:
    suite, corpus = suite_of(small_run), Corpus(small_run.corpus_folder / "held_out")
    hookpoint = parse_hookpoint(small_run.study.hookpoint)
    tokens = torch.from_numpy(corpus.tokens[:200].astype("int64"))
    usable = torch.arange(corpus.sequence_length) < torch.from_numpy(corpus.lengths[:200].astype("int64"))[:, None]
    usable[:, 0] = False
    x = [
        read_hookpoint(load_snapshot(snapshot, up_to=hookpoint), tokens, hookpoint)[usable]
        for snapshot in suite.snapshots
    ]
    moved = np.array([[float((b - a).norm(dim=1).mean() / a.norm(dim=1).mean()) for b in x] for a in x])

    def expected(drift: float) -> list[int]:
        kept = [0]
        for place in (1, 2):
            if moved[kept[-1], place] >= drift:
                kept.append(place)
        return [suite.steps[place] for place in [*kept, 3]]

    distances = np.sort(moved[np.triu_indices(3, 1)])
    drifts = [distances[0] * 0.7, *np.sqrt(distances[:-1] * distances[1:]), distances[-1] * 1.3]
    found = [moved_steps(suite, corpus, hookpoint=small_run.study.hookpoint, drift=float(drift)) for drift in drifts]
    assert found == [expected(drift) for drift in drifts]
    assert found[0] == suite.steps
    assert found[-1] == [0, 60]


def test_a_study_of_chosen_snapshots(small_run: Run, text_file: Path, tmp_path: Path) -> None:
    changes = {
        "suite": {"folder": str(small_run.suite_folder), "drift": 1e6},
        "corpus": {"files": str(text_file), "sequence_length": 64},
        "report": False,
        "analyses": ["emergence"],
    }
    study = StudyConfig(**small_study(text_file, **changes))  # type: ignore[arg-type]
    run = run_study(study, out=tmp_path / "run", until="schedule", say=lambda line: None)
    assert run.steps == [0, 60]
    said: list[str] = []
    run = run_study(study, out=tmp_path / "run", until="train", say=said.append)
    assert said[:2] == ["pack: done already", "schedule: done already"]
    assert run.dictionary().n_snapshots == 2
    shutil.rmtree(run.dictionary_folder)
    smaller = study.model_copy(update={"suite": study.suite.model_copy(update={"drift": 1e-3})})
    assert run_study(smaller, out=tmp_path / "run", until="schedule", say=said.append).steps == [0, 10, 25, 60]
    everything = study.model_copy(update={"suite": study.suite.model_copy(update={"drift": None})})
    assert run_study(everything, out=tmp_path / "run", until="schedule", say=said.append).steps == [0, 10, 25, 60]
    assert not run.schedule_path.exists()
