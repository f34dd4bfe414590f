"""A study as a list of stages. Each reads what earlier ones left in the run folder and writes its own part."""

import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny import tables
from ontogeny.activations.key import activations_key, pretrain_key, suite_key
from ontogeny.analyses import ANALYSES, ASKS, READS
from ontogeny.columns.causal import CAUSAL
from ontogeny.config.settings import fingerprint
from ontogeny.config.study import StudyConfig, TruthConfig, load_study
from ontogeny.corpus.pack import Corpus, corpus_key, pack_study_corpus
from ontogeny.corpus.readers import expand
from ontogeny.errors import ConfigError, CorpusError, RunError, did_you_mean
from ontogeny.plan.plan import plan_study
from ontogeny.preflight import check_study, require_room
from ontogeny.progress import Events, speaks, started_together
from ontogeny.run import Run, content_state, remove, run_folder, write_json
from ontogeny.suites.suite import candidates_of, pin, study_suite, suite_of
from ontogeny.truth.checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerFast

    from ontogeny.dictionaries.dictionary import Dictionary

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One stage: what its outputs depend on, and the function that writes them and returns their paths."""

    name: str
    key: Callable[[Run], str]
    work: Callable[[Run], list[Path]]


# pack


def _suite_tokenizer(run: Run) -> "PreTrainedTokenizerFast | None":
    """The tokenizer of the suite; None where the study pre-trains its own models."""
    return None if run.study.suite.pretrain is not None else study_suite(run.study, run).tokenizer()


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

    from ontogeny.dictionaries.kernels import fastest
    from ontogeny.loop import matmul_precision

    if run.study.dictionary.kind == "sae_series":
        from ontogeny.dictionaries.variants import series

        dictionary: Dictionary = series(run, run.folder / "series")
    else:
        dictionary = _train_crosscoder(run)
    dictionary.save(run.dictionary_folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run.update_manifest(
        numerics={
            "threads": torch.get_num_threads(),
            "matmul_precision": matmul_precision(),
            "kernels": fastest(device) if run.study.train.kernels == "auto" else run.study.train.kernels,
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
        return _trained_crosscoder(run, run.events)


def _trained_crosscoder(run: Run, events: Events) -> "Dictionary":
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
    asked = run.study.attribution
    files = () if asked is None else [content_state(path) for task in asked.tasks for path in expand(task.patterns)]
    return fingerprint(asked, files, _measure_key(run))


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


def with_truth(study: StudyConfig) -> StudyConfig:
    """The study with its checks, and the probes that they need, asked for."""
    own = study.train.seed
    checks = study.truth or TruthConfig(seeds=[own + 1, own + 2])
    changes = {"truth": checks, "analyses": list(dict.fromkeys([*study.analyses, "probes"]))}
    return study.model_copy(update=changes)


def stages_until(until: str) -> list[str]:
    """Names of the stages up to one.

    Raises:
        ConfigError: there is no such stage.
    """
    if until not in STAGES:
        raise ConfigError(f"no stage '{until}'{did_you_mean(until, STAGES)}: there are {', '.join(STAGES)}")
    return list(STAGES)[: list(STAGES).index(until) + 1]


def run_study(
    study: str | Path | StudyConfig, *, out: str | Path | None = None, until: str = "report", say: Say = print
) -> Run:
    """Run a study to its report, or to one of its stages; what is done already is not done again.

    Args:
        study: a YAML file, or a loaded study.
        out: the run folder; None for `runs/NAME` below the working directory.
        until: the last stage to run: pack, pretrain, schedule, train, measure, analyse, attribute, truth or report.
        say: takes one line per stage.
    Of processes that torchrun started the first runs the study, and all train its crosscoder.

    Returns:
        The run.
    Raises:
        InputError: something is asked for that cannot be done.
        TrainingError: a loss or an activation is not finite.
    """
    config = study if isinstance(study, StudyConfig) else load_study(study)
    if config.sweep is not None:
        raise ConfigError(f"{config.name} is a sweep of several studies: run_sweep, or give the folder of one")
    stages = stages_until(until)
    if started_together() == 1:
        return _run_stages(config, stages, out, say)
    from ontogeny.ranks import joined

    with joined(config.train.replicas) as ranks:
        if not speaks():
            while (folder := ranks.tell()) is not None:
                _trained_crosscoder(Run(folder), Events())
            return Run(run_folder(config, out))
        try:
            require_shareable(config)
            return _run_stages(config, stages, out, say)
        finally:
            if not ranks.at_work:
                ranks.tell(None)


def require_shareable(study: StudyConfig) -> None:
    """Refuse what several processes cannot do together."""
    if study.dictionary.kind == "sae_series":
        raise ConfigError("the SAEs of a series follow each other: run the study by one process, without torchrun")
    if study.train.store_gb is not None:
        raise ConfigError("train.store_gb: several processes harvest while they train: leave it out")
    if study.train.batch_size % study.train.replicas:
        raise ConfigError(
            f"train.replicas: {study.train.replicas} cannot share batches of {study.train.batch_size} tokens equally: "
            "change train.batch_size"
        )


def _run_stages(config: StudyConfig, stages: list[str], out: str | Path | None, say: Say) -> Run:
    check_study(config, set(stages), out=out)
    run = Run(run_folder(config, out))
    is_new = run.require_own_folder()
    with _lock(run.folder):
        run.prepare(config)
        pin(run)
        for stage in map(STAGES.__getitem__, stages):
            try:
                _run_stage(run, stage, say)
            except CorpusError:
                if is_new and stage.name == "pack":
                    shutil.rmtree(run.folder)
                raise
            if stage.name == ("pretrain" if config.suite.drift is None else "schedule"):
                suite = suite_of(run)
                name = suite.name if config.suite.pretrain is None else config.name
                run.update_manifest(suite=name, snapshots=[snapshot.plain() for snapshot in suite.snapshots])
                if config.suite.drift is not None:
                    require_room(config, set(stages), out=out)
    return run


def _run_stage(run: Run, stage: Stage, say: Say) -> None:
    key = stage.key(run)
    if run.stage_done(stage.name, key):
        run.confirm_stage(stage.name)
        if run.manifest["stages"][stage.name]["outputs"]:
            say(f"{stage.name}: done already")
        return
    before = run.manifest["stages"].get(stage.name)
    if before is not None and before["key"] != key and before["outputs"]:
        run.mark_outdated(list(STAGES)[list(STAGES).index(stage.name) :])
        if stage.name == "train" and run.study.dictionary.kind == "crosscoder":
            say("train: the dictionary is trained anew, since what it depends on has changed")
    started = time.monotonic()
    run.events.emit(stage.name, "started")
    outputs = stage.work(run)
    seconds = time.monotonic() - started
    run.finish_stage(stage.name, key, outputs, seconds)
    remove(run.checkpoints / f"{stage.name}.pt")
    shutil.rmtree(run.checkpoints / f"{stage.name}.shared", ignore_errors=True)
    run.events.emit(stage.name, "finished", seconds=round(seconds, 2))
    if outputs:
        say(f"{stage.name}: {seconds:.0f} s, {', '.join(map(str, outputs))}")


@contextmanager
def _lock(folder: Path) -> "Iterator[None]":
    """One process at a time works on a run; the lock goes with the process, however it ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is working on {folder}: wait for it to end") from None
        yield


def preset(name: str) -> StudyConfig:
    """A study that comes with the package, such as `demo`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in (names := presets()):
        raise ConfigError(f"no preset '{name}'{did_you_mean(name, names)}: there are {', '.join(names)}")
    return load_study(Path(str(files("ontogeny") / "presets" / f"{name}.yaml")))


def presets() -> list[str]:
    """Names of the studies that come with the package."""
    folder = files("ontogeny") / "presets"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
