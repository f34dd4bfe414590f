"""From encoder outputs to the code.

An activation is a row of ACTIVATIONS: the function used in training and the one used at inference. All take the encoder
outputs and, by name, what some of them need: `weight` [feature], which turns an output into the score that entries
compete by; `k`; `threshold` [feature], on the score.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class ActivationFunction(Protocol):
    def __call__(
        self, pre: Tensor, *, weight: Tensor | None = None, k: int | None = None, threshold: Tensor | None = None
    ) -> Tensor: ...


class Activation(NamedTuple):
    """One row of the registry."""

    training: ActivationFunction
    inference: ActivationFunction
    has_threshold: bool = False


def relu(
    pre: Float[Tensor, "batch feature"],
    *,
    weight: Tensor | None = None,
    k: int | None = None,
    threshold: Tensor | None = None,
) -> Float[Tensor, "batch feature"]:
    """The positive part; takes none of the options."""
    return torch.relu(pre)


def batch_topk(
    pre: Float[Tensor, "batch feature"],
    *,
    k: int | None = None,
    weight: Float[Tensor, " feature"] | None = None,
    threshold: Tensor | None = None,
) -> Float[Tensor, "batch feature"]:
    """Keep the entries with the `batch * k` largest positive scores of the batch and zero the rest.

    Args:
        pre: encoder outputs for inputs scaled to norm sqrt(d_model).
        k: mean number of active features per token.
        weight: scores are `pre * weight`; None for `pre` itself.
    Raises:
        ValueError: k does not lie in 1..feature.
    Source: Bussmann et al. 2024, arXiv 2412.06410.
    """
    batch, n_features = pre.shape
    if k is None or not 1 <= k <= n_features:
        raise ValueError(f"k = {k} does not lie in 1..{n_features}")
    with torch.no_grad():
        score = pre if weight is None else pre * weight
        kept = (score >= _kth_largest(score, k * batch)) & (score > 0)
    return pre * kept


def above_threshold(
    pre: Float[Tensor, "batch feature"],
    *,
    threshold: Float[Tensor, " feature"] | None = None,
    weight: Float[Tensor, " feature"] | None = None,
    k: int | None = None,
) -> Float[Tensor, "batch feature"]:
    """Keep entries whose score is positive and above the feature's threshold: BatchTopK's rule at inference.

    Where no threshold is known yet but k is, the batch's own rule is used.
    """
    if threshold is None:
        return batch_topk(pre, k=k, weight=weight)
    score = pre if weight is None else pre * weight
    return pre * ((score > threshold) & (score > 0))


def _kth_largest(score: Float[Tensor, "batch feature"], count: int) -> Float[Tensor, ""]:
    """The exact `count`-th largest value. A bound taken from a sample of rows leaves few candidates to select among."""
    flat = score.flatten()
    if count >= flat.numel():
        return flat.min()
    sample = score[:: max(1, len(score) // 32)].flatten()
    among = min(sample.numel(), int(1.3 * count * sample.numel() / flat.numel()) + 1)
    bound = sample.topk(among, sorted=False).values.min()
    candidates = flat[flat >= bound]
    if len(candidates) < count:
        candidates = flat
    return candidates.topk(count, sorted=False).values.min()


def least_kept_score(code: Float[Tensor, "batch feature"], weight: Float[Tensor, " feature"]) -> Float[Tensor, ""]:
    """The smallest score among active entries; 0 where nothing is active."""
    active: Bool[Tensor, "batch feature"] = code > 0
    score = torch.where(active, code * weight, torch.inf).min()
    return torch.where(score.isinf(), 0.0, score)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(training=relu, inference=relu),
    "batch_topk": Activation(training=batch_topk, inference=above_threshold, has_threshold=True),
}
