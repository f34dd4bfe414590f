"""How far a feature has formed: are the activations at its later examples alike already?

    M_i(t) = mean similarity within A_i(t) - mean similarity within a random set at t

A_i(t) are the activations, at snapshot t, of the tokens on which feature i is greatest at the last snapshot.

Source: SAE-Track, arXiv 2412.17626 (progress of formation).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

PAIRS_AT_ONCE = 1 << 25


def mean_cosine(points: Float[Tensor, "*set point d_model"]) -> Float[Tensor, "*set"]:
    """Mean cosine between two different points of each set; zero vectors are at right angles to everything.

    (‖Σ û‖² - Σ ‖û‖²) / (k (k - 1)), which needs no pairs.

    Raises:
        ValueError: a set has one point.
    """
    k = _size(points.shape[-2])
    unit = torch.nn.functional.normalize(points.double(), dim=-1)
    return (unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))) / (k * (k - 1))


def mean_jaccard(codes: Float[Tensor, "point feature"]) -> float:
    """Mean over pairs of |both active| / |either active|; 0 where neither has an active feature.

    Raises:
        ValueError: there is one point.
    """
    k, active = _size(len(codes)), (codes > 0).double()
    both, count = active @ active.T, active.sum(1)
    either = count[:, None] + count - both
    return _off_diagonal_mean(both / either.clamp_min(1), k)


def mean_weighted_jaccard(codes: Float[Tensor, "point feature"]) -> float:
    """Mean over pairs of Σ min / Σ max of their codes; 0 where both are zero.

    Raises:
        ValueError: there is one point.
    """
    k = _size(len(codes))
    least = torch.empty(k, k, dtype=torch.float64)
    for first in range(0, k, rows := max(1, PAIRS_AT_ONCE // codes.numel())):
        least[first : first + rows] = torch.minimum(codes[first : first + rows, None], codes).sum(
            -1, dtype=torch.float64
        )
    size = codes.sum(1, dtype=torch.float64)
    most = size[:, None] + size - least
    return _off_diagonal_mean(torch.where(most > 0, least / most.clamp_min(1e-30), 0.0), k)


def _size(k: int) -> int:
    if k < 2:
        raise ValueError(f"similarity within a set takes two points at least, found {k}")
    return k


def _off_diagonal_mean(similarity: Tensor, k: int) -> float:
    return float((similarity.sum() - similarity.trace()) / (k * (k - 1)))


class RandomSet(NamedTuple):
    """Mean similarity within a random set, and its 95 % interval over points drawn anew."""

    mean: float
    low: float
    high: float


def random_set(points: Float[Tensor, "point d_model"], *, samples: int = 200, seed: int = 0) -> RandomSet:
    """Mean cosine within a random set of points, with a bootstrap over the points."""
    n, rng = len(points), np.random.default_rng(seed)
    unit = torch.nn.functional.normalize(points.double(), dim=-1)
    squares = unit.square().sum(1)
    weights = torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), size=samples)).double()
    # a point drawn twice is no pair of different points
    pairs = n * n - weights.square().sum(1)
    drawn = ((weights @ unit).square().sum(1) - weights.square() @ squares) / pairs
    low, high = np.quantile(drawn.numpy(), [0.025, 0.975])
    return RandomSet(float(mean_cosine(points)), float(low), float(high))


def same_token_share(token: Int[np.ndarray, "*set point"]) -> np.ndarray:
    """q = Σ n_v (n_v - 1) / (k (k - 1)): how often two different points of each set have the same token."""
    ordered = np.sort(token, axis=-1)
    k = ordered.shape[-1]
    # the number of equal pairs is the sum over points of how many equal ones stand before them
    same, run = np.zeros(ordered.shape[:-1]), np.zeros(ordered.shape[:-1])
    for place in range(1, k):
        run = np.where(ordered[..., place] == ordered[..., place - 1], run + 1, 0)
        same += run
    return 2 * same / (k * (k - 1))


def expected_at_start(share: np.ndarray, random_share: float, between_tokens: float) -> np.ndarray:
    """What M would be if an activation were its token's alone: (q - q_rand) (1 - s̄).

    Args:
        share: q of each feature's examples.
        random_share: q of the random set.
        between_tokens: s̄, mean similarity of different tokens.
    """
    return (share - random_share) * (1 - between_tokens)
