"""Since when an index of an SAE series stands for its feature.

Each SAE starts from its neighbour's weights, so that an index is handed on; but where activations change fast it may
come to stand for other tokens. What is followed back is the feature that it is at the last snapshot, or at the last one
at which it is active: it begins where codes of the same tokens last stopped to go with those of the SAE before. On
planted suites births so dated are right, where births by strength alone come too early (docs/agreement.md).
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, diags_array

from ontogeny.features.codes import correlated

KEPT = 0.5
"""Correlation with the codes before from which on an index stands for the same feature."""


def correlations_before(codes: Sequence[csr_array]) -> Float[np.ndarray, "link feature"]:
    """Correlation of each snapshot's codes with those of the snapshot before at which the feature was last active; nan
    where it is silent, or was at all before.

    Args:
        codes: of the same tokens [feature, token], a matrix for each snapshot.
    """
    latest, found = codes[0], []
    for later in codes[1:]:
        found.append(correlated(latest, later))
        active = np.diff(later.indptr) > 0
        latest = csr_array(diags_array((~active).astype(float)) @ latest + later)
    return np.stack(found) if found else np.empty((0, latest.shape[0]))  # pyright: ignore[reportOptionalSubscript]


def carried(
    correlation: Float[np.ndarray, "link feature"], active: Bool[np.ndarray, "snapshot feature"]
) -> Bool[np.ndarray, "snapshot feature"]:
    """Where an index stands for the feature that it is at the last snapshot at which it is active.

    Silence breaks nothing by itself, nor does a chance activation on the sample after that snapshot.

    Args:
        correlation: as `correlations_before` gives it.
        active: where a feature is, on the tokens that it is measured on.
    """
    still_active = np.cumsum(active[::-1], axis=0)[::-1] > 0
    breaks = (correlation < KEPT) & still_active[1:]
    broken_later = np.cumsum(breaks[::-1], axis=0)[::-1] > 0
    return np.concatenate([~broken_later, np.ones((1, correlation.shape[1]), dtype=bool)])


def tables_codes(table: pl.DataFrame, *, n_snapshots: int, n_features: int, tokens: int) -> list[csr_array]:
    """The table `codes` of a series as a matrix [feature, token] for each snapshot.

    Args:
        tokens: how many were sampled, those without any code among them.
    """
    place = table["sequence"].to_numpy().astype(np.int64) << 32 | table["position"].to_numpy()
    column = np.unique(place, return_inverse=True)[1]
    snapshot, row = table["snapshot"].to_numpy(), table["feature"].to_numpy()
    value = table["code"].to_numpy().astype(np.float64)
    return [
        csr_array((value[own], (row[own], column[own])), shape=(n_features, tokens))
        for own in (snapshot == at for at in range(n_snapshots))
    ]
