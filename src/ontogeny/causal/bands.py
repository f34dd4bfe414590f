"""Which of some snapshots a feature matters to, and how sure that is: RelIE with intervals, bands with probabilities.

Source of RelIE and of the bands' limits: Crosscoding Through Time, arXiv 2509.05291. Intervals, probabilities, the test
against no effect and the band for a change of sign are ours.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.sparse import csr_array

from ontogeny.causal.relie import relie
from ontogeny.features.levels import significant
from ontogeny.intervals import Z, cluster_draws

SPECIFIC, PRESENT, LEAST, MOST = 0.7, 0.3, 5, 0.99
UNDETERMINED, SIGN_CHANGE, SHARED, OTHER, UNBANDED = "undetermined", "sign change", "shared", "other", "unbanded"


class Bands(NamedTuple):
    """RelIE of some snapshots' effects.

    Attributes:
        share: of each snapshot; of two, the later one's alone [share, feature]; nan where no snapshot has an effect.
        low, high: 95 % interval by bootstrap over clusters of items; a mean effect that is drawn on the other side of
            zero counts as none, so that a share reaches 0 or 1 where an effect may be none.
        band: `only STEP`, `shared`, `STEP and STEP`, `other`, `sign change`, `unbanded` or `undetermined` [feature].
        probability: share of the bootstrap draws with this band; nan where undetermined or unbanded.
        p: chance of effects as far from zero if there were none [feature]; nan of absolute ones, which are not tested.
        total: Σ of |mean effect| over the snapshots, or of mean |effect| [feature].
    """

    share: Float[np.ndarray, "share feature"]
    low: Float[np.ndarray, "share feature"]
    high: Float[np.ndarray, "share feature"]
    band: np.ndarray
    probability: Float[np.ndarray, " feature"]
    p: Float[np.ndarray, " feature"]
    total: Float[np.ndarray, " feature"]


def bands(
    effects: Sequence[csr_array],
    steps: Sequence[int],
    clusters: Int[np.ndarray, " item"],
    *,
    samples: int = 1000,
    seed: int = 0,
    normalise: bool = False,
    absolute: bool = False,
) -> Bands:
    """RelIE of two or three snapshots with bands; of four and more there are no bands (`unbanded`).

    `undetermined` are the features whose effects do not differ from zero at a false discovery rate of 5 %, and those
    that have any on fewer than LEAST clusters, of which nothing could be said; `sign change` those whose effect is
    beyond zero at one snapshot and below it at another (95 %). Absolute effects cannot be zero by cancelling; with them
    the number of clusters alone decides.

    Args:
        effects: of the same items at each snapshot [item, feature].
        clusters: items of one cluster are drawn together.
        normalise: take effects as shares of their snapshot's Σ|mean effect| first.
        absolute: take shares of mean |effect| instead of |mean effect|, so that effects of both signs do not cancel.
    """
    means = np.stack([np.asarray(one.mean(axis=0)).ravel() for one in effects])
    scale = np.abs(means).sum(1, keepdims=True) if normalise else np.ones((len(means), 1))
    scale[scale == 0] = 1.0  # a snapshot without any effect
    means = means / scale
    sized = [abs(one) for one in effects] if absolute else effects
    sizes = np.stack([np.asarray(one.mean(axis=0)).ravel() for one in sized]) / scale
    share = _shares(sizes)
    errors = np.stack([cluster_error(one, clusters) for one in effects]) / scale
    p = combined(2 * stats.t.sf(np.abs(_ratio(means, errors)), max(len(np.unique(clusters)) - 1, 1)))
    active = (means != 0).any(0)
    tested = np.stack([clusters_of(one, clusters) for one in effects]).max(0) >= LEAST
    if absolute:
        found, p = tested & (means != 0).any(0), np.full(len(p), np.nan)
    else:
        found = np.zeros(len(p), dtype=bool)
        found[tested] = significant(p[tested])
    turned = np.logical_and((means > Z * errors).any(0), (means < -Z * errors).any(0))
    names, codes = band_names(steps), _codes(share)
    place = np.flatnonzero(active)
    dense = [one[:, place].toarray() for one in effects]
    draws = cluster_draws(clusters, samples=samples, seed=seed)
    low, high = np.full(share.shape, np.nan), np.full(share.shape, np.nan)
    same = np.full(len(p), np.nan)
    if len(place):
        drawn = _drawn(draws, dense)
        unit = np.maximum(np.abs(drawn).sum(2, keepdims=True), 1e-300) if normalise else 1.0
        aligned = np.maximum(drawn * np.sign(means[:, None, place]), 0)
        of = (_drawn(draws, [np.abs(one) for one in dense]) if absolute else aligned) / unit
        shares = np.stack([_shares(of[:, sample]) for sample in range(samples)])  # sample, share, feature
        ends = _interval(shares)
        low[:, place], high[:, place] = np.fmin(ends[0], share[:, place]), np.fmax(ends[1], share[:, place])
        codes_drawn = np.stack([_codes(one) for one in shares])
        same[place] = (codes_drawn == codes[place]).mean(0)
        both_signs = ((drawn > 0).any(0) & (drawn < 0).any(0)).mean(0)
        same[place] = np.where(turned[place], both_signs, same[place])
    band = np.asarray(names, dtype=object)[codes] if len(steps) <= 3 else np.full(len(p), UNBANDED, dtype=object)
    band[turned] = SIGN_CHANGE
    band[~found] = UNDETERMINED
    known = found & (band != UNBANDED)
    return Bands(share, low, high, band, np.where(known, same, np.nan), p, np.abs(sizes).sum(0))


def _drawn(draws: np.ndarray, dense: Sequence[np.ndarray]) -> Float[np.ndarray, "snapshot sample feature"]:
    """Means over items of each bootstrap draw."""
    return np.stack([draws @ one / draws.sum(1, keepdims=True) for one in dense])


def band_names(steps: Sequence[int]) -> list[str]:
    """What the numbers of bands mean: one for each snapshot alone, shared, pairs, other."""
    only = [f"only {step}" for step in steps]
    pairs = [f"{a} and {b}" for a, b in combinations(steps, 2)] if len(steps) == 3 else []
    return [*only, SHARED, *pairs, OTHER]


def _codes(share: Float[np.ndarray, "share feature"]) -> Int[np.ndarray, " feature"]:
    """The number of each feature's band."""
    if len(share) == 1:
        share = np.concatenate([1 - share, share])
        n, shared = 2, np.ones(share.shape[1], dtype=bool)
    else:
        n, shared = len(share), (share >= PRESENT).all(0)
    codes = np.full(share.shape[1], n + 1 + (3 if n == 3 else 0))
    if n > 3:
        return codes
    if n == 3:
        for number, (a, b) in enumerate(combinations(range(3), 2)):
            codes[(share[a] >= PRESENT) & (share[b] >= PRESENT)] = n + 1 + number
    codes[shared] = n
    for place in range(n):
        codes[share[place] > SPECIFIC] = place
    codes[np.isnan(share).any(0)] = n + 1 + (3 if n == 3 else 0)
    return codes


