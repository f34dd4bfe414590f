"""Which features of two dictionaries are counterparts of each other."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ontogeny.dictionaries.dictionary import Dictionary


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

    Cosines are of decoder rows in normalised units, [snapshot · d_model] as one vector.
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
    cosine = (unit @ unit_other.T).numpy()
    own, other = linear_sum_assignment(-cosine)
    return Match(living[own], living_other[other], cosine[own, other])


def _rows(dictionary: Dictionary) -> Float[Tensor, "feature width"]:
    rows = dictionary.W_dec.detach()
    if dictionary.folded:
        rows = rows * dictionary.norm_scale[:, None, None]
    return rows.transpose(0, 1).flatten(1)
