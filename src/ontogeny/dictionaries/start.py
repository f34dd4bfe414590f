"""Where a training starts: the scale of the activations, and a crosscoder's weights, drawn or brought along."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries.activation_functions import ACTIVATIONS
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.losses import crosscoder_losses
from ontogeny.errors import TrainingError
from ontogeny.ranks import ALONE, Ranks

INITIAL_NORMS = tuple(2.0**exponent for exponent in range(-8, 2))
FEATURE_AXES = {"W_enc": 2, "W_dec": 1, "b_enc": 0, "threshold": 0}
"""Which axis of a crosscoder's tensors is that of its features."""
UNDETERMINED = 0.1
"""Share of the mean variance over directions at which an encoder is taken half from what it was (docs/LOG.md)."""


def settings_of(config: CrosscoderConfig) -> dict[str, Any]:
    """What a crosscoder is told beside its tensors."""
    return {
        "activation": config.activation,
        "k": config.used_k,
        "gate": config.gate,
        "score": config.score,
        "encoder": config.encoder,
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
    }


def norm_scale_of(x: Float[Tensor, "batch snapshot d_model"], *, robust: bool = False) -> Float[Tensor, " snapshot"]:
    """√d_model / mean norm of the activations, per snapshot.

    Args:
        robust: take the median norm of the centred activations, which neither a common mean nor a few massive tokens
            move much.
    Raises:
        TrainingError: an activation is not finite, or all of a snapshot are the same.
    """
    norms = (x - x.mean(0)).norm(dim=-1).median(0).values if robust else x.norm(dim=-1).mean(0)
    if not (norms.isfinite() & (norms > 0)).all():
        bad = [int(i) for i in (~(norms.isfinite() & (norms > 0))).nonzero().flatten()]
        raise TrainingError(f"activations of snapshots number {bad} (0-based) are not finite, or all zero")
    return x.shape[-1] ** 0.5 / norms


@torch.no_grad()
def initial_crosscoder(
    config: CrosscoderConfig,
    x: Float[Tensor, "batch snapshot d_model"],
    norm_scale: Float[Tensor, " snapshot"],
    ranks: Ranks = ALONE,
) -> Crosscoder:
    """An untrained crosscoder: W_dec drawn once for all snapshots or for each, W_enc its transpose.

    Biases are zero, or such that the mean of `x` (a batch in normalised units) is encoded as zero and decoded as is.
    The norm of its directions is the one of a few that reconstructs `x` best. With other ranks it has this one's
    features alone.
    """
    _, n, d = x.shape
    mean = x.mean(0) if config.bias_start == "mean" else x.new_zeros(n, d)
    generator = torch.Generator().manual_seed(config.seed)
    draws = n if config.decoder_start == "independent" else 1
    directions = torch.randn(draws, config.n_features, d, generator=generator)[:, ranks.own(config.n_features)]
    directions = torch.nn.functional.normalize(directions.to(x.device), dim=-1).expand(n, -1, -1)
    threshold = None
    if ACTIVATIONS[config.activation].threshold == "learned":
        threshold = torch.full((directions.shape[1],), config.threshold_start, device=x.device)
    crosscoder = Crosscoder(
        W_enc=directions.transpose(1, 2),
        W_dec=directions,
        b_enc=torch.zeros(directions.shape[1], device=x.device),
        b_dec=mean,
        threshold=threshold,
        norm_scale=norm_scale,
        **settings_of(config),
    )
    errors, now = [], 1.0
    for norm in INITIAL_NORMS:
        _scale(crosscoder, norm / now, mean)
        now = norm
        losses = crosscoder_losses(crosscoder, x, sparsity="none", k=crosscoder.k, ranks=ranks)
        errors.append(float(losses.reconstruction))
    _scale(crosscoder, INITIAL_NORMS[errors.index(min(errors))] / now, mean)
    return crosscoder


def _scale(crosscoder: Crosscoder, by: float, mean: Float[Tensor, "snapshot d_model"]) -> None:
    """Multiply all directions; the mean is encoded as zero again."""
    crosscoder.encoder_rows.mul_(by)
    crosscoder.decoder_rows.mul_(by)
    crosscoder.b_enc.zero_()
    crosscoder.b_enc.sub_(crosscoder.pre_activations(mean[None])[0])


