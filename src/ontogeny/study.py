"""A study, run stage by stage into its folder."""

import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ontogeny.config.settings import parse
from ontogeny.config.study import StudyConfig, TruthConfig, load_study
from ontogeny.errors import ConfigError, CorpusError, RunError
from ontogeny.files import remove
from ontogeny.preflight import check_names, check_study, require_room, require_shareable
from ontogeny.progress import Events, speaks, started_together
from ontogeny.run import Run, run_folder
from ontogeny.stages import STAGES, Stage, stages_until, trained_crosscoder
from ontogeny.suites.suite import pin, suite_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Say = Callable[[str], None]
LONGEST_VALUE = 60
"""Characters of a setting that are told when it has changed."""


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
    config = load_study(study) if not isinstance(study, StudyConfig) else checked(study)
    if config.sweep is not None:
        raise ConfigError(f"{config.name} is a sweep of several studies: run_sweep, or give the folder of one")
    stages = stages_until(until)
    if started_together() == 1:
        return _run_stages(config, stages, out, say)
    from ontogeny.ranks import joined

    with joined(config.train.replicas) as ranks:
        if not speaks():
            while (folder := ranks.tell()) is not None:
                trained_crosscoder(Run(folder), Events())
            return Run(run_folder(config, out))
        try:
            require_shareable(config)
            return _run_stages(config, stages, out, say)
        finally:
            if not ranks.at_work:
                ranks.tell(None)


def _run_stages(config: StudyConfig, stages: list[str], out: str | Path | None, say: Say) -> Run:
    check_study(config, set(stages), out=out)
    run = Run(run_folder(config, out))
    is_new = run.require_own_folder(config)
    with _lock(run.folder):
        for line in [] if is_new else changes(run, config):
            say(line)
        run.prepare(config)
        pin(run)
        for stage in map(STAGES.__getitem__, stages):
            if stage.name == "pack":
                _pack(run, is_new=is_new, say=say)
            else:
                _run_stage(run, stage, say)
            if stage.name == ("pretrain" if config.suite.drift is None else "schedule"):
                suite = suite_of(run)
                name = suite.name if config.suite.pretrain is None else config.name
                run.update_manifest(suite=name, snapshots=[snapshot.plain() for snapshot in suite.snapshots])
                if config.suite.drift is not None:
                    require_room(config, set(stages), out=out)
        if stages[-1] == list(STAGES)[-1]:
            run.update_manifest(study=run.study_path.read_text(encoding="utf-8"))
    return run


def pack_ahead(study: StudyConfig, *, out: str | Path | None = None, say: Say = print) -> None:
    """Pack a study's text before its suite is there; the study has to name the suite's tokenizer.

    Raises:
        InputError: as `run_study`, as far as the suite has no part in it.
    """
    check_names(study)
    run = Run(run_folder(study, out))
    is_new = run.require_own_folder(study)
    with _lock(run.folder):
        run.prepare(study)
        _pack(run, is_new=is_new, say=say)


def _pack(run: Run, *, is_new: bool, say: Say) -> None:
    """A new run whose text cannot be packed leaves nothing."""
    try:
        _run_stage(run, STAGES["pack"], say)
    except CorpusError:
        if is_new:
            shutil.rmtree(run.folder)
        raise


def report_again(folder: Path) -> Run | None:
    """Write the report of a run from its tables, without the text and the models that it was made from.

    Args:
        folder: of the run.
    Returns:
        The run; None, and nothing is written, where it has not been run to its end under the settings that lie in it.
    """
    if not (folder / "manifest.json").is_file():
        return None
    run = Run(folder)
    if run.manifest.get("study") != run.study_path.read_text(encoding="utf-8") or run.outdated:
        return None
    with _lock(folder):
        started, stage = time.monotonic(), STAGES["report"]
        run.finish_stage(
            stage.name, run.manifest["stages"][stage.name]["key"], stage.work(run), time.monotonic() - started
        )
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
    if before is not None and before["key"] == key and before["outputs"]:
        # what was lost and is made again may differ in its last bits, and what follows was made of the other
        run.forget_stages(list(STAGES)[list(STAGES).index(stage.name) + 1 :])
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


def changes(run: Run, study: StudyConfig) -> list[str]:
    """What a study changes of the settings that a run was made with, in lines to be told."""
    if not run.study_path.is_file():
        return []
    try:
        before, now = (_flat(one.model_dump(mode="json")) for one in (run.study, study))
    except ConfigError as error:
        return [f"settings changed; the ones before are no longer settings of a study ({error})"]
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    told = [f"{name} {_short(before.get(name))} → {_short(now.get(name))}" for name in differ]
    return [f"settings changed: {', '.join(told)}"] if told else []


def _short(value: Any) -> str:
    return text if len(text := str(value)) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    found = {}
    for name, value in settings.items():
        value = value[0] if isinstance(value, list) and len(value) == 1 else value  # as a setting may be written
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) and value else {above + name: value}
    return found


def checked(study: StudyConfig) -> StudyConfig:
    """The same study; what was changed in a loaded one is looked at as a file's settings are.

    Raises:
        ConfigError: a setting is impossible, or does not go with another.
    """
    return parse(StudyConfig, study.model_dump(), where=study.name)


def with_truth(study: StudyConfig) -> StudyConfig:
    """The study with its checks, and the probes that they need, asked for."""
    own = study.train.seed
    checks = study.truth or TruthConfig(seeds=[own + 1, own + 2])
    changes = {"truth": checks, "analyses": list(dict.fromkeys([*study.analyses, "probes"]))}
    return study.model_copy(update=changes)
