"""From encoder outputs to the code.

An activation is a row of ACTIVATIONS: the function used in training and the one used at inference. All take the encoder
outputs and, by name, what some of them need: `weight` [feature], which turns an output into the score that entries
compete by or are held against a threshold with; `k`; `threshold` [feature], on the score.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BANDWIDTH = 4.0


@runtime_checkable
class ActivationFunction(Protocol):
    def __call__(
        self, pre: Tensor, *, weight: Tensor | None = None, k: int | None = None, threshold: Tensor | None = None
    ) -> Tensor: ...


class Activation(NamedTuple):
    """One row of the registry.

    Attributes:
        training, inference: the functions.
        needs_k: whether k must be given.
        threshold: `none`, `learned` (a parameter), or `estimated` (from training, for inference alone).
        gates: the gates it can be used with.
    """

    training: ActivationFunction
    inference: ActivationFunction
    needs_k: bool = False
    threshold: str = "none"
    gates: tuple[str, ...] = ("shared",)


def relu(
    pre: Float[Tensor, "batch feature"],
    *,
    weight: Tensor | None = None,
    k: int | None = None,
    threshold: Tensor | None = None,
) -> Float[Tensor, "batch feature"]:
    """The positive part; takes none of the options."""
    return torch.relu(pre)


def topk(
    pre: Float[Tensor, "batch feature"],
    *,
    k: int | None = None,
    weight: Float[Tensor, " feature"] | None = None,
    threshold: Tensor | None = None,
) -> Float[Tensor, "batch feature"]:
    """Keep each token's entries with the `k` largest positive scores and zero the rest.

    Args:
        weight: scores are `pre * weight`; None for `pre` itself.
    Raises:
        ValueError: k does not lie in 1..feature.
    Source: Gao et al. 2024, arXiv 2406.04093.
    """
    k = _checked(k, pre.shape[1])
    with torch.no_grad():
        score = pre if weight is None else pre * weight
        least = score.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
        kept = (score >= least) & (score > 0)
    return pre * kept


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
    k = _checked(k, pre.shape[1])
    with torch.no_grad():
        score = pre if weight is None else pre * weight
        kept = (score >= _kth_largest(score, k * len(pre))) & (score > 0)
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


def jumprelu(
    pre: Float[Tensor, "batch feature"],
    *,
    threshold: Float[Tensor, " feature"] | None = None,
    weight: Float[Tensor, " feature"] | None = None,
    k: int | None = None,
) -> Float[Tensor, "batch feature"]:
    """Keep entries whose u = pre · weight is above a learned threshold, with a straight-through gradient for it.

    With g = u · 1[u > t] and f = g / weight: ∂g/∂u = 1[u > t], ∂g/∂t = -(t / ε) · 1[|u - t| < ε/2, u > 0], so that
    ∂f/∂pre = 1[u > t], ∂f/∂t = ∂g/∂t / weight, and f does not move with the weight. Where the weight underflows, f = 0.

    Args:
        weight: decoder norms, which bring thresholds into units of what a feature adds; None for ones.
        threshold: [feature], not negative.
    Raises:
        ValueError: there is no threshold.
    Source: Rajamanoharan et al. 2024, arXiv 2407.14435; in decoder-norm units as in arXiv 2509.17196.
    """
    if threshold is None:
        raise ValueError("jumprelu needs a threshold")
    weight = torch.ones_like(threshold) if weight is None else weight.detach()
    return _Jump.apply(pre, weight, threshold)  # type: ignore[return-value]


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, weight, threshold)
        return pre * ((pre * weight > threshold) & (weight > 0))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        (grad,) = grads
        pre, weight, threshold = ctx.saved_tensors
        u = pre * weight
        near = ((u - threshold).abs() < BANDWIDTH / 2) & (u > 0) & (weight > 0)
        slope = -threshold / (BANDWIDTH * weight.clamp_min(torch.finfo(weight.dtype).tiny))
        return grad * ((u > threshold) & (weight > 0)), None, (grad * near).sum(0) * slope


def _checked(k: int | None, n_features: int) -> int:
    if k is None or not 1 <= k <= n_features:
        raise ValueError(f"k = {k} does not lie in 1..{n_features}")
    return k


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
    "relu": Activation(relu, relu),
    "jumprelu": Activation(jumprelu, jumprelu, threshold="learned", gates=("shared", "per_snapshot")),
    "topk": Activation(topk, topk, needs_k=True),
    "batch_topk": Activation(batch_topk, above_threshold, needs_k=True, threshold="estimated"),
}
