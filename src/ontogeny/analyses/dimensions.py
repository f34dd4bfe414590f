"""How many of the dimensions features have to themselves, beside random directions. Source: arXiv 2509.17196."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ontogeny.features.life import alive_mask
from ontogeny.run import Run
from ontogeny.tables import from_rows

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 10


def dimensions(run: Run) -> pl.DataFrame:
    """The table `dimensions`: a row per threshold of being alive and snapshot."""
    from ontogeny.features.dimensionality import dimensionality, random_totals

    strength, W_dec = _normalised(run)
    living = ~run.features.sort("feature")["dead"].to_numpy()
    rows = []
    for threshold in sorted({run.study.measure.alive_threshold, *run.study.analysis.alive_thresholds}):
        alive = alive_mask(strength, threshold) & living
        for snapshot, step in enumerate(run.steps):
            W = W_dec[snapshot][np.flatnonzero(alive[snapshot])]
            own = dimensionality(W)
            random = random_totals(W.norm(dim=1), W.shape[1], draws=DRAWS, seed=run.study.analysis.seed)
            rows.append(
                {
                    "alive_threshold": threshold,
                    "snapshot": snapshot,
                    "step": step,
                    "features": len(W),
                    "total": float(own.sum()) / W.shape[1],
                    "random": float(random.mean()),
                    "random_low": float(random.min()),
                    "random_high": float(random.max()),
                    "median": float(own.median()) if len(own) else None,
                }
            )
    return from_rows("dimensions", rows)


def _normalised(run: Run) -> "tuple[np.ndarray, Tensor]":
    """Strengths [snapshot, feature], and decoder directions in normalised units [snapshot, feature, d_model]."""
    dictionary = run.dictionary()
    W_dec = dictionary.W_dec.detach()
    if dictionary.folded:
        W_dec = W_dec * dictionary.norm_scale[:, None, None]
    return dictionary.strength().detach().numpy(), W_dec
