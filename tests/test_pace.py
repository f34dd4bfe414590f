"""How fast, and whether to stream or to store."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from conftest import Command, small_study
from ontogeny.config.study import StudyConfig, load_study
from ontogeny.plan import pace as pace_module
from ontogeny.plan.pace import Pace, advice, cheaper_store, measure_pace, pace_table, stage_seconds, training_seconds
from ontogeny.plan.plan import Plan, plan_study
from ontogeny.progress import duration
from ontogeny.study import run_study

TRAIN = {"tokens": 20_000, "batch_size": 500, "window_tokens": 4000, "store_gb": "auto"}
SLOW_HARVEST = Pace(harvest=1e-2, train=1e-3, write=1e-5, read=1e-4)
SLOW_READING = Pace(harvest=1e-4, train=1e-3, write=1e-4, read=1e-3)


def study(folder: Path, text_file: Path, **changes: object) -> StudyConfig:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(small_study(text_file, train=TRAIN, **changes)), encoding="utf-8")
    return load_study(path)


def planned(folder: Path, text_file: Path) -> Plan:
    """Three trainings in all: the study's, one started independently, and three quarters of one in single SAEs."""
    return plan_study(study(folder, text_file), folder / "run")


def test_hours_by_hand(text_file: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path, text_file)
    assert plan.tokens_read == 20_000 * 2.75
    assert plan.tokens_kept == 20_000
    assert training_seconds(plan, SLOW_HARVEST, stored=False) == pytest.approx(55_000 * 1.1e-2)
    stored = 20_000 * (1e-2 + 1e-5) + 35_000 * 1e-4 + 55_000 * 1e-3
    assert training_seconds(plan, SLOW_HARVEST, stored=True) == pytest.approx(stored)
    assert plan.kept_bytes == pytest.approx(1.01 * 20_000 * 4 * 2 * 32)
    assert cheaper_store(plan, SLOW_HARVEST) == 0.1
    assert "storing them saves time here, train.store_gb: 0.1" in advice(plan, SLOW_HARVEST)
    assert cheaper_store(plan, SLOW_READING) == 0
    assert "streaming is as fast" in advice(plan, SLOW_READING)


def test_time_of_stages_by_hand(text_file: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path, text_file)
    found, measured = stage_seconds(plan, SLOW_HARVEST), plan.study.measure
    assert found["train"] == pytest.approx(20_000 * 1.1e-2)
    assert found["analyse"] == pytest.approx(1.75 * found["train"])
    read, encoded = measured.tokens + measured.held_out_tokens, measured.tokens + 2 * measured.held_out_tokens
    assert found["measure"] == pytest.approx(read * 1e-2 + encoded * 1e-3)
    assert found["attribute"] == found["truth"] == 0
    last = pace_table(plan, SLOW_HARVEST).row(-1, named=True)
    assert last["item"] == "all: time"
    assert last["amount"] == pytest.approx(sum(found.values()) / 3600)
    assert last["note"].startswith(duration(sum(found.values())))


def test_other_seeds_miss_what_the_study_has_not_read(text_file: Path, tmp_path: Path) -> None:
    truth = {"seeds": [1, 2], "null_tokens": 8000}
    plan = plan_study(study(tmp_path, text_file, truth=truth, analyses=["probes"]), tmp_path / "run")
    run = run_study(plan.study, out=tmp_path / "run", until="pack", say=lambda line: None)
    plan = plan_study(plan.study, run.folder)
    assert plan.corpus_tokens is not None
    assert plan.corpus_tokens > 2 * 20_000
    assert plan.tokens_read == 20_000 * 3 + 8000 * 1.25
    missed = 40_000 * (1 - 20_000 / plan.corpus_tokens)
    assert plan.tokens_missed == pytest.approx(missed)
    stored = 70_000 * 1e-3 + (20_000 + missed) * 1e-2 + 20_000 * 1e-5 + (50_000 - missed) * 1e-4
    assert training_seconds(plan, SLOW_HARVEST, stored=True) == pytest.approx(stored)


def test_a_store_that_does_not_fit_is_not_chosen(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, text_file)
    others = sum(plan.disk().values())
    monkeypatch.setattr(Plan, "disk_free", lambda self: others + 1.9 * plan.kept_bytes)
    assert cheaper_store(plan, SLOW_HARVEST) == 0
    assert "more than half of the free disk" in advice(plan, SLOW_HARVEST)


def test_plan_times_a_few_steps(
    command: Command, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study(tmp_path, text_file)
    with capsys.disabled():
        pace = measure_pace(planned(tmp_path, text_file))
    assert all(0 < seconds < 1 for seconds in pace)
    assert command("plan", tmp_path / "study.yaml", "--pace", "--out", tmp_path / "run") == (0, [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("pace", "budget"), [(SLOW_HARVEST, 0.1), (SLOW_READING, 0.0)])
def test_auto_is_decided_for_each_training_and_changes_no_result(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: Pace, budget: float
) -> None:
    measured = 0

    def once(plan: Plan) -> Pace:
        nonlocal measured
        measured += 1
        return pace

    monkeypatch.setattr(pace_module, "measure_pace", once)
    config = study(tmp_path, text_file)
    run = run_study(config, out=tmp_path / "run", until="train", say=lambda line: None)
    assert run.manifest["store"]["gb"] == budget
    assert (run.folder / "activations" / "manifest.json").is_file() == (budget > 0)
    assert plan_study(run.study, run.folder).store_gb == budget
    stored = config.model_copy(update={"train": config.train.model_copy(update={"store_gb": 1.0})})
    other = run_study(stored, out=tmp_path / "stored", until="train", say=lambda line: None)
    assert torch.equal(run.dictionary().W_dec, other.dictionary().W_dec)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    del manifest["stages"]["train"]
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    run_study(config, out=run.folder, until="train", say=lambda line: None)
    assert measured == 1
    more = config.model_copy(update={"train": config.train.model_copy(update={"tokens": 21_000})})
    run_study(more, out=run.folder, until="train", say=lambda line: None)
    assert measured == 2
