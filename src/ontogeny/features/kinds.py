"""Kinds of feature by rule, from their codes on text: what a code follows from, the current token or an earlier one.

Explained variance is that of a one-way analysis of variance with an unbiased variance within groups: groups of one
token are left out, and a group of n counts n / (n - 1), so that many small groups explain nothing by chance.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.sparse import csr_array

PREVIOUS, IN_CONTEXT = 0.3, 0.5
"""Least scores of a previous-token and of a context-sensitive feature."""
ADDED = 0.2
"""Variance that the pair of both tokens may explain beyond the previous one alone: with more it is a bigram's."""
SHUFFLES = 20


class Explained(NamedTuple):
    """Variance of each feature's code that groups of tokens explain.

    Attributes:
        current, previous, pair, position: by the token, the one before, both, and the place in the context [feature].
    """

    current: np.ndarray
    previous: np.ndarray
    pair: np.ndarray
    position: np.ndarray


def explained_by(codes: csr_array, group: Int[np.ndarray, " token"]) -> Float[np.ndarray, " feature"]:
    """Share of each feature's variance over tokens that lies between groups; nan where the code does not vary.

    Args:
        codes: sparse [token, feature].
        group: a number for each token.
    """
    counts = np.bincount(group)
    counted = np.flatnonzero(counts[group] > 1)
    n = len(counted)
    if n < 2:
        return np.full(len(codes.sum(axis=0)), np.nan)
    _, dense = np.unique(group[counted], return_inverse=True)
    size = np.bincount(dense)
    member = csr_array((np.ones(n), (dense, np.arange(n))), shape=(len(size), n))
    rows = csr_array(codes[counted], dtype=np.float64)
    sums, squares = csr_array(member @ rows), csr_array(member @ rows.multiply(rows))
    inverse = csr_array(sums.multiply(sums)).multiply(1 / size[:, None])
    within = csr_array(squares - csr_array(inverse)).multiply((size / (size - 1))[:, None])
    within = np.asarray(csr_array(within).sum(axis=0)).ravel()
    mean = np.asarray(rows.sum(axis=0)).ravel() / n
    overall = (np.asarray(rows.multiply(rows).sum(axis=0)).ravel() / n - mean**2) * n / (n - 1) * n
    return np.divide(overall - within, overall, out=np.full(len(mean), np.nan), where=overall > 1e-12 * n)


def explained(
    codes: csr_array,
    token: Int[np.ndarray, " token"],
    previous: Int[np.ndarray, " token"],
    position: Int[np.ndarray, " token"],
) -> Explained:
    """What each of four groupings explains."""
    pair = np.unique(np.stack([previous, token]), axis=1, return_inverse=True)[1].reshape(-1)
    return Explained(*(explained_by(codes, group) for group in (token, previous, pair, position)))


def previous_token_score(found: Explained) -> Float[np.ndarray, " feature"]:
    """Variance that the token before explains, less what the current one does; -1 where the pair of both explains much
    more, which is a bigram."""
    score = found.previous - found.current
    return np.where(found.pair - found.previous > ADDED, -1.0, np.nan_to_num(score, nan=-1.0))


def context_score(found: Explained) -> Float[np.ndarray, " feature"]:
    """Variance within the same token that neither the token before nor the position explains, over all variance."""
    known = np.nan_to_num(np.stack([found.current, found.previous, found.pair, found.position]), nan=1.0)
    return 1 - known.max(0)


def beyond_shuffled(
    codes: csr_array,
    token: Int[np.ndarray, " token"],
    previous: Int[np.ndarray, " token"],
    *,
    seed: int,
) -> Float[np.ndarray, " feature"]:
    """How likely previous tokens, shuffled among the tokens that are the same now, explain as much: p-values."""
    own = explained_by(codes, previous)
    draw = np.random.default_rng(seed)
    null = np.empty((SHUFFLES, len(own)))
    order = np.argsort(token, kind="stable")
    for number in range(SHUFFLES):
        mixed = np.lexsort((draw.random(len(token)), token))
        shuffled = np.empty_like(previous)
        shuffled[order] = previous[mixed]
        null[number] = explained_by(codes, shuffled)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (own - null.mean(0)) / null.std(0, ddof=1)
    # mean and deviation are those of a few draws
    p = stats.t.sf(z / np.sqrt(1 + 1 / SHUFFLES), SHUFFLES - 1)
    return np.where(np.isfinite(z), p, 1.0)
