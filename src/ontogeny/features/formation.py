"""How far a feature has formed: are the activations at its later examples alike already?

    M_i(t) = mean similarity within A_i(t) - mean similarity within a random set at t

A_i(t) are the activations, at snapshot t, of the tokens on which feature i is greatest at the last snapshot.

Source: SAE-Track, arXiv 2412.17626 (progress of formation).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

POINTS_AT_ONCE = 1 << 23


def mean_cosine(points: Float[Tensor, "*set point d_model"]) -> Float[Tensor, "*set"]:
    """Mean cosine between two different points of each set; zero vectors are at right angles to everything.

    (‖Σ û‖² - Σ ‖û‖²) / (k (k - 1)), which needs no pairs.

    Raises:
        ValueError: a set has one point.
    """
    k = _size(points.shape[-2])
    unit = torch.nn.functional.normalize(points.double(), dim=-1)
    return (unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))) / (k * (k - 1))


def set_cosines(x: Float[Tensor, "token d_model"], sets: Int[np.ndarray, "set rank"]) -> Float[np.ndarray, " set"]:
    """Mean cosine within sets of tokens; -1 stands for none, nan for a set of fewer than two."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    found = []
    for block in torch.from_numpy(sets).split(max(1, POINTS_AT_ONCE // (sets.shape[1] * x.shape[1]))):
        points = unit[block.clamp_min(0)] * (block >= 0)[..., None]
        sizes = (block >= 0).sum(1).double()
        total = points.sum(1).double().square().sum(-1) - points.double().square().sum((-2, -1))
        found.append((total / (sizes * (sizes - 1))).masked_fill(sizes < 2, torch.nan))
    return torch.cat(found).numpy()


class Pairs(NamedTuple):
    """Cosines within sets, pairs of one token apart from pairs of two; nan where there is no such pair.

    The mean within a set is share · same + (1 - share) · other.
    """

    share: Float[np.ndarray, " set"]
    """q, the share of a set's pairs that are of one token."""
    same: Float[np.ndarray, " set"]
    """Their mean cosine."""
    other: Float[np.ndarray, " set"]
    """Mean cosine of pairs of two tokens."""


def cosines_by_token(
    x: Float[Tensor, "token d_model"], sets: Int[np.ndarray, "set rank"], token: Int[np.ndarray, " token"]
) -> Pairs:
    """Mean cosines within sets of tokens by whether two points are of one token; -1 stands for none."""
    unit, kinds = torch.nn.functional.normalize(x, dim=-1), torch.from_numpy(token)
    apart = ~torch.eye(sets.shape[1], dtype=torch.bool)
    found = []
    for block in torch.from_numpy(sets).split(max(1, POINTS_AT_ONCE // (sets.shape[1] * x.shape[1]))):
        there, kind, points = block >= 0, kinds[block.clamp_min(0)], unit[block.clamp_min(0)]
        pair = there[:, :, None] & there[:, None, :] & apart
        same = pair & (kind[:, :, None] == kind[:, None, :])
        cosine = (points @ points.mT).double()
        found.append(
            torch.stack([same.sum((1, 2)) / pair.sum((1, 2)), *(_mean(cosine, at) for at in (same, pair & ~same))])
        )
    return Pairs(*torch.cat(found, dim=1).numpy())


def _mean(values: Float[Tensor, "set point point"], at: Bool[Tensor, "set point point"]) -> Float[Tensor, " set"]:
    return (values * at).sum((1, 2)) / at.sum((1, 2))


def mean_jaccard(codes: Float[Tensor, "*set point feature"]) -> Float[Tensor, "*set"]:
    """Mean over pairs of |both active| / |either active|; 0 where neither has an active feature.

    Raises:
        ValueError: there is one point.
    """
    k, active = _size(codes.shape[-2]), (codes > 0).double()
    both, count = active @ active.mT, active.sum(-1)
    either = count[..., :, None] + count[..., None, :] - both
    return _off_diagonal_mean(both / either.clamp_min(1), k)


def mean_weighted_jaccard(codes: Float[Tensor, "*set point feature"]) -> Float[Tensor, "*set"]:
    """Mean over pairs of Σ min / Σ max of their codes; 0 where both are zero.

    Raises:
        ValueError: there is one point.
    """
    k, codes = _size(codes.shape[-2]), codes.double()
    size = codes.sum(-1)
    both, apart = size[..., :, None] + size[..., None, :], torch.cdist(codes, codes, p=1)
    least, most = (both - apart) / 2, (both + apart) / 2
    return _off_diagonal_mean(torch.where(most > 0, least / most.clamp_min(1e-30), 0.0), k)


def _size(k: int) -> int:
    if k < 2:
        raise ValueError(f"similarity within a set takes two points at least, found {k}")
    return k


def _off_diagonal_mean(similarity: Float[Tensor, "*set point point"], k: int) -> Float[Tensor, "*set"]:
    total = similarity.sum((-2, -1)) - similarity.diagonal(dim1=-2, dim2=-1).sum(-1)
    return total / (k * (k - 1))


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


def same_token_share(token: Int[np.ndarray, " point"]) -> float:
    """q = Σ n_v (n_v - 1) / (k (k - 1)): how often two different points of a set have the same token."""
    counts, k = np.unique_counts(token).counts, len(token)
    return float((counts * (counts - 1)).sum() / (k * (k - 1)))


def between_tokens(points: Float[Tensor, "point d_model"], token: Int[np.ndarray, " point"]) -> float:
    """s̄: mean cosine between two points of different tokens."""
    unit = torch.nn.functional.normalize(points.double(), dim=-1)
    kind = torch.from_numpy(np.unique(token, return_inverse=True)[1].reshape(-1))
    sums = torch.zeros(int(kind.max()) + 1, unit.shape[1], dtype=unit.dtype).index_add_(0, kind, unit)
    counts = torch.bincount(kind).double()
    apart = unit.sum(0).square().sum() - sums.square().sum()
    return float(apart / (len(unit) ** 2 - counts.square().sum()))


def participation_ratio(x: Float[Tensor, "token d_model"]) -> float:
    """(Σλ)² / Σλ² of the covariance's eigenvalues λ: in how many directions activations vary."""
    covariance = torch.cov(x.double().T)
    return float(covariance.trace().square() / covariance.square().sum())


def expected_at_start(share: np.ndarray, random_share: float, between_tokens: float) -> np.ndarray:
    """What M would be if an activation were its token's alone: (q - q_rand) (1 - s̄).

    Args:
        share: q of each feature's examples.
        random_share: q of the random set.
        between_tokens: s̄, mean similarity of different tokens.
    """
    return (share - random_share) * (1 - between_tokens)
