"""Which of a suite's snapshots to study."""

from collections.abc import Sequence

import numpy as np

from ontogeny.config.schedules import SCHEDULES, check_selection
from ontogeny.errors import SuiteError


def select(steps: Sequence[int], wanted: Sequence[int] | str, *, missing: str = "refuse", of: str) -> list[int]:
    """The steps asked for, of those that there are, ascending.

    Args:
        steps: those that there are, ascending.
        wanted: steps; `all`; `log` (the nearest to 0 and the powers of two, and the last); `every=K`th, counted from
            the first, and the last; `n=K` spread evenly over log-steps; or a published schedule by its name.
        missing: whether a step that is not there is refused, with its neighbours named, or left out (`skip`).
        of: the suite, for errors.
    Raises:
        SuiteError: a step is not there, or none is.
    """
    if not steps:
        raise SuiteError(f"suite {of} has no snapshots")
    if isinstance(wanted, str) and wanted not in SCHEDULES:
        return _spread(list(steps), check_selection(wanted))
    asked = sorted(set(SCHEDULES[wanted] if isinstance(wanted, str) else wanted))
    there = set(steps)
    for step in asked if missing == "refuse" else ():
        if step not in there:
            raise SuiteError(f"no snapshot at step {step}: {neighbours(step, list(steps))} (ontogeny suites show {of})")
    chosen = [step for step in asked if step in there]
    if not chosen:
        raise SuiteError(f"suite {of} has none of the steps asked for: {steps[0]} to {steps[-1]}, {len(steps)} in all")
    return chosen


def _spread(steps: list[int], wanted: str) -> list[int]:
    if wanted == "all":
        return steps
    logs = np.log2(1 + np.asarray(steps, dtype=float))
    name, _, count = wanted.partition("=")
    if name == "every":
        return sorted({*steps[:: int(count)], steps[-1]})
    if name == "n":
        if int(count) >= len(steps):
            return steps
        return _nearest(steps, logs, int(count))
    powers = np.log2(1 + np.asarray([0, *(2**power for power in range(int(steps[-1]).bit_length()))], dtype=float))
    return sorted({steps[int(np.abs(logs - target).argmin())] for target in powers} | {steps[-1]})


def _nearest(steps: list[int], logs: np.ndarray, count: int) -> list[int]:
    """So many steps, as evenly spread as there are any: the nearest to each of a grid that is made finer until it
    yields enough of them."""
    chosen = steps
    for points in range(count, 64 * count):
        targets = np.linspace(logs[0], logs[-1], points)
        chosen = sorted({steps[int(np.abs(logs - target).argmin())] for target in targets})
        if len(chosen) >= count:
            break
    # what is too much goes where steps lie closest
    while len(chosen) > count:
        gaps = np.diff(np.log2(1 + np.asarray(chosen, dtype=float)))
        inner = gaps[:-1] + gaps[1:]
        del chosen[1 + int(inner.argmin())]
    return chosen


def neighbours(step: int, steps: list[int]) -> str:
    """`nearest are 1000 and 2000`."""
    below = max((s for s in steps if s < step), default=None)
    above = min((s for s in steps if s > step), default=None)
    near = [str(s) for s in (below, above) if s is not None]
    return f"nearest {'are' if len(near) > 1 else 'is'} {' and '.join(near)}"
