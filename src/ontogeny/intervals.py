"""Confidence intervals, all of 95 %."""

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

Z = 1.959964
LEAST_CLUSTERS, FEW_CLUSTERS = 5, 30
"""With fewer clusters no interval is given; with fewer than the second it is Student's, for drawing few anew knows too
little doubt."""


def bootstrap_mean(
    totals: np.ndarray, counts: np.ndarray, clusters: np.ndarray, *, samples: int, seed: int
) -> tuple[float, float]:
    """Interval of Σ totals / Σ counts over clusters, such as documents: percentiles with clusters drawn anew.

    With fewer than FEW_CLUSTERS by the jackknife and Student's t, as a bootstrap of 10 holds the mean in 90 % of cases
    and one of 2 in 50 %; nan with fewer than LEAST_CLUSTERS.

    Args:
        totals: sum of the quantity in each unit.
        counts: number of its values in each unit.
        clusters: cluster of each unit; units of one cluster are drawn together.
    """
    _, index = np.unique(clusters, return_inverse=True)
    cluster_totals, cluster_counts = np.bincount(index, totals), np.bincount(index, counts)
    n = len(cluster_totals)
    if n < LEAST_CLUSTERS:
        return float("nan"), float("nan")
    if n < FEW_CLUSTERS:
        total, count = cluster_totals.sum(), cluster_counts.sum()
        without = (total - cluster_totals) / np.maximum(count - cluster_counts, 1e-12)
        alike = count**2 / np.square(cluster_counts).sum()  # as many clusters of one size know as much
        half = student.ppf(0.975, max(alike - 1, 1)) * np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
        return float(total / count - half), float(total / count + half)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    low, high = np.quantile(draws @ cluster_totals / np.maximum(draws @ cluster_counts, 1e-12), [0.025, 0.975])
    return float(low), float(high)


def bootstrap_difference(one: np.ndarray, other: np.ndarray, *, samples: int, seed: int) -> tuple[float, float]:
    """Interval of the difference of two means, of units that are drawn apart: percentiles with both drawn anew.

    With fewer than FEW_CLUSTERS on a side by Student's t with Welch's degrees of freedom; nan with fewer than
    LEAST_CLUSTERS.

    Args:
        one: a value for each unit; the other's mean is taken from theirs.
    Source: Welch 1947, the comparison of means of unequal variance.
    """
    sizes = np.array([len(one), len(other)])
    if sizes.min() < LEAST_CLUSTERS:
        return float("nan"), float("nan")
    if sizes.min() < FEW_CLUSTERS:
        doubt = np.array([one.var(ddof=1), other.var(ddof=1)]) / sizes
        total = doubt.sum()
        freedom = total**2 / (doubt**2 / (sizes - 1)).sum() if total > 0 else 1.0
        middle, half = one.mean() - other.mean(), student.ppf(0.975, freedom) * np.sqrt(total)
        return float(middle - half), float(middle + half)
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(one, len(one)).mean() - rng.choice(other, len(other)).mean() for _ in range(samples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
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
        The correlation, and both ends; nan where there are fewer than four pairs, or one of the two does not vary;
        the ends too where `samples` is 0.
    """
    from scipy.stats import rankdata

    if len(one) < 4 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan"), float("nan"), float("nan")
    value = float(_correlations(rankdata(one)[None], rankdata(other)[None])[0])
    generator, parts = np.random.default_rng(seed), []
    at_once = max(1, 4_000_000 // len(one))
    for start in range(0, samples, at_once):
        draws = generator.integers(len(one), size=(min(at_once, samples - start), len(one)))
        parts.append(_correlations(rankdata(one[draws], axis=1), rankdata(other[draws], axis=1)))
    drawn = np.concatenate(parts) if parts else np.empty(0)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return value, float(low), float(high)


class Correlation(NamedTuple):
    """A correlation with its 95 % interval, and how likely one as far from 0 is where there is none."""

    value: float
    low: float
    high: float
    p: float


def correlations(
    one: np.ndarray, other: np.ndarray, *, given: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, Correlation]:
    """Pearson's and Spearman's correlations of paired values, and the latter adjusted for a third value's rank.

    Intervals by bootstrap over the pairs; p from the normal distribution of Fisher's z.

    Args:
        given: what the third, `adjusted`, is adjusted for (a partial rank correlation).
    """
    from scipy.stats import norm, rankdata

    draws = np.random.default_rng(seed).integers(len(one), size=(samples, len(one)))
    draws = np.concatenate([np.arange(len(one))[None], draws])
    x, y, z = (rankdata(values[draws], axis=1) for values in (one, other, given))
    xy, xz, yz = _correlations(x, y), _correlations(x, z), _correlations(y, z)
    with np.errstate(invalid="ignore", divide="ignore"):
        adjusted = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    found = {}
    for name, drawn in {
        "pearson": _correlations(one[draws], other[draws]),
        "spearman": xy,
        "adjusted": adjusted,
    }.items():
        value, of_draws = float(drawn[0]), drawn[1:][np.isfinite(drawn[1:])]
        low, high = np.quantile(of_draws, [0.025, 0.975]) if len(of_draws) else (np.nan, np.nan)
        freedom = len(one) - (4 if name == "adjusted" else 3)
        distance = abs(np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))) * np.sqrt(max(freedom, 0))
        found[name] = Correlation(value, float(low), float(high), float(2 * norm.sf(distance)))
    return found


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each row; nan where one is the same throughout."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 0)
