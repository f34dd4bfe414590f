"""Confidence intervals, all of 95 %."""

import numpy as np

Z = 1.959964


def bootstrap_mean(
    totals: np.ndarray, counts: np.ndarray, clusters: np.ndarray, *, samples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of Σ totals / Σ counts, clusters (such as documents) drawn with replacement.

    Args:
        totals: sum of the quantity in each unit.
        counts: number of its values in each unit.
        clusters: cluster of each unit; units of one cluster are drawn together.
    """
    _, index = np.unique(clusters, return_inverse=True)
    cluster_totals, cluster_counts = np.bincount(index, totals), np.bincount(index, counts)
    n = len(cluster_totals)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    low, high = np.quantile(draws @ cluster_totals / np.maximum(draws @ cluster_counts, 1e-12), [0.025, 0.975])
    return float(low), float(high)


def wilson_count(count: int, total: int) -> tuple[float, float]:
    """Interval of a count of `total` units of which each is or is not of a kind; not empty at 0, as a bootstrap is.

    Source: Wilson 1927, score interval of a proportion.
    """
    if total == 0:
        return 0.0, 0.0
    share = count / total
    centre = share + Z**2 / (2 * total)
    half = Z * np.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    low, high = (total * bound / (1 + Z**2 / total) for bound in (centre - half, centre + half))
    return max(float(low), 0.0), min(float(high), float(total))


def cluster_draws(clusters: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """How often each unit is drawn, clusters drawn with replacement [sample, unit]."""
    _, index = np.unique(clusters, return_inverse=True)
    n = int(index.max()) + 1
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    return draws[:, index].astype(np.float64)


def rank_correlation(
    one: np.ndarray, other: np.ndarray, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's correlation of paired values, with its interval by bootstrap over the pairs.

    Returns:
        The correlation, and both ends; nan where there are fewer than four pairs, or one of the two does not vary.
    """
    from scipy.stats import rankdata

    if len(one) < 4 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(one), size=(samples, len(one)))
    drawn = _correlations(rankdata(one[draws], axis=1), rankdata(other[draws], axis=1))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(_correlations(rankdata(one)[None], rankdata(other)[None])[0]), float(low), float(high)


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each row; nan where one is the same throughout."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 0)
