"""Do dictionaries that were trained apart find the same features, and the same births?"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch import Tensor

from ontogeny.dictionaries.dictionary import Dictionary

LEVELS = (0.7, 0.9)
"""Cosines from which on features of two dictionaries count as the same."""


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
    rows, others = _rows(a)[living], _rows(b)[living_other]
    cosine = (rows @ others.T).numpy()
    own, other = linear_sum_assignment(-cosine)
    return Match(living[own], living_other[other], cosine[own, other])


def _rows(dictionary: Dictionary) -> Tensor:
    rows = dictionary.W_dec.detach()
    if dictionary.folded:
        rows = rows * dictionary.norm_scale[:, None, None]
    return torch.nn.functional.normalize(rows.transpose(0, 1).flatten(1), dim=1)


def agreement(
    match: Match, birth: np.ndarray, birth_other: np.ndarray, *, n_features: int, level: float
) -> dict[str, float | int]:
    """How far two dictionaries agree on features and on births.

    Args:
        birth, birth_other: snapshot of birth in each dictionary [pair].
        n_features: living features of the first dictionary, those without a counterpart among them.
        level: cosine from which on features count as the same.
    Returns:
        features; matched, their share with a counterpart; of those, births_same; and of the ones emergent in either,
        emergent (number), emergent_same, emergent_near (within one snapshot), births_spearman.
    """
    same = match.cosine >= level
    mine, other = birth[same], birth_other[same]
    emergent = (mine > 0) | (other > 0)
    mine_, other_ = mine[emergent], other[emergent]
    varied = len(set(mine_)) > 1 and len(set(other_)) > 1
    return {
        "features": n_features,
        "matched": float(same.sum() / n_features) if n_features else float("nan"),
        "births_same": _mean(mine == other),
        "emergent": int(emergent.sum()),
        "emergent_same": _mean(mine_ == other_),
        "emergent_near": _mean(np.abs(mine_ - other_) <= 1),
        "births_spearman": _rank_correlation(mine_, other_) if varied else float("nan"),
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
