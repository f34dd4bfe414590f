"""Bootstrap intervals."""

import numpy as np


def bootstrap_mean(
    totals: np.ndarray, counts: np.ndarray, clusters: np.ndarray, *, samples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of Σ totals / Σ counts, clusters (such as documents) drawn with replacement.

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
