"""Do dictionaries that were trained apart find the same features, and the same births? Loads no torch."""

import numpy as np
from jaxtyping import Float, Int

from ontogeny.intervals import rank_correlation, wilson_count

LEVELS = (0.7, 0.9)
"""Similarities from which on features count as the same."""


def agreement(
    similarity: Float[np.ndarray, " pair"],
    birth: Int[np.ndarray, " pair"],
    birth_other: Int[np.ndarray, " pair"],
    *,
    n_features: int,
    n_emergent: int,
    level: float,
) -> dict[str, float | int]:
    """How far two dictionaries agree on features and on births.

    Ranks of births are correlated over features that emerge in both dictionaries. Over those that emerge in either,
    births that have nothing to do with each other would be anticorrelated: only pairs of two initial features would be
    missing.

    Args:
        similarity: of matched features.
        birth, birth_other: place of the snapshot of birth in each dictionary, 0 for the first; -1 where unknown.
        n_features, n_emergent: features of the first dictionary that could be matched, and those of them that are born
            after the first snapshot; those without a counterpart among them.
        level: similarity from which on features count as the same.
    Returns:
        features; matched, their share with a counterpart; emergent_matched, the same of the emergent ones. Of the
        matched: births_same with its 95 % interval (Wilson). Of those emergent in either: emergent (number),
        emergent_same, emergent_near (within one snapshot). Of those emergent in both: emergent_both (number),
        births_spearman with its interval (bootstrap over pairs). nan where there is nothing to tell it from.
    """
    same = similarity >= level
    known = same & (birth >= 0) & (birth_other >= 0)
    mine, other = birth[known], birth_other[known]
    either, both = (mine > 0) | (other > 0), (mine > 0) & (other > 0)
    low, high = wilson_count(int((mine == other).sum()), len(mine))
    middle, lowest, highest = rank_correlation(mine[both], other[both])
    total = len(mine) or float("nan")
    return {
        "features": n_features,
        "matched": float(same.sum() / n_features) if n_features else float("nan"),
        "emergent_matched": float((same & (birth > 0)).sum() / n_emergent) if n_emergent else float("nan"),
        "births_same": _mean(mine == other),
        "births_same_ci_low": low / total,
        "births_same_ci_high": high / total,
        "emergent": int(either.sum()),
        "emergent_same": _mean((mine == other)[either]),
        "emergent_near": _mean((np.abs(mine - other) <= 1)[either]),
        "emergent_both": int(both.sum()),
        "births_spearman": middle,
        "births_spearman_ci_low": lowest,
        "births_spearman_ci_high": highest,
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
