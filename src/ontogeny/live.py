"""Follow a pre-training: run a study again whenever its suite has a new snapshot."""

import time
from collections.abc import Callable
from pathlib import Path

from ontogeny.config.study import StudyConfig
from ontogeny.errors import ConfigError
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.suites.suite import complete_steps

POLL_SECONDS = 2.0


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
    the analyses. Snapshots that are still being written are left for later. Whether this is stopped or killed, the
    same call goes on from there.

    Args:
        folder: where a pre-training saves its snapshots; it need not exist yet.
        until: end when the snapshot of this step is done; None to go on.
        idle: end when nothing new has come for so many seconds; None to wait for ever.
    Returns:
        The run; None if there was no snapshot.
    Raises:
        ConfigError: the study's dictionary is not an SAE series, or it chooses snapshots by their drift.
        InputError: as `run_study`.
    """
    if study.dictionary.kind != "sae_series":
        raise ConfigError(
            "only an SAE series can follow a pre-training, a crosscoder is trained on all snapshots at once: "
            "set dictionary.kind: sae_series"
        )
    if study.suite.drift is not None:
        raise ConfigError("leave out suite.drift: while a suite grows, its last snapshot is always studied")
    done: list[int] = []
    run, since = None, time.monotonic()
    if study.suite.steps != "all" and study.suite.asked_steps is None:
        raise ConfigError(f"suite.steps: {study.suite.steps} needs all snapshots to choose from: give steps, or all")
    wanted = None if study.suite.asked_steps is None else set(study.suite.asked_steps)
    if not complete_steps(folder):
        say(f"follow: {folder} has no whole snapshot yet: waiting for one")
    while True:
        steps = [step for step in complete_steps(folder) if wanted is None or step in wanted]
        if steps != done:
            new = sorted(set(steps) - set(done))
            say(f"follow: {'step' if len(new) == 1 else 'steps'} {', '.join(f'{step:,}' for step in new)}")
            suite = study.suite.model_copy(
                update={"folder": Path(folder), "repo": None, "pretrain": None, "steps": steps}
            )
            run = run_study(study.model_copy(update={"suite": suite}), out=out, say=say)
            done, since = steps, time.monotonic()
            continue
        if (until is not None and until in done) or (idle is not None and time.monotonic() - since >= idle):
            return run
        time.sleep(POLL_SECONDS)
