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
DIRECTIONS, LEAST_DIRECTIONS = 1000, 50
"""Random directions, and how few of them still make a null."""
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


class Chances(NamedTuple):
    """How likely the leading tokens of a random direction are as alike as a feature's: p-values [feature].

    Attributes:
        directions: beyond what their number of repeated tokens foretells.
        same_tokens: beyond what the same tokens are in random contexts.
    """

    directions: np.ndarray
    same_tokens: np.ndarray


@torch.no_grad()
def against_random_directions(
    within: Float[np.ndarray, " feature"],
    leading: Int[np.ndarray, "feature rank"],
    x: Float[Tensor, "token d_model"],
    kinds: Kinds,
    *,
    context: Int[np.ndarray, " token"],
    seed: int,
) -> Chances:
    """Hold how alike leading tokens are against those of random directions, as many of each as the feature has.

    Random sets are no null, nor are the same tokens in random contexts: the leading tokens of any direction are more
    alike than both, for they lead. So random directions' leading tokens are held against both as a feature's are.
    Directions whose leading tokens are of one kind, or of few, are left out: they would not be called concepts either.
    How alike the rest are goes mostly by how often a token comes again among them; what that foretells, by least
    squares over the directions, is taken off. Some directions lie on what is a concept, so the null is a normal
    distribution with the median and the median absolute deviation of all, which those few do not move.

    Args:
        within: mean cosine within each feature's leading tokens; nan for none.
        leading: those tokens, -1 for none.
    """
    along = _leading_along(_random_directions(x, DIRECTIONS, seed), kinds.sequence, context, ranks=leading.shape[1])
    along = along[level_of_kinds(composition(along, kinds)) == ""]
    points, found = (leading >= 0).sum(1), Chances(np.ones(len(within)), np.ones(len(within)))
    if len(along) < LEAST_DIRECTIONS:
        return found
    contexts = RandomContexts(x, kinds.token)
    for number in np.unique(points[np.isfinite(within)]):
        own, null = np.flatnonzero((points == number) & np.isfinite(within)), along[:, :number]
        leads, alike = leading[own, :number], set_cosines(x, null)
        same, same_own = (_same_pairs(kinds.token[one]) for one in (null, leads))
        slope = np.polyfit(same, alike, 1)[0] if np.ptp(same) > 0 else 0.0
        found.directions[own] = _robust_p(within[own] - slope * same_own, alike - slope * same)
        found.same_tokens[own] = _robust_p(within[own] - contexts.cosines(leads), alike - contexts.cosines(null))
    return found


def _robust_p(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided, of a normal distribution with the null's median and median absolute deviation."""
    middle = np.median(null)
    spread = np.median(np.abs(null - middle)) / norm.ppf(0.75)
    return norm.sf((values - middle) / np.maximum(spread, 1e-12))


class RandomContexts:
    """How alike tokens of given kinds are, whatever contexts they stand in.

    Args:
        x: activations [token, d_model].
        kind: of each token [token].
    """

    def __init__(self, x: Float[Tensor, "token d_model"], kind: Int[np.ndarray, " token"]) -> None:
        self.kind, self.counts = kind, np.bincount(kind)
        sums = torch.zeros(len(self.counts), x.shape[1])
        sums.index_add_(0, torch.from_numpy(kind), torch.nn.functional.normalize(x, dim=1))
        self.means = sums / torch.from_numpy(self.counts).clamp_min(1)[:, None]

    def cosines(self, tokens: Int[np.ndarray, "set rank"]) -> Float[np.ndarray, " set"]:
        """Expected mean cosine over the pairs of each set, its tokens drawn anew among their kinds, none twice."""
        kinds, n = self.kind[tokens], tokens.shape[1]
        means = self.means[torch.from_numpy(kinds)]
        square = means.square().sum(2)
        pairs = means.sum(1).square().sum(1) - square.sum(1)
        counts = torch.from_numpy(self.counts[kinds]).float()
        # of one kind no token pairs with itself
        closer = (counts * square - 1) / (counts - 1).clamp_min(1) - square
        others = torch.from_numpy((kinds[:, :, None] == kinds[:, None]).sum(2) - 1)
        return ((pairs + (others * closer).sum(1)) / max(n * (n - 1), 1)).numpy()


def _random_directions(x: Float[Tensor, "token d_model"], number: int, seed: int) -> Float[Tensor, "number token"]:
    """Where tokens lie along random directions, their mean at 0."""
    directions = torch.randn(x.shape[1], number, generator=torch.Generator().manual_seed(seed))
    return directions.T @ (x - x.mean(0)).T


def _same_pairs(kind: Int[np.ndarray, "set rank"]) -> Float[np.ndarray, " set"]:
    """Share of the pairs within each set that are of one kind."""
    n = kind.shape[1]
    return ((kind[:, :, None] == kind[:, None]).sum((1, 2)) - n) / max(n * (n - 1), 1)


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
    tested = known & (of_kinds == "")
    passed = np.zeros(len(p), dtype=bool)
    passed[tested] = significant(p[tested])
    return np.where(tested, np.where(passed, "concept", "noise"), of_kinds)
