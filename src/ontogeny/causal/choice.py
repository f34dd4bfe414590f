"""Which snapshots to compare: those between which both the task's accuracy and the activations shift most.

Source of the idea: Crosscoding Through Time, arXiv 2509.05291, which chose by eye.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Proposal(NamedTuple):
    """Snapshots to compare, as places in order, and what speaks for them.

    Attributes:
        accuracy: change of accuracy between neighbours.
        distance: 1 - CKA between neighbours.
    """

    places: tuple[int, ...]
    accuracy: tuple[float, ...]
    distance: tuple[float, ...]


def propose(
    accuracy: Float[np.ndarray, " snapshot"], cka: Float[np.ndarray, "snapshot snapshot"], *, size: int
) -> Proposal | None:
    """The `size` snapshots whose least shift from one to the next is greatest; None where there are too few snapshots.

    A shift is the geometric mean of |Δ accuracy| and 1 - CKA, each as a share of the greatest between any two
    snapshots, so that both have to move; 1 - CKA alone where the accuracy is the same throughout.
    """
    n = len(accuracy)
    if n < size:
        return None
    moved, far = np.abs(accuracy[:, None] - accuracy[None, :]), 1 - cka
    far_share = np.clip(far, 0, None) / max(far.max(), 1e-12)
    shift = np.sqrt(moved / moved.max() * far_share) if moved.max() > 0 else far_share
    best = max(combinations(range(n), size), key=lambda places: min(_between(shift, places)))
    changes = tuple(float(accuracy[b] - accuracy[a]) for a, b in pairwise(best))
    return Proposal(best, changes, tuple(_between(far, best)))


def _between(of: np.ndarray, places: Sequence[int]) -> list[float]:
    return [float(of[a, b]) for a, b in pairwise(places)]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Jaccard overlap of two sets of features; nan where both are empty."""
    union = len(np.union1d(one, other))
    return len(np.intersect1d(one, other)) / union if union else float("nan")


def expected_overlap(size: int, other_size: int, among: np.ndarray, other_among: np.ndarray) -> float:
    """Jaccard overlap, by its mean parts, of two sets of these sizes drawn at random, each among its own features."""
    if len(among) == 0 or len(other_among) == 0:
        return float("nan")
    shared = size * other_size * len(np.intersect1d(among, other_among)) / (len(among) * len(other_among))
    return shared / max(size + other_size - shared, 1e-12)
