"""Does it matter? What becomes of a task when its leading features are removed, or all others are.

Features are ranked by their mean effect on one half of the items, those that help most first, and tried on the other
half. Controls are as many features drawn at random among those that are active on the task, and as many that are
active on about as many items. The leading features of other tasks say whether a task has any of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import beta

from ontogeny.causal.inputs import ItemCodes
from ontogeny.causal.site import Site
from ontogeny.intervals import cluster_draws

CONDITIONS = ("leading", "random", "matched")
ELSEWHERE = 20
"""Leading features of a task that are tried on the others."""
MATCHED_AMONG = 10
"""A matched feature is drawn among so many of the nearest in number of items."""


def rank(mean_effect: Float[np.ndarray, " feature"]) -> Int[np.ndarray, " few"]:
    """Features that help, those that help most first."""
    order = np.argsort(-mean_effect, kind="stable")
    return order[mean_effect[order] > 0]


def ablate(
    site: Site,
    codes: ItemCodes,
    ranked: Int[np.ndarray, " few"],
    *,
    leading: Sequence[int],
    draws: int,
    samples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Rows of the table `ablation`: margin and accuracy for each condition, size and way.

    Args:
        site: with the items to try on.
        codes: of the same items.
        ranked: of `rank`, from other items.
        leading: how many features to remove or to keep; more than there are means all, once.
        draws: random sets of each size; their items' margins are averaged before intervals are taken.
    """
    counts = codes.counts(site.snapshot)
    active = np.flatnonzero(counts)
    ranked = ranked[np.isin(ranked, active)]
    draw = np.random.default_rng(seed)
    weights = cluster_draws(site.task.clusters, samples=samples, seed=seed)
    clean = site.clean_margins()
    yield {"condition": "clean", "way": "none", "k": 0, **figures(clean[None], site.task.clusters, weights)}
    sizes = sorted({min(k, len(ranked)) for k in leading} - {0}) if len(ranked) else []
    for k in sizes:
        sets = {
            "leading": [ranked[:k]],
            "random": [draw.choice(active, min(k, len(active)), replace=False) for _ in range(draws)],
            "matched": [matched(ranked[:k], counts, draw) for _ in range(draws)],
        }
        for condition in CONDITIONS:
            if len(sets[condition][0]) < k:  # too few are left to match
                continue
            for way in ("removed", "kept"):
                margins = [site.margins_with(codes, _kept(chosen, len(counts), way)) for chosen in sets[condition]]
                row = {"condition": condition, "way": way, "k": k}
                yield row | figures(np.stack(margins), site.task.clusters, weights)
    nothing = site.margins_with(codes, torch.zeros(len(counts)))
    everything = {"condition": "all", "way": "removed", "k": len(active)}
    yield everything | figures(nothing[None], site.task.clusters, weights)


def ablate_elsewhere(
    site: Site,
    codes: ItemCodes,
    others: Mapping[str, Int[np.ndarray, " few"]],
    *,
    samples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """More rows of the table `ablation`: what the leading features of other tasks do for this one.

    Args:
        site, codes: as `ablate` is given.
        others: of `rank`, by the task's name.
    """
    weights = cluster_draws(site.task.clusters, samples=samples, seed=seed)
    n_features = len(codes.counts(site.snapshot))
    for name, ranked in others.items():
        chosen = ranked[:ELSEWHERE]
        for way in ("removed", "kept"):
            margins = site.margins_with(codes, _kept(chosen, n_features, way))
            row = {"condition": "other task", "ranked_on": name, "way": way, "k": len(chosen)}
            yield row | figures(margins[None], site.task.clusters, weights)


def _kept(chosen: np.ndarray, n_features: int, way: str) -> torch.Tensor:
    """A factor for each feature: the chosen ones alone are kept, or removed."""
    factor = torch.full((n_features,), float(way == "removed"))
    factor[torch.from_numpy(chosen)] = float(way == "kept")
    return factor


def matched(
    chosen: Int[np.ndarray, " few"], counts: Int[np.ndarray, " feature"], draw: np.random.Generator
) -> np.ndarray:
    """Other features, each active on about as many items as one of the chosen; none twice, as long as there are any."""
    left = np.setdiff1d(np.flatnonzero(counts), chosen)
    found = []
    for feature in chosen[: len(left)].tolist():
        away = np.abs(np.log(counts[left] / counts[feature]))
        taken = draw.choice(np.argsort(away, kind="stable")[:MATCHED_AMONG])
        found.append(left[taken])
        left = np.delete(left, taken)
    return np.asarray(found, dtype=np.int64)


def figures(
    margins: Float[np.ndarray, "draw item"],
    clusters: Int[np.ndarray, " item"],
    weights: Float[np.ndarray, "sample item"],
) -> dict[str, Any]:
    """Mean margin and accuracy with 95 % intervals over clusters of items.

    The accuracy's is at least that of as many coins as there are clusters (Clopper and Pearson 1934): where all
    clusters are alike, drawing them anew knows no doubt.
    """
    found: dict[str, Any] = {"items": margins.shape[1]}
    for name, values in (("margin", margins.mean(0)), ("accuracy", right(margins).mean(0))):
        low, high = np.quantile(weights @ values / weights.sum(1), [0.025, 0.975])
        if name == "accuracy":
            units, successes = len(np.unique(clusters)), values.mean() * len(np.unique(clusters))
            low = min(low, np.nan_to_num(beta.ppf(0.025, successes, units - successes + 1)))
            high = max(high, np.nan_to_num(beta.ppf(0.975, successes + 1, units - successes), nan=1.0))
        found |= {name: float(values.mean()), f"{name}_ci_low": float(low), f"{name}_ci_high": float(high)}
    return found


def right(margins: np.ndarray) -> np.ndarray:
    """1 where the good token is ahead, 0 where the bad one is, a half where they are even."""
    return (margins > 0) + 0.5 * (margins == 0)


def features_for_half(site: Site, codes: ItemCodes, ranked: Int[np.ndarray, " few"], clean: float) -> int | None:
    """The least number of leading features tried without which half of the mean margin is lost; None where all are too
    few.

    What is left does not fall with every feature, so numbers are tried upwards: all up to 16, then each an eighth more,
    and between the last two all again.
    """
    counts = codes.counts(site.snapshot)
    ranked = ranked[(counts > 0)[ranked]]

    def is_lost(k: int) -> bool:
        left = site.margins_with(codes, _kept(ranked[:k], len(counts), "removed")).mean()
        return bool(left <= clean / 2)

    low, high = 0, 1
    while high <= len(ranked):
        if is_lost(high):
            return next(k for k in range(low + 1, high + 1) if k == high or is_lost(k))
        low, high = high, high + max(1, min(high // 8, len(ranked) - high))
    return None
