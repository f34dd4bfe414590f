"""Follow a pre-training: run a study again whenever its suite has a new snapshot."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ontogeny.config.study import StudyConfig
from ontogeny.errors import ConfigError, SuiteError
from ontogeny.run import Run, run_folder
from ontogeny.study import pack_ahead, run_study
from ontogeny.suites.suite import complete_steps

POLL_SECONDS = 2.0
FEWEST, SHARE = 2, 4
"""Of snapshots that came together so many are taken at once, or a quarter of what is read already, so that the first of
them are in a report before the last are trained; while a series is short that costs little."""


def follow(
    study: StudyConfig,
    folder: str | Path,
    *,
    out: str | Path | None = None,
    until: int | None = None,
    idle: float | None = None,
    say: Callable[[str], None] = print,
) -> Run | None:
    """Run an SAE series' study on the snapshots in a folder, and again whenever there are more.

    What was trained and measured of earlier snapshots is kept, so a new one costs its own SAE, its own measurement, and
    the analyses. Snapshots that are still being written are left for later. While there is none, the text is packed, if
    the study names its tokenizer. Whether this is stopped or killed, the same call goes on from there.

    Args:
        folder: where a pre-training saves its snapshots; it need not exist yet.
        until: end when the snapshot of this step, or the first later one, is done; None to go on.
        idle: end when nothing new has come for so many seconds; None to wait for ever.
    Returns:
        The run; None if there was no snapshot.
    Raises:
        ConfigError: the study's dictionary is not an SAE series from the first snapshot on, it chooses or names
            snapshots in another way than by their steps, or it has no snapshot of the step that this is to end with.
        SuiteError: a snapshot that the series has read is gone.
        RunError: the run's folder is another study's, or no run's.
        InputError: as `run_study`.
    """
    if study.dictionary.kind != "sae_series":
        raise ConfigError(
            "only an SAE series can follow a pre-training, a crosscoder is trained on all snapshots at once: "
            "set dictionary.kind: sae_series"
        )
    if study.series.direction == "reverse":
        raise ConfigError("leave out series.direction: reverse: it begins at the last snapshot, which is still to come")
    if study.suite.drift is not None:
        raise ConfigError("leave out suite.drift: while a suite grows, its last snapshot is always studied")
    if study.suite.revisions is not None:
        raise ConfigError("leave out suite.revisions: a pre-training's snapshots are looked for as step0, step1, …")
    if study.suite.steps != "all" and study.suite.asked_steps is None:
        raise ConfigError(f"suite.steps: {study.suite.steps} needs all snapshots to choose from: give steps, or all")
    wanted = None if study.suite.asked_steps is None else set(study.suite.asked_steps)
    if until is not None and wanted is not None and max(wanted) < until:
        raise ConfigError(f"until: step {until:,} comes after the last of suite.steps, {max(wanted):,}")
    folder, done, run = Path(folder).expanduser().absolute(), list[int](), Run(run_folder(study, out))
    run.require_own_folder(study)
    read = {snapshot["step"] for snapshot in run.manifest.get("snapshots", [])}
    read = read if wanted is None else read & wanted
    since = time.monotonic()
    if not read and not complete_steps(folder):
        say(f"follow: {folder} has no whole snapshot yet: waiting for one")
        if isinstance(study.corpus.tokenizer, Path):
            pack_ahead(_reading(study, folder, study.suite.steps), out=out, say=say)
    while True:
        there = complete_steps(folder)
        if gone := read - set(there):
            raise SuiteError(
                f"{', '.join(f'step{step}' for step in sorted(gone))} of {folder} are gone: a series wants all its "
                "snapshots where they were: bring them back, and have the pre-training remove none"
            )
        steps = [step for step in there if wanted is None or step in wanted]
        enough = next((step for step in steps if until is not None and step >= until), None)
        steps = [step for step in steps if enough is None or step <= enough or step in read]
        if steps != done:
            waiting = [step for step in steps if step not in read]
            later = waiting[max(FEWEST, len(read) // SHARE) :]
            taken = [step for step in steps if step not in later]
            new = [f"{step:,}" for step in taken if step not in done]
            more = f" ({len(later):,} more {'is' if len(later) == 1 else 'are'} waiting)" if later else ""
            say(f"follow: {'step' if len(new) == 1 else 'steps'} {', '.join(new)}{more}")
            run_study(_reading(study, folder, taken), out=out, say=say)
            done, read, since = taken, set(taken), time.monotonic()
            continue
        is_last = until is not None and bool(done) and done[-1] >= until
        if is_last or (idle is not None and time.monotonic() - since >= idle):
            return run if done else None
        time.sleep(POLL_SECONDS)


def _reading(study: StudyConfig, folder: Path, steps: str | Sequence[int | str]) -> StudyConfig:
    """The study, of snapshots in a folder."""
    suite = study.suite.model_copy(update={"folder": folder, "repo": None, "pretrain": None, "steps": steps})
    return study.model_copy(update={"suite": suite})
