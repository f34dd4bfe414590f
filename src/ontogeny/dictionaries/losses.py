"""Losses and figures of a batch. Sums over d_model, snapshots and features, means over tokens."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import ConfigError, did_you_mean


class Losses(NamedTuple):
    """Losses and figures of a batch.

    Attributes:
        reconstruction: squared error summed over d_model and snapshots, mean over tokens; scalar.
        sparsity: the sparsity loss, without its weight; scalar.
        l0: active features a token [snapshot].
        explained_variance: 1 - squared error / variance over the batch [snapshot].
    """

    reconstruction: Tensor
    sparsity: Tensor
    l0: Tensor
    explained_variance: Tensor


def l1(code: Float[Tensor, "batch feature"], strength: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Mean over tokens of Σ_i Σ_θ f_i · strength_i[θ]. Source: Lindsey et al. 2024."""
    return (code @ strength.sum(0)).mean()


def no_sparsity(code: Float[Tensor, "batch feature"], strength: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Zero, for activations that are sparse by themselves."""
    return code.new_zeros(())


SPARSITY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "none": no_sparsity}


def explained_variance(
    x: Float[Tensor, "batch snapshot d_model"], x_hat: Float[Tensor, "batch snapshot d_model"]
) -> Float[Tensor, " snapshot"]:
    """1 - Σ‖x - x̂‖² / Σ‖x - mean‖² over the batch, per snapshot."""
    total = (x - x.mean(0)).square().sum((0, 2))
    return 1 - (x - x_hat).square().sum((0, 2)) / total


def crosscoder_losses(
    dictionary: Crosscoder,
    x: Float[Tensor, "batch snapshot d_model"],
    *,
    sparsity: str = "l1",
    code: Float[Tensor, "batch feature"] | None = None,
) -> Losses:
    """Losses of a batch in normalised units (raw ones when folded).

    Args:
        sparsity: a row of SPARSITY: `l1` or `none`.
        code: the batch's code where it is known already; None to encode by the inference rule.
    Raises:
        ConfigError: the sparsity loss is unknown.
    """
    if sparsity not in SPARSITY:
        raise ConfigError(
            f"no sparsity loss '{sparsity}'{did_you_mean(sparsity, SPARSITY)}: there are {', '.join(SPARSITY)}"
        )
    if code is None:
        code = dictionary.encode(x)
    x_hat = dictionary.decode(code)
    reconstruction = (x - x_hat).square().sum((1, 2)).mean()
    with torch.no_grad():
        l0 = (code > 0).sum(-1).float().mean().expand(dictionary.n_snapshots)
        figures = explained_variance(x, x_hat)
    return Losses(reconstruction, SPARSITY[sparsity](code, dictionary.strength()), l0, figures)
