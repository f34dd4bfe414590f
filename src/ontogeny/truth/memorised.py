"""Do a feature's examples stand in the text more than once?"""

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus

CONTEXT = 8
"""Tokens, the active one the last, that have to be the same."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def repeated_contexts(corpus: Corpus, *, context: int = CONTEXT) -> np.ndarray:
    """Whether the last `context` tokens at each place stand in the corpus elsewhere too [sequence, position].

    False where a sequence has fewer tokens before. By 64-bit hashes, so that a collision is next to impossible.
    """
    tokens = corpus.tokens.astype(np.uint64) + np.uint64(1)
    hashes = np.zeros_like(tokens)
    with np.errstate(over="ignore"):
        for back in range(context):
            shifted = np.zeros_like(tokens)
            shifted[:, back:] = tokens[:, : tokens.shape[1] - back]
            hashes = (hashes ^ (shifted + _FACTOR + (hashes << np.uint64(6)))) * _FACTOR
            hashes ^= hashes >> np.uint64(29)
    position = np.arange(tokens.shape[1])
    full = (position >= context) & (position < corpus.lengths[:, None])
    _, inverse, counts = np.unique(hashes[full], return_inverse=True, return_counts=True)
    repeated = np.zeros(tokens.shape, dtype=bool)
    repeated[full] = counts[inverse] > 1
    return repeated


def memorised_share(examples: pl.DataFrame, corpus: Corpus) -> pl.DataFrame:
    """Share of each feature's top examples whose last tokens stand in the corpus more than once: feature, memorised.

    Args:
        examples: the table `examples`; ranks by the code are used.
    """
    repeated = repeated_contexts(corpus)
    top = examples.filter(pl.col("kind") == "top", pl.col("position") >= CONTEXT)
    seen = repeated[top["sequence"].to_numpy(), top["position"].to_numpy()]
    return top.select("feature").with_columns(memorised=seen).group_by("feature").agg(pl.col("memorised").mean())
