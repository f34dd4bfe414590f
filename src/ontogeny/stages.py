"""The stages of a study. Each reads what earlier ones left in the run folder and writes its own part."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny import tables
from ontogeny.activations.key import activations_key, pretrain_key, suite_key
from ontogeny.analyses import ANALYSES, ASKS, READS
from ontogeny.columns.causal import CAUSAL
from ontogeny.config.settings import fingerprint
from ontogeny.corpus.pack import Corpus, corpus_key, pack_study_corpus
from ontogeny.corpus.readers import expand
from ontogeny.errors import ConfigError, TrainingError, did_you_mean
from ontogeny.files import content_state, write_json
from ontogeny.plan.plan import plan_study
from ontogeny.progress import Events
from ontogeny.run import Run
from ontogeny.suites.suite import candidates_of, study_suite
from ontogeny.truth.checks import CHECKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ontogeny.dictionaries.dictionary import Dictionary


DIVERGED = -1.0
"""Explained variance below which nothing was learned but harm."""


@dataclass(frozen=True)
class Stage:
    """One stage: what its outputs depend on, and the function that writes them and returns their paths."""

    name: str
    key: Callable[[Run], str]
    work: Callable[[Run], list[Path]]


# pack


def _suite_tokenizer(run: Run) -> "PreTrainedTokenizerFast | None":
    """The tokenizer of the suite; None where the study names it, or pre-trains its own models."""
    named = isinstance(run.study.corpus.tokenizer, Path) or run.study.suite.pretrain is not None
    return None if named else study_suite(run.study, run).tokenizer()


def _pack_key(run: Run) -> str:
    return corpus_key(run.study.corpus, tokenizer=_suite_tokenizer(run))


def _pack(run: Run) -> list[Path]:
    pack_study_corpus(run.study.corpus, run.corpus_folder, tokenizer=_suite_tokenizer(run))
    return [run.corpus_folder]


# pretrain


def _pretrain(run: Run) -> list[Path]:
    from ontogeny.models.pretrain import pretrain

    settings = run.study.suite.pretrain
    if settings is None:
        return []
    corpora = _corpus(run, "train"), _corpus(run, "held_out")
    pretrain(settings, *corpora, run.suite_folder, checkpoint=run.checkpoints / "pretrain.pt", events=run.events)
    return [run.suite_folder]


# schedule


def _schedule_key(run: Run) -> str:
    """The snapshots that are there count only where they are to be chosen from."""
    study = run.study
    if study.suite.drift is None:
        return fingerprint(None)
    held_out = _corpus(run, "held_out").fingerprint
    return fingerprint(suite_key(run, candidates_of(run)), study.suite.drift, study.hookpoint, held_out)


def _schedule(run: Run) -> list[Path]:
    drift = run.study.suite.drift
    if drift is None:
        run.schedule_path.unlink(missing_ok=True)
        return []
    from ontogeny.activations.schedule import moved_steps

    suite = run.study.suite
    steps = moved_steps(
        candidates_of(run), _corpus(run, "held_out"), hookpoint=run.study.hookpoint, drift=drift, dtype=suite.dtype
    )
    write_json(run.schedule_path, {"steps": steps})
    return [run.schedule_path]


# train


def _train_key(run: Run) -> str:
    study = run.study
    series = (study.series,) if study.dictionary.kind == "sae_series" else ()
    train = study.train.model_copy(update={"replicas": 1})  # who shares the work changes no result
    return fingerprint(activations_key(run), study.dictionary, train, *series)


def _train(run: Run) -> list[Path]:
    import torch

    from ontogeny.dictionaries.backends import fastest
    from ontogeny.loop import matmul_precision

    device, asked = torch.device("cuda" if torch.cuda.is_available() else "cpu"), run.study.train.kernels
    if run.study.dictionary.kind == "sae_series":
        from ontogeny.dictionaries.track import series_kernels
        from ontogeny.dictionaries.variants import series

        dictionary: Dictionary = series(run, run.folder / "series")
        kernels = series_kernels(run.folder / "series") if asked == "auto" else asked
    else:
        dictionary = _train_crosscoder(run)
        kernels = fastest(device) if asked == "auto" else asked
    dictionary.save(run.dictionary_folder)
    run.update_manifest(
        numerics={
            "threads": torch.get_num_threads(),
            "matmul_precision": matmul_precision(),
            "kernels": kernels,
        }
    )
    return [run.dictionary_folder]


def _train_crosscoder(run: Run) -> "Dictionary":
    from ontogeny.ranks import together

    if run.study.train.store_gb == "auto" and run.manifest.get("store", {}).get("key") != _train_key(run):
        from ontogeny.plan.pace import cheaper_store, measure_pace

        plan = plan_study(run.study, run.folder)
        run.update_manifest(store={"key": _train_key(run), "gb": cheaper_store(plan, measure_pace(plan))})
        plan.require_room({"train"})
    with together().all_at(run.folder):
        return trained_crosscoder(run, run.events)


def trained_crosscoder(run: Run, events: Events) -> "Dictionary":
    """By this process, or by all that torchrun started, each of which is to call it."""
    from ontogeny.activations.shared_stream import SharedStream
    from ontogeny.activations.stream import stream_of
    from ontogeny.dictionaries.train import train_crosscoder
    from ontogeny.ranks import together

    ranks = together()
    return train_crosscoder(
        stream_of(run) if ranks.alone else SharedStream(run, ranks),
        run.study.crosscoder,
        checkpoint=run.checkpoints / "train.pt",
        key=_train_key(run),
        events=events,
        ranks=ranks,
    )


# measure


def _measure_key(run: Run) -> str:
    return fingerprint(run.study.measure, _train_key(run), _corpus(run, "held_out").fingerprint)


def _measure(run: Run) -> list[Path]:
    from ontogeny.features.parts import measure_dictionary

    measured = measure_dictionary(run, key=_measure_key(run))
    if (best := float(measured["quality"]["explained_variance"].max())) < DIVERGED:  # type: ignore[arg-type]
        raise TrainingError(
            f"the dictionary explains {best:.3g} of the variance at best: its training has diverged: lower "
            "train.learning_rate, or leave it out"
        )
    return [run.write_table(name, table) for name, table in measured.items()]


# analyse, attribute, truth and report


def _analyse_key(run: Run) -> str:
    return fingerprint(run.study.analysis, run.study.analyses, _measure_key(run))


def _analyse(run: Run) -> list[Path]:
    for name in ANALYSES.keys() - set(run.study.analyses):
        for table in ANALYSES[name]:
            (run.folder / tables.FILES[table]).unlink(missing_ok=True)
    for name in sorted(run.study.analyses, key=list(ANALYSES).index):
        read = [other for other in READS.get(name, ()) if other in run.study.analyses]
        asked = run.study.analysis if name in ASKS else run.study.analysis.model_copy(update={"endpoint": None})
        key = fingerprint(asked, _measure_key(run), *read)
        if not run.stage_done(record := f"analyse {name}", key):
            started = time.monotonic()
            written = [run.write_table(table, analyse(run)) for table, analyse in ANALYSES[name].items()]
            run.finish_stage(record, key, written, time.monotonic() - started)
    return [run.folder / tables.FILES[table] for name in run.study.analyses for table in ANALYSES[name]]


def _attribute_key(run: Run) -> str:
    """The tasks' files count by name and content, wherever they lie."""
    asked = run.study.attribution
    if asked is None:
        return fingerprint(None, _measure_key(run))
    files = [
        (task.title, [(path.name, *content_state(path)) for path in expand(task.patterns)]) for task in asked.tasks
    ]
    settings = asked.model_copy(update={"tasks": [task.model_copy(update={"files": None}) for task in asked.tasks]})
    return fingerprint(settings, files, _measure_key(run))