class Moments(NamedTuple):
    """Where activations lie.

    Attributes:
        mean: [snapshot, d_model].
        spread: median distance from it [snapshot], which a few massive tokens do not move.
        covariance: [snapshot, d_model, d_model].
    """

    mean: Tensor
    spread: Tensor
    covariance: Tensor


def moments_of(x: Float[Tensor, "batch snapshot d_model"]) -> Moments:
    mean = x.mean(0)
    centred = x - mean
    covariance = torch.einsum("bsd,bse->sde", centred, centred) / len(x)
    return Moments(mean, centred.norm(dim=-1).median(0).values, covariance)


@torch.no_grad()
def tie_undetermined(crosscoder: Crosscoder, inputs: Moments) -> None:
    """Change encoders such that inputs get nearly the codes that they had, and directions in which these inputs hardly
    vary are read as in a new dictionary, by the decoder's transpose: a feature's own direction is encoded as 1.

        W_enc ← argmin_W tr((W − W_enc)ᵀ C (W − W_enc)) + λ ‖W − W_dec⁺‖²    C: covariance, λ: UNDETERMINED · tr C / d

    What an encoder reads in such directions is chance: Adam's steps have one size, whatever the gradient's. It does no
    harm until another snapshot's activations vary in them.
    """
    n, d, device = crosscoder.n_snapshots, crosscoder.d_model, crosscoder.b_dec.device
    mean, covariance = inputs.mean.to(device), inputs.covariance.to(device)
    at_mean = crosscoder.pre_activations(mean[None])[0]
    encoder, decoder = crosscoder.encoder_rows.view(-1, n, d), crosscoder.decoder_rows.view(-1, n, d)
    for place, of_inputs in enumerate(covariance):
        weight = UNDETERMINED * of_inputs.trace() / d
        rows = decoder[:, place]
        tied = rows / rows.square().sum(1, keepdim=True).clamp_min(1e-6)
        known = torch.eye(d, device=device, dtype=of_inputs.dtype) * weight + of_inputs
        encoder[:, place] = torch.linalg.solve(known, of_inputs @ encoder[:, place].T + weight * tied.T).T
    crosscoder.b_enc.add_(at_mean - crosscoder.pre_activations(mean[None])[0])


@torch.no_grad()
def carry_over(crosscoder: Crosscoder, before: Moments, now: Moments) -> None:
    """Change a crosscoder such that inputs now get the codes that those before had which deviate alike from their mean,
    as a share of their spread; and are decoded alike.

    Learned thresholds are exact for one snapshot, and those of several scaled by the mean.
    """
    n, d = crosscoder.n_snapshots, crosscoder.d_model
    device = crosscoder.b_dec.device
    mean_before, mean_now = before.mean.to(device), now.mean.to(device)
    ratio = now.spread.to(device) / before.spread.to(device)
    at_mean = crosscoder.pre_activations(mean_before[None])[0]
    crosscoder.encoder_rows.view(-1, n, d).div_(ratio[:, None])
    crosscoder.decoder_rows.view(-1, n, d).mul_(ratio[:, None])
    crosscoder.b_dec.copy_(mean_now + (crosscoder.b_dec - mean_before) * ratio[:, None])
    crosscoder.b_enc.add_(at_mean - crosscoder.pre_activations(mean_now[None])[0])
    if crosscoder.threshold is not None:
        crosscoder.threshold.mul_(ratio.mean())


def continued_crosscoder(
    config: CrosscoderConfig,
    start: Crosscoder,
    norm_scale: Float[Tensor, " snapshot"],
    *,
    inputs: tuple[Moments, Moments] | None = None,
    ranks: Ranks = ALONE,
) -> Crosscoder:
    """A crosscoder with another's weights, on the device of `norm_scale`; with other ranks it has this one's features
    alone.

    Args:
        inputs: of what `start` reads and of what this one is to read, each in its own normalised units.
    """
    given = {
        name: value[(slice(None),) * FEATURE_AXES[name] + (ranks.own(start.n_features),)]
        for name, value in start.tensors().items()
        if name in FEATURE_AXES
    }
    tensors = start.tensors() | given | {"norm_scale": norm_scale.cpu()}
    crosscoder = Crosscoder(**tensors, **settings_of(config)).to(norm_scale.device)
    if inputs is not None:
        before, now = inputs
        tie_undetermined(crosscoder, before)
        carry_over(crosscoder, before, now)
    return crosscoder
