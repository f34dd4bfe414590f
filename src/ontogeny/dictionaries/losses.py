"""Losses and figures of a batch. Sums over d_model, snapshots and features, means over tokens.

Every sparsity loss is a function of u_i[θ] = f_i[θ] · strength_i[θ], so that a feature cannot hide by shrinking its
code while its decoder grows: first an entrywise function, then a mean over tokens for each snapshot and feature, then
a sum.
The means are all that is kept of [batch, snapshot, feature]; entries are made again for the gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import ConfigError, did_you_mean

STEEPNESS = 4.0
QUADRATIC_SCALE = 0.01


class Losses(NamedTuple):
    """Losses and figures of a batch.

    Attributes:
        reconstruction: squared error summed over d_model and snapshots, mean over tokens; scalar.
        sparsity: the sparsity loss, without its weight; scalar.
        l0: active features a token [snapshot].
        explained_variance: 1 - squared error / variance over the batch [snapshot].
        x_hat: the reconstruction [batch, snapshot, d_model].
        code: [batch, feature]; with the per-snapshot gate the code where the gate is widest.
    """

    reconstruction: Tensor
    sparsity: Tensor
    l0: Tensor
    explained_variance: Tensor
    x_hat: Tensor
    code: Tensor


class Sparsity(NamedTuple):
    """One row of SPARSITY: what is averaged over tokens, and the loss of these means [snapshot, feature]."""

    of_entry: Callable[[Tensor], Tensor] | None
    of_means: Callable[[Float[Tensor, "snapshot feature"]], Tensor]


def steep_tanh(u: Tensor) -> Tensor:
    """tanh(4 u): nearly counts the active entries."""
    return torch.tanh(STEEPNESS * u)


def total(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Σ_i Σ_θ."""
    return means.sum()


def mean_over_snapshots(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Σ_i mean_θ."""
    return means.mean(0).sum()


def quadratic(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Σ_i p_i (1 + p_i / 0.01) with p_i = mean_θ: features that are active often pay more."""
    p = means.mean(0)
    return (p * (1 + p / QUADRATIC_SCALE)).sum()


def nothing(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Zero, for activations that are sparse by themselves."""
    return means.new_zeros(())


SPARSITY: dict[str, Sparsity] = {
    "l1": Sparsity(of_entry=None, of_means=total),
    "tanh": Sparsity(of_entry=steep_tanh, of_means=mean_over_snapshots),
    "tanh_quad": Sparsity(of_entry=steep_tanh, of_means=quadratic),
    "none": Sparsity(of_entry=None, of_means=nothing),
}


def explained_variance(
    x: Float[Tensor, "batch snapshot d_model"], x_hat: Float[Tensor, "batch snapshot d_model"]
) -> Float[Tensor, " snapshot"]:
    """1 - Σ‖x - x̂‖² / Σ‖x - mean‖² over the batch, per snapshot."""
    variance = (x - x.mean(0)).square().sum((0, 2))
    return 1 - (x - x_hat).square().sum((0, 2)) / variance


def crosscoder_losses(
    dictionary: Crosscoder,
    x: Float[Tensor, "batch snapshot d_model"],
    *,
    sparsity: str = "l1",
    pre: Float[Tensor, "batch feature"] | None = None,
    k: int | None = None,
) -> Losses:
    """Losses of a batch in normalised units (raw ones when folded).

    Args:
        sparsity: a row of SPARSITY: `l1`, `tanh`, `tanh_quad` or `none`.
        pre: the batch's encoder outputs where they are known already.
        k: use the training rule with this k instead of the inference rule.
    Raises:
        ConfigError: the sparsity loss is unknown.
    Source: l1 Lindsey et al. 2024; tanh and tanh_quad Anthropic's crosscoder updates of 2025 and arXiv 2509.17196.
    """
    if sparsity not in SPARSITY:
        raise ConfigError(
            f"no sparsity loss '{sparsity}'{did_you_mean(sparsity, SPARSITY)}: there are {', '.join(SPARSITY)}"
        )
    if pre is None:
        pre = dictionary.pre_activations(x)
    if dictionary.gate == "shared":
        x_hat, means, l0, code = _shared(dictionary, pre, SPARSITY[sparsity], k)
    else:
        x_hat, means, l0, code = _per_snapshot(dictionary, pre, SPARSITY[sparsity])
    reconstruction = (x - x_hat).square().sum((1, 2)).mean()
    with torch.no_grad():
        figures = explained_variance(x, x_hat)
    return Losses(reconstruction, SPARSITY[sparsity].of_means(means), l0, figures, x_hat, code)


class _Passed(NamedTuple):
    """x̂ [batch, snapshot, d_model], means [snapshot, feature], L0 [snapshot], code [batch, feature]."""

    x_hat: Tensor
    means: Tensor
    l0: Tensor
    code: Tensor


def _shared(dictionary: Crosscoder, pre: Tensor, sparsity: Sparsity, k: int | None) -> _Passed:
    code, strength = dictionary.activate(pre, k=k), dictionary.strength()
    if sparsity.of_entry is None:
        means = code.mean(0) * strength
    else:
        of_entry = sparsity.of_entry

        def mean_at(code: Tensor, strength: Tensor) -> Tensor:
            return of_entry(code * strength).mean(0)

        means = torch.stack([_made_again(mean_at, code, norms) for norms in strength])
    return _Passed(dictionary.decode(code), means, _l0(code).expand(dictionary.n_snapshots), code)


def _per_snapshot(dictionary: Crosscoder, pre: Tensor, sparsity: Sparsity) -> _Passed:
    strength = dictionary.strength()

    def at(snapshot: int, pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = dictionary.code_at(pre, snapshot, strength=strength)
        u = code * strength[snapshot]
        means = u.mean(0) if sparsity.of_entry is None else sparsity.of_entry(u).mean(0)
        return dictionary.decode_at(code, snapshot), means, _l0(code)

    parts = [_made_again(at, snapshot, pre) for snapshot in range(dictionary.n_snapshots)]
    x_hat, means = (torch.stack([part[place] for part in parts], dim=1 - place) for place in (0, 1))
    with torch.no_grad():
        code, l0 = dictionary.widest_code(pre), torch.stack([part[2] for part in parts])
    return _Passed(x_hat, means, l0, code)


@torch.no_grad()
def _l0(code: Tensor) -> Tensor:
    """Active features a token; a scalar."""
    return (code > 0).sum(-1, dtype=code.dtype).mean()


def _made_again(function: Callable, *inputs: object) -> Any:
    """Call a function whose inner tensors are not kept for the gradient but made again."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
