"""Unigram and interpolated Kneser-Ney bigram models over token ids, fitted on one packed corpus, measured on another.

A plug-in bigram entropy of a small corpus lies far below the held-out cross-entropy, so the models are smoothed and
always measured on held-out text. Source: Kneser and Ney 1995; Chen and Goodman 1999, interpolated form, one discount.
"""

from dataclasses import dataclass

import numpy as np

from ontogeny.corpus.pack import Corpus

ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class NGrams:
    """Next-token models, given the current token.

    Attributes:
        unigram: p(v) [vocabulary], add-one smoothed.
        continuation: lower order of the bigram model [vocabulary].
        backoff: weight of the lower order after each token u [vocabulary].
        starts: place in `following` where the successors of u begin [vocabulary + 1].
        following: successors v, grouped by u, ascending.
        discounted: (count(u, v) - discount) / count(u, ·), beside `following`.
    """

    unigram: np.ndarray
    continuation: np.ndarray
    backoff: np.ndarray
    starts: np.ndarray
    following: np.ndarray
    discounted: np.ndarray

    def bigram(self, current: np.ndarray, following: np.ndarray) -> np.ndarray:
        """p(following | current) of some pairs [pair]."""
        probability = self.backoff[current] * self.continuation[following]
        vocabulary = len(self.unigram)
        keys = np.repeat(np.arange(vocabulary), np.diff(self.starts)) * vocabulary + self.following
        wanted = current.astype(np.int64) * vocabulary + following
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return probability + np.where(keys[place] == wanted, self.discounted[place], 0.0)

    def bigram_rows(self, current: np.ndarray) -> np.ndarray:
        """p(· | current) [token, vocabulary], float32; ask for few rows at a time."""
        rows = (self.backoff[current, None] * self.continuation).astype(np.float32)
        for row, token in zip(rows, current, strict=True):
            own = slice(self.starts[token], self.starts[token + 1])
            row[self.following[own]] += self.discounted[own]
        return rows


def fit_ngrams(corpus: Corpus) -> NGrams:
    """Fit both models on a packed corpus, pairs within a context only."""
    vocabulary = corpus.manifest["vocab_size"]
    unigram = np.zeros(vocabulary, dtype=np.int64)
    pairs, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for first in range(0, len(corpus), ROWS_AT_ONCE):
        current, following = token_pairs(corpus, np.arange(first, min(first + ROWS_AT_ONCE, len(corpus))))
        unigram += np.bincount(following, minlength=vocabulary)
        new, new_counts = np.unique(current * vocabulary + following, return_counts=True)
        merged, place = np.unique(np.concatenate([pairs, new]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, new_counts]), len(merged)).astype(np.int64)
        pairs = merged
    current, following = pairs // vocabulary, pairs % vocabulary
    discount = _discount(counts)
    after = np.bincount(current, counts, vocabulary)
    kinds_after = np.bincount(current, minlength=vocabulary)
    kinds_before = np.bincount(following, minlength=vocabulary)
    lower_discount = _discount(kinds_before[kinds_before > 0])
    spread = lower_discount * (kinds_before > 0).sum() / kinds_before.sum()
    continuation = np.maximum(kinds_before - lower_discount, 0) / kinds_before.sum() + spread / vocabulary
    backoff = np.divide(discount * kinds_after, after, out=np.ones(vocabulary), where=after > 0)
    return NGrams(
        unigram=(unigram + 1) / (unigram.sum() + vocabulary),
        continuation=continuation,
        backoff=backoff,
        starts=np.searchsorted(current, np.arange(vocabulary + 1)),
        following=following,
        discounted=(counts - discount) / after[current],
    )


def _discount(counts: np.ndarray) -> float:
    """n1 / (n1 + 2 n2), the usual estimate; kept inside (0, 1) where a small corpus has no singletons or no pairs."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return min(max(once / max(once + 2 * twice, 1), 0.1), 0.9)


def token_pairs(corpus: Corpus, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(current, following) token ids of every predicted token of some sequences, in order, padding left out."""
    tokens = corpus.tokens[sequences].astype(np.int64)
    inside = np.arange(1, corpus.sequence_length) < corpus.lengths[sequences][:, None]
    return tokens[:, :-1][inside], tokens[:, 1:][inside]
