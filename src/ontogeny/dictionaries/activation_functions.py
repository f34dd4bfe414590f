"""From encoder outputs to the code.

An activation is a row of ACTIVATIONS: the function used in training and the one used at inference. All take the encoder
outputs and, by name, what some of them need: `weight` [feature], which turns an output into the score that entries
compete by or are held against a threshold with; `k`; `threshold` [feature], on the score.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.dictionaries.places import (
    Found,
    Rounded,
    batch_topk_places,
    batch_topk_search,
    checked,
    jumprelu_places,
    positive_places,
    topk_mask,
    topk_places,
    topk_search,
)
from ontogeny.ranks import ALONE, Ranks

BANDWIDTH = 4.0


@runtime_checkable
class ActivationFunction(Protocol):
    def __call__(
        self, pre: Tensor, *, weight: Tensor | None = None, k: int | None = None, threshold: Tensor | None = None
    ) -> Tensor: ...


@runtime_checkable
class PlacesFunction(Protocol):
    """Ascending places in the flattened [batch, feature], in order of rows."""

    def __call__(
        self, pre: Tensor, *, weight: Tensor, k: int | None = None, threshold: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor: ...  # fmt: skip


@runtime_checkable
class SearchFunction(Protocol):
    """The same by rounded outputs, and the exact ones there; None where rounded ones cannot tell."""

    def __call__(self, rounded: Rounded, *, weight: Tensor, k: int) -> Found | None: ...


class Activation(NamedTuple):
    """One row of the registry.

    Attributes:
        training, inference: the functions.
        places: the entries that are active in a training step.
        of_entries: from encoder outputs at these entries to codes, `weight` and `threshold` given for each.
        needs_k: whether k must be given.
        threshold: `none`, `learned` (a parameter), or `estimated` (from training, for inference alone).
        gates: the gates it can be used with.
        search: the same entries as `places`, from rounded outputs; None where there is no such way.
    """

    training: ActivationFunction
    inference: ActivationFunction
    places: PlacesFunction
    of_entries: ActivationFunction
    needs_k: bool = False
    threshold: str = "none"
    gates: tuple[str, ...] = ("shared",)
    search: SearchFunction | None = None


def relu(
    pre: Float[Tensor, "..."],
    *,
    weight: Tensor | None = None,
    k: int | None = None,
    threshold: Tensor | None = None,
) -> Float[Tensor, "..."]:
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
    k = checked(k, pre.shape[1])
    with torch.no_grad():
        kept = topk_mask(pre if weight is None else pre * weight, k)
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
    k = checked(k, pre.shape[1])
    with torch.no_grad():
        kept = torch.zeros(pre.numel(), dtype=torch.bool, device=pre.device)
        kept[batch_topk_places(pre, weight=torch.ones_like(pre[0]) if weight is None else weight, k=k)] = True
    return pre * kept.view(pre.shape)


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
    pre: Float[Tensor, "..."],
    *,
    threshold: Float[Tensor, "..."] | None = None,
    weight: Float[Tensor, "..."] | None = None,
    k: int | None = None,
) -> Float[Tensor, "..."]:
    """Keep entries whose u = pre · weight is above a learned threshold, with a straight-through gradient for it.

    With g = u · 1[u > t] and f = g / weight: ∂g/∂u = 1[u > t], ∂g/∂t = -(t / ε) · 1[|u - t| < ε/2, u > 0], so that
    ∂f/∂pre = 1[u > t], ∂f/∂t = ∂g/∂t / weight, and f does not move with the weight. Where the weight underflows, f = 0.

    Args:
        weight: decoder norms, which bring thresholds into units of what a feature adds; None for ones.
        threshold: not negative; like the weight [feature], or one for each entry.
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
        near = ((u - threshold).abs() < BANDWIDTH / 2) & (u > 0)
        of_threshold = (grad * near * threshold_slope(threshold, weight)).sum_to_size(threshold.shape)
        return grad * ((u > threshold) & (weight > 0)), None, of_threshold


def only_moves_threshold(u: Tensor, threshold: Tensor) -> Bool[Tensor, "..."]:
    """Where a JumpReLU is closed, but so near its threshold that it moves it."""
    return (u > (threshold - BANDWIDTH / 2).clamp_min(0)) & (u <= threshold)


def threshold_slope(threshold: Tensor, weight: Tensor) -> Tensor:
    """∂f/∂t of a JumpReLU near its threshold, -(t / ε) / weight; 0 where the weight underflows."""
    there = weight > torch.finfo(weight.dtype).tiny
    return torch.where(there, -threshold / (BANDWIDTH * torch.where(there, weight, 1.0)), 0.0)


def least_kept_score(code: Float[Tensor, "batch feature"], weight: Float[Tensor, " feature"]) -> Float[Tensor, ""]:
    """The smallest score among active entries; 0 where nothing is active."""
    active: Bool[Tensor, "batch feature"] = code > 0
    score = torch.where(active, code * weight, torch.inf).min()
    return torch.where(score.isinf(), 0.0, score)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(relu, relu, positive_places, relu),
    "jumprelu": Activation(
        jumprelu, jumprelu, jumprelu_places, jumprelu, threshold="learned", gates=("shared", "per_snapshot")
    ),
    "topk": Activation(topk, topk, topk_places, relu, needs_k=True, search=topk_search),
    "batch_topk": Activation(
        batch_topk,
        above_threshold,
        batch_topk_places,
        relu,
        needs_k=True,
        threshold="estimated",
        search=batch_topk_search,
    ),
}
