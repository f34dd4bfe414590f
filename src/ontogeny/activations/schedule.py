"""Choose snapshots by how far activations move between them."""

import numpy as np
import torch
from torch import Tensor

from ontogeny.activations.harvest import Harvester, require_same_tokens, usable_positions
from ontogeny.corpus.pack import Corpus
from ontogeny.progress import progress_bar
from ontogeny.suites.suite import Suite

TOKENS = 8192


def moved_steps(
    suite: Suite, corpus: Corpus, *, hookpoint: str, drift: float, dtype: str = "float32", seed: int = 0
) -> list[int]:
    """Steps of the first snapshot, of the last, and of each at which activations have moved enough since the one chosen
    before: the mean ‖Δx‖ of some tokens is `drift` of their mean ‖x‖ or more.

    Args:
        corpus: text to read, packed with the suite's tokenizer.
    Raises:
        CorpusError: it was packed with another one.
        SuiteError: weights cannot be loaded, or activations are not finite.
    """
    require_same_tokens(suite, corpus)
    chosen: list[int] = []
    kept: Tensor | None = None
    with progress_bar("schedule", len(suite.snapshots), unit="snapshots") as bar:
        for place, step in enumerate(suite.steps):
            x = _activations(Harvester(suite.only([place]), hookpoint, dtype=dtype), corpus, seed)
            if kept is None or place == len(suite.steps) - 1 or moved(kept, x) >= drift:
                chosen.append(step)
                kept = x
            bar.advance(1)
    return chosen


def moved(before: Tensor, now: Tensor) -> float:
    """Mean ‖Δx‖ over mean ‖x‖ before, of the same tokens' activations [token, d_model]."""
    return float((now - before).norm(dim=1).mean() / before.norm(dim=1).mean())


def _activations(harvester: Harvester, corpus: Corpus, seed: int) -> Tensor:
    """Raw activations of the same tokens of any snapshot [token, d_model]."""
    lengths, order = corpus.lengths, np.random.default_rng([seed, 7]).permutation(len(corpus))
    sequences = order[: int(np.searchsorted((lengths[order] - 1).cumsum(), TOKENS)) + 1]
    usable = torch.from_numpy(usable_positions(lengths[sequences], corpus.sequence_length))
    tokens = torch.from_numpy(corpus.tokens[sequences].astype(np.int64))
    x = harvester.read(0, tokens).cpu()[usable]
    harvester.require_finite(x[:, None])
    return x