def cluster_error(effects: csr_array, clusters: Int[np.ndarray, " item"]) -> Float[np.ndarray, " feature"]:
    """Standard error of each feature's mean effect, items of one cluster not taken for independent.

    Source: the cluster-robust variance of a mean (Liang and Zeger 1986), by C / (C - 1).
    """
    sums, sizes = _by_cluster(effects, clusters), np.unique(clusters, return_counts=True)[1]
    residual = sums - sizes[:, None] * (sums.sum(0) / len(clusters))
    factor = len(sizes) / (len(sizes) - 1) if len(sizes) > 1 else np.inf
    return np.sqrt(factor * np.square(residual).sum(0)) / len(clusters)


def clusters_of(effects: csr_array, clusters: Int[np.ndarray, " item"]) -> Int[np.ndarray, " feature"]:
    """On how many clusters each feature has an effect."""
    return (_by_cluster(abs(effects), clusters) > 0).sum(0)


def _by_cluster(effects: csr_array, clusters: Int[np.ndarray, " item"]) -> Float[np.ndarray, "cluster feature"]:
    """Sums over the items of each cluster."""
    _, index = np.unique(clusters, return_inverse=True)
    items = np.arange(len(index))
    member = csr_array((np.ones(len(index)), (index, items)), shape=(int(index.max()) + 1, len(index)))
    return csr_array(member @ effects).toarray()


def combined(p: Float[np.ndarray, "snapshot feature"]) -> Float[np.ndarray, " feature"]:
    """One p of several that may depend on each other; those that are nan are left out, and 1 where all are.

    Source: Liu and Xie 2020, Cauchy combination test; p above .99 count as that, or one of 1 would outweigh all others.
    """
    known = ~np.isnan(p)
    at = np.where(known, np.tan((0.5 - np.clip(p, 1e-15, MOST)) * np.pi), 0.0)
    return np.where(known.any(0), stats.cauchy.sf(at.sum(0) / np.maximum(known.sum(0), 1)), 1.0)


def _shares(means: Float[np.ndarray, "snapshot feature"]) -> Float[np.ndarray, "share feature"]:
    return np.atleast_2d(relie(means))


def _ratio(means: np.ndarray, errors: np.ndarray) -> np.ndarray:
    return np.divide(means, errors, out=np.full(means.shape, np.nan), where=errors > 0)


def _interval(shares: Float[np.ndarray, "sample share feature"]) -> tuple[np.ndarray, np.ndarray]:
    """95 % of the draws in which a share is known; nan where it is known in none."""
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    unknown = np.isnan(shares)
    for row, feature in np.argwhere(unknown.any(0) & ~unknown.all(0)):
        known = shares[~unknown[:, row, feature], row, feature]
        low[row, feature], high[row, feature] = np.quantile(known, [0.025, 0.975])
    return low, high


def swapped(effects: Sequence[csr_array], clusters: Int[np.ndarray, " item"], *, seed: int) -> list[csr_array]:
    """The same effects with the snapshots in a random order for each cluster of items: a null of no change."""
    draw = np.random.default_rng(seed)
    _, index = np.unique(clusters, return_inverse=True)
    order = np.argsort(draw.random((int(index.max()) + 1, len(effects))), axis=1)[index]  # item, snapshot
    dense = np.stack([one.toarray() for one in effects])
    items = np.arange(dense.shape[1])
    return [csr_array(dense[order[:, place], items]) for place in range(len(effects))]
