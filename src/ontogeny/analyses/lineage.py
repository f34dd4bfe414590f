"""Where emergent features come from: for each birth the nearest feature that was there before, and what was one and
became two."""

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ontogeny.run import Run
from ontogeny.tables import from_rows

if TYPE_CHECKING:
    from torch import Tensor

HELD = 8
"""Snapshots whose codes are held at a time."""
LABELS = ("novel", "split", "handover", "absorption")


def lineage(run: Run) -> pl.DataFrame:
    """The table `lineage`: each emergent feature's nearest earlier one, and whether it is new, split off or took over.

    Kinship is the mean of two likenesses: the cosine of the decoder directions at the snapshot of birth, whatever its
    sign, and the correlation of the codes there over the sampled held-out tokens. The parent is the feature of greatest
    kinship among those born before and there at the birth or just before.
    """
    from ontogeny.features.codes import stored_codes
    from ontogeny.features.kinship import kin_of_births

    features, steps = run.features.sort("feature"), run.steps
    kin = kin_of_births(
        run.dictionary().W_dec,
        _codes_at(run),
        tokens=stored_codes(run).tokens,
        relative=_relative(run),
        birth=np.array([-1 if step is None else steps.index(step) for step in features["birth_step"]]),
        kin_threshold=run.study.analysis.kin_threshold,
    )
    rows = ({**asdict(one), "birth_step": steps[one.snapshot], "kinship": one.kinship} for one in kin)
    return from_rows("lineage", rows).sort("feature")


def partings(run: Run) -> pl.DataFrame:
    """The table `partings`: pairs of living features that had one direction and have two at the last snapshot."""
    from ontogeny.features import kinship

    found = kinship.partings(run.dictionary().W_dec, _codes_at(run), relative=_relative(run))
    rows = ({**asdict(pair), "step": run.steps[pair.snapshot]} for pair in found)
    return from_rows("partings", rows).sort("feature")


def _codes_at(run: Run) -> "Callable[[int], Tensor]":
    """The codes of each snapshot; a few are held, all snapshots of a crosscoder having the same."""
    from ontogeny.features.codes import stored_codes

    one_code = run.scan("codes").select(pl.col("snapshot").is_null().all()).collect().item()

    @lru_cache(maxsize=HELD)
    def codes_of(snapshot: int) -> "Tensor":
        return stored_codes(run, snapshot=snapshot).codes

    return lambda snapshot: codes_of(0 if one_code else snapshot)


def _relative(run: Run) -> np.ndarray:
    """Relative strength, 0 for dead features [snapshot, feature]."""
    return run.matrix("strength_relative") * ~run.features.sort("feature")["dead"].to_numpy()
