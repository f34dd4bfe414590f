"""Do dictionaries that were trained apart find the same features, and the same births?"""

import numpy as np
from scipy.stats import rankdata

from ontogeny.features.matching import Match


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
