"""Do dictionaries that were trained apart find the same features, and the same births?"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch import Tensor

from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.features.life import alive_mask

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


def stability_row(
    a: Dictionary, b: Dictionary, *, living: np.ndarray, living_other: np.ndarray, alive_threshold: float
) -> tuple[dict[str, float], Match]:
    """How alike two dictionaries are.

    Returns:
        n, and for each level of LEVELS the share of `a`'s living features matched at that cosine, of those the share
        born at the same snapshot and within one, Spearman's correlation of births; and the match.
    """
    match = match_features(a, b, living=living, living_other=living_other)
    birth, birth_other = (alive_mask(dictionary.strength().numpy(), alive_threshold).argmax(0) for dictionary in (a, b))
    row = {"n": float(len(living))}
    for level in LEVELS:
        same = match.cosine >= level
        mine, other = birth[match.feature[same]], birth_other[match.other[same]]
        emergent = (mine > 0) | (other > 0)
        name = f"{level:g}"
        row[f"matched_{name}"] = float(same.sum() / max(1, len(living)))
        row[f"births_same_{name}"] = _mean(mine == other)
        row[f"emergent_births_same_{name}"] = _mean((mine == other)[emergent])
        row[f"emergent_births_near_{name}"] = _mean((np.abs(mine - other) <= 1)[emergent])
        varied = len(set(mine)) > 1 and len(set(other)) > 1
        row[f"births_spearman_{name}"] = _rank_correlation(mine, other) if varied else float("nan")
    return row, match


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def seed_cosines(n_features: int, matches: list[Match]) -> pl.DataFrame:
    """Each feature's mean cosine to its counterparts in dictionaries of other seeds: feature, seed_cosine."""
    total, seen = np.zeros(n_features), np.zeros(n_features)
    for match in matches:
        total[match.feature] += match.cosine
        seen[match.feature] += 1
    cosine = np.divide(total, seen, out=np.full(n_features, np.nan), where=seen > 0)
    return pl.DataFrame({"feature": np.arange(n_features), "seed_cosine": cosine}).with_columns(
        pl.col("seed_cosine").fill_nan(None)
    )
