"""Which features of two dictionaries are counterparts of each other."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from ontogeny.dictionaries.dictionary import Dictionary

MOST_PAIRS = 16_384**2
"""Up to so many pairs of features all are looked at, which takes 16 bytes a pair; beyond, each one's nearest."""
NEAREST, ROWS_AT_ONCE = 16, 1024


@dataclass(frozen=True)
class Match:
    """Features of one dictionary and their counterparts in another, one to one.

    Attributes:
        feature, other: matched features [pair].
        cosine: of the decoder rows over all snapshots in one vector [pair].
    """

    feature: np.ndarray
    other: np.ndarray
    cosine: np.ndarray


def match_features(a: Dictionary, b: Dictionary, *, living: np.ndarray, living_other: np.ndarray) -> Match:
    """Assign the living features of two dictionaries one to one, the sum of cosines greatest (the Hungarian method).

    Cosines are of decoder rows in normalised units, [snapshot · d_model] as one vector. Of more than MOST_PAIRS pairs
    those among the nearest alone are looked at, and a feature may stay without a counterpart.
    """
    return match_rows(_rows(a), _rows(b), living=living, living_other=living_other)


def match_rows(
    rows: Float[Tensor, "feature width"],
    others: Float[Tensor, "other width"],
    *,
    living: Int[np.ndarray, " living"],
    living_other: Int[np.ndarray, " living_other"],
) -> Match:
    """The same of any rows, such as the directions at one snapshot."""
    unit, unit_other = (
        torch.nn.functional.normalize(one[kept], dim=1) for one, kept in ((rows, living), (others, living_other))
    )
    assigned = _assigned if len(living) * len(living_other) <= MOST_PAIRS else _assigned_among_nearest
    own, other = assigned(unit, unit_other)
    return Match(living[own], living_other[other], (unit[own] * unit_other[other]).sum(1).numpy())


def _assigned(unit: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return linear_sum_assignment((unit @ other.T).numpy(), maximize=True)


def _assigned_among_nearest(unit: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows and others, each assigned to one of its nearest or of those that it is nearest to, or left alone where the
    sum of cosines is greater so."""
    n, m = len(unit), len(other)
    rows, columns, cosines = [], [], []
    for a, b, swap in ((unit, other, False), (other, unit, True)):
        for first in range(0, len(a), ROWS_AT_ONCE):
            found = (a[first : first + ROWS_AT_ONCE] @ b.T).topk(min(NEAREST, len(b)), dim=1)
            place = torch.arange(first, first + len(found.values))[:, None].expand_as(found.indices)
            pair = (found.indices, place) if swap else (place, found.indices)
            rows.append(pair[0].flatten())
            columns.append(pair[1].flatten())
            cosines.append(found.values.flatten())
    places, first_of = np.unique((torch.cat(rows) * (m + n) + torch.cat(columns)).numpy(), return_index=True)
    # a way out for every row: a column of its own that costs as much as a cosine of 0
    alone = np.arange(n)
    row = np.concatenate([places // (m + n), alone])
    column = np.concatenate([places % (m + n), m + alone])
    cost = np.concatenate([2 - torch.cat(cosines).numpy()[first_of].astype(np.float64), np.full(n, 2.0)])
    own, found = min_weight_full_bipartite_matching(csr_array((cost, (row, column)), shape=(n, m + n)))
    matched = found < m
    return own[matched], found[matched]


def _rows(dictionary: Dictionary) -> Float[Tensor, "feature width"]:
    rows = dictionary.W_dec.detach()
    if dictionary.folded:
        rows = rows * dictionary.norm_scale[:, None, None]
    return rows.transpose(0, 1).flatten(1)
