"""What a feature's leading tokens have in common: a token, a few words, more than chance has, or nothing.

Source: SAE-Track, arXiv 2412.17626 (token-level and concept-level features), where examples are read by hand.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor

from ontogeny.features.formation import set_cosines
from ontogeny.features.sample import leading_tokens

LEVELS = ("token", "weak_concept", "concept", "noise")
SAME = 0.8
"""Share of the leading tokens that are of one kind."""
FEW = 3.0
"""Effective number of different words up to which a set is a weak concept."""
DIRECTIONS, LEAST_DIRECTIONS, DRAWS = 1000, 50, 64
"""Random directions, how few of them still make a null, and draws of the same tokens in other contexts."""
FALSE_DISCOVERIES = 0.05


class Composition(NamedTuple):
    """Of the leading tokens of each feature [feature].

    Attributes:
        token, word, stem: share of the most frequent one.
        effective: exp of the entropy of tokens or words, whichever is less.
    """

    token: np.ndarray
    word: np.ndarray
    stem: np.ndarray
    effective: np.ndarray


class Kinds(NamedTuple):
    """What each of the sampled tokens is: its token, word, stem and sequence, as numbers [token]."""

    token: np.ndarray
    word: np.ndarray
    stem: np.ndarray
    sequence: np.ndarray


def composition(leading: Int[np.ndarray, "feature rank"], kinds: Kinds) -> Composition:
    """What each feature's leading tokens are, as tokens, as words and as stems; nan where there is none."""
    of = (_shares(np.where(leading >= 0, kind[leading], -1)) for kind in (kinds.token, kinds.word, kinds.stem))
    shares, numbers = zip(*of, strict=True)
    return Composition(*shares, effective=np.minimum(numbers[0], numbers[1]))


def _shares(kinds: Int[np.ndarray, "feature rank"]) -> tuple[np.ndarray, np.ndarray]:
    """Share of the most frequent kind, and effective number of kinds; entries of -1 do not count."""
    counted = kinds >= 0
    same = (kinds[:, :, None] == kinds[:, None]) & counted[:, :, None] & counted[:, None]
    size = counted.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(counted, same.sum(2) / size[:, None], np.nan)
        effective = np.exp(-np.nansum(np.where(counted, np.log(share), 0) / size[:, None], axis=1))
        return np.where(size > 0, np.nan_to_num(share).max(1), np.nan), np.where(size > 0, effective, np.nan)


@torch.no_grad()
def beats_random_directions(
    within: Float[np.ndarray, " feature"],
    points: Int[np.ndarray, " feature"],
    x: Float[Tensor, "token d_model"],
    kinds: Kinds,
    *,
    context: Int[np.ndarray, " token"],
    ranks: int,
    seed: int,
) -> Float[np.ndarray, " feature"]:
    """How likely the leading tokens of a random direction are as alike: p-values.

    Of each direction as many leading tokens are taken as the feature has. Random sets alone are no null: the leading
    tokens of any direction are more alike than those. Directions whose leading tokens are of one kind, or of few, are
    left out: they would not be called concepts either. Some of the rest lie on what is a concept, so the null is a
    normal distribution with the median and the median absolute deviation of all, which those few do not move.

    Args:
        within: mean cosine within each feature's leading tokens; nan for none.
        points: their number.
    """
    centred = x - x.mean(0)
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=draw)
    leading = _leading_along(directions.T @ centred.T, kinds.sequence, context, ranks=ranks)
    of_many = level_of_kinds(composition(leading, kinds)) == ""
    p = np.ones(len(within))
    for number in np.unique(points[np.isfinite(within)]):
        null = set_cosines(x, leading[of_many, :number])
        if len(null) < LEAST_DIRECTIONS:
            continue
        middle = np.median(null)
        spread = np.median(np.abs(null - middle)) / norm.ppf(0.75)
        own = np.flatnonzero((points == number) & np.isfinite(within))
        p[own] = norm.sf((within[own] - middle) / spread)
    return p


def _leading_along(
    projected: Float[Tensor, "direction token"],
    sequence: Int[np.ndarray, " token"],
    context: Int[np.ndarray, " token"],
    *,
    ranks: int,
) -> Int[np.ndarray, "direction rank"]:
    """The leading tokens of each direction, as `leading_tokens` takes them, among its first 64 times as many.

    Few tokens go away as repetitions, so fewer are looked at first.
    """
    n_tokens = projected.shape[1]
    leading = np.full((len(projected), ranks), -1, dtype=np.int64)
    left = np.arange(len(projected))
    for many in (4 * ranks, max(64 * ranks, 2000)):
        size = min(n_tokens, many)
        values, tokens = projected[left].topk(size, dim=1)
        places = torch.stack([torch.arange(len(left))[:, None].expand(-1, size).flatten(), tokens.flatten()])
        codes = torch.sparse_coo_tensor(
            places, (values - values.min() + 1).flatten(), (len(left), n_tokens), check_invariants=False
        ).coalesce()
        leading[left] = leading_tokens(codes, sequence=sequence, context=context, ranks=ranks)
        left = left[leading[left, -1] < 0]
        if not len(left):
            break
    return leading


@torch.no_grad()
def beats_same_tokens(
    within: Float[np.ndarray, " feature"],
    leading: Int[np.ndarray, "feature rank"],
    x: Float[Tensor, "token d_model"],
    token: Int[np.ndarray, " token"],
    *,
    seed: int,
) -> Float[np.ndarray, " feature"]:
    """How likely the same tokens in other contexts are as alike: p-values, from the mean and spread of a few draws."""
    rng = np.random.default_rng(seed)
    order = np.argsort(token, kind="stable")
    counts = np.bincount(token)
    starts = counts.cumsum() - counts
    kind = token[leading]
    null = np.empty((DRAWS, len(leading)))
    for number in range(DRAWS):
        drawn = order[starts[kind] + rng.integers(0, counts[kind])]
        null[number] = set_cosines(x, np.where(leading >= 0, drawn, -1))
    spread = null.std(0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (within - null.mean(0)) / spread
    return np.where(np.isfinite(z), norm.sf(z), 1.0)


def significant(p: Float[np.ndarray, " feature"], level: float = FALSE_DISCOVERIES) -> np.ndarray:
    """Which are below the level at which so many false ones are among them (Benjamini and Hochberg 1995)."""
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= level * np.arange(1, len(p) + 1) / max(len(p), 1))
    return p <= (ordered[passed[-1]] if len(passed) else -1.0)


def level_of_kinds(found: Composition) -> np.ndarray:
    """`token` or `weak_concept` where leading tokens are of one kind or of few, else '' [feature]."""
    level = np.full(len(found.token), "", dtype="<U12")
    level[(found.stem >= SAME) | (found.effective <= FEW)] = "weak_concept"
    level[(found.token >= SAME) | (found.word >= SAME)] = "token"
    return level


def levels(found: Composition, p: Float[np.ndarray, " feature"]) -> np.ndarray:
    """The level of each feature, '' where it has no leading token.

    Args:
        p: the greater of the p-values against both nulls.
    """
    known, of_kinds = np.isfinite(found.token), level_of_kinds(found)
    passed = np.where(significant(np.where(known, p, 1.0)), "concept", "noise")
    return np.where(known, np.where(of_kinds == "", passed, of_kinds), "")
