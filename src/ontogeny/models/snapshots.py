"""Save snapshots of a model while it is pre-trained, by our own loop, by transformers' Trainer or by any other.

A snapshot is an ordinary transformers folder `stepN/` that is there whole or not at all, so that `ontogeny track
--follow` may read along.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.files import atomic_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Schedule = Callable[[int], bool] | Sequence[int]


def powers_of_two(step: int) -> bool:
    """A schedule: step 0 and the powers of two."""
    return step & (step - 1) == 0


def save_snapshot(
    model: "PreTrainedModel",
    folder: str | Path,
    *,
    step: int,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    schedule: Schedule | None = None,
) -> Path | None:
    """Save a model as the snapshot of a step; call it in a training loop after every step, and before the first.

    Args:
        folder: of the suite; the snapshot goes into `stepN/` in it.
        step: optimiser steps taken.
        tokenizer: saved beside the weights; one snapshot of a suite needs it.
        schedule: steps to save, or a function that tells; None saves this one.
    Returns:
        The snapshot's folder; None where the schedule leaves the step out, or it is there already.
    """
    wanted = schedule is None or (schedule(step) if callable(schedule) else step in schedule)
    path = Path(folder) / f"step{step}"
    if not wanted or path.is_dir():
        return None
    with atomic_path(path) as temporary:
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
    return path
