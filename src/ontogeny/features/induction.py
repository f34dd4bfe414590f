"""Induction, of features and of models: random tokens, then the same ones again, beside ones that are not repeated.

Source of the test: Olsson et al. 2022, arXiv 2209.11895; of features by a ratio of activations, arXiv 2509.17196.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

RATIO = 2.0
"""Least ratio of the mean activation in the second copy to that in the first, and to that without a repetition."""


class Blocks(NamedTuple):
    """Contexts of random tokens after the start token.

    Attributes:
        repeated: two copies of one block [block, 1 + 2 · length].
        control: the same second half after a first half of other tokens [block, 1 + 2 · length].
        length: tokens of a copy.
    """

    repeated: Int[Tensor, "block position"]
    control: Int[Tensor, "block position"]
    length: int


def random_blocks(words: Int[np.ndarray, " word"], *, start: int, blocks: int, length: int, seed: int) -> Blocks:
    """Blocks of tokens drawn without replacement, so that nothing but the repetition foretells any.

    Args:
        words: ids to draw from, twice `length` of them at least.
    """
    draw = np.random.default_rng(seed)
    drawn = np.stack([draw.permutation(words)[: 2 * length] for _ in range(blocks)])
    first, other = drawn[:, :length], drawn[:, length:]
    starts = np.full((blocks, 1), start)
    halves = np.concatenate([starts, first, first], 1), np.concatenate([starts, other, first], 1)
    repeated, control = (torch.from_numpy(half.astype(np.int64)) for half in halves)
    return Blocks(repeated, control, length)


class Induction(NamedTuple):
    """How features answer to a repetition [feature].

    Attributes:
        ratio: mean code in the second copy over that in the first.
        control_ratio: the same second half after a repetition over after other tokens.
        raised: mean of what it adds to the logit of the token that followed before, over what it adds to others', in
            standard deviations over the vocabulary, where it is active in the second copy; nan where it is not.
        p: chance of so much more than after other tokens, block by block (paired, one-sided t).
    """

    ratio: np.ndarray
    control_ratio: np.ndarray
    raised: np.ndarray
    p: np.ndarray

    @property
    def passes(self) -> np.ndarray:
        """By the ratios and the logits; the false discoveries among them are yet to be bounded."""
        return (self.ratio >= RATIO) & (self.control_ratio >= RATIO) & (np.nan_to_num(self.raised) > 0)


def induction_of_features(
    blocks: Blocks,
    codes: Float[Tensor, "block position feature"],
    control: Float[Tensor, "block position feature"],
    logits: Float[Tensor, "feature vocabulary"],
) -> Induction:
    """How each feature's code changes with the repetition.

    The first token of the second copy is left out: nothing before it foretells that the block comes again; and the
    last, after which nothing followed.

    Args:
        codes, control: of the repeated and of the control contexts.
        logits: what each feature's direction adds to the logits.
    """
    n = blocks.length
    first, second = slice(2, n), slice(n + 2, 2 * n)
    early, late, other = (one.mean(1).double() for one in (codes[:, first], codes[:, second], control[:, second]))
    tiny = 1e-9
    standard = (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True).clamp_min(tiny)
    after = blocks.repeated[:, n + 3 : 2 * n + 1]
    active = codes[:, second] > 0
    sums, counts = torch.zeros(codes.shape[2]), active.sum((0, 1))
    for block in range(len(codes)):
        sums += (active[block] * standard[:, after[block]].T).sum(0)
    difference = (late - other).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        t = difference.mean(0) / (difference.std(0, ddof=1) / np.sqrt(len(difference)))
    ratio, control_ratio = (((late.mean(0) + tiny) / (one.mean(0) + tiny)).numpy() for one in (early, other))
    return Induction(
        ratio=ratio,
        control_ratio=control_ratio,
        raised=np.where(counts.numpy() > 0, (sums / counts.clamp_min(1)).numpy(), np.nan),
        p=np.where(np.isfinite(t), stats.t.sf(t, len(difference) - 1), 1.0),
    )