def _attribute(run: Run) -> list[Path]:
    if run.study.attribution is None:
        for table in CAUSAL:
            (run.folder / tables.FILES[table]).unlink(missing_ok=True)
        return []
    from ontogeny.causal.attribute import attribute

    return [run.write_table(name, table) for name, table in attribute(run).items()]


def _truth_key(run: Run) -> str:
    return fingerprint(run.study.truth, _analyse_key(run))


def _truth(run: Run) -> list[Path]:
    if run.study.truth is None:
        for table in CHECKS:
            (run.folder / tables.FILES[table]).unlink(missing_ok=True)
        return []
    return [run.write_table(table, check(run)) for table, check in CHECKS.items()]


def _report_key(run: Run) -> str:
    return fingerprint(version("ontogeny"), run.study.report, _truth_key(run), _attribute_key(run))


def _report(run: Run) -> list[Path]:
    from ontogeny.report.page import write_report

    return [write_report(run)] if run.study.report else []


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("pack", _pack_key, _pack),
        Stage("pretrain", pretrain_key, _pretrain),
        Stage("schedule", _schedule_key, _schedule),
        Stage("train", _train_key, _train),
        Stage("measure", _measure_key, _measure),
        Stage("analyse", _analyse_key, _analyse),
        Stage("attribute", _attribute_key, _attribute),
        Stage("truth", _truth_key, _truth),
        Stage("report", _report_key, _report),
    )
}


def _corpus(run: Run, split: str) -> Corpus:
    return Corpus(run.corpus_folder / split)


def stages_until(until: str) -> list[str]:
    """Names of the stages up to one.

    Raises:
        ConfigError: there is no such stage.
    """
    if until not in STAGES:
        raise ConfigError(f"no stage '{until}'{did_you_mean(until, STAGES)}: there are {', '.join(STAGES)}")
    return list(STAGES)[: list(STAGES).index(until) + 1]
