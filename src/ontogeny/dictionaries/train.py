"""Train a crosscoder: the learner that the one training loop runs."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.config import CrosscoderConfig, fingerprint
from ontogeny.dictionaries.activation_functions import least_kept_score
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.losses import crosscoder_losses
from ontogeny.errors import CorpusError, TrainingError
from ontogeny.loop import Checkpoint, Resumable, numerics, run_loop, warmup_decay
from ontogeny.progress import Events

INITIAL_NORMS = tuple(2.0**exponent for exponent in range(-8, 2))


def norm_scale_of(x: Float[Tensor, "batch snapshot d_model"]) -> Float[Tensor, " snapshot"]:
    """√d_model / mean norm of the activations, per snapshot.

    Raises:
        TrainingError: an activation is not finite, or all of a snapshot are zero.
    """
    norms = x.norm(dim=-1).mean(0)
    if not (norms.isfinite() & (norms > 0)).all():
        bad = [int(i) for i in (~(norms.isfinite() & (norms > 0))).nonzero().flatten()]
        raise TrainingError(f"activations of snapshots number {bad} (0-based) are not finite, or all zero")
    return x.shape[-1] ** 0.5 / norms


@torch.no_grad()
def initial_crosscoder(
    config: CrosscoderConfig, x: Float[Tensor, "batch snapshot d_model"], norm_scale: Float[Tensor, " snapshot"]
) -> Crosscoder:
    """An untrained crosscoder: one W_dec copied to all snapshots, W_enc its transpose, biases zero.

    The norm of its directions is the one of a few that reconstructs `x` (a batch in normalised units) best.
    """
    _, n, d = x.shape
    generator = torch.Generator().manual_seed(config.seed)
    directions = torch.nn.functional.normalize(torch.randn(config.n_features, d, generator=generator), dim=-1)
    directions = directions.to(x.device)
    best, best_error = None, float("inf")
    for norm in INITIAL_NORMS:
        W_dec = (directions * norm).expand(n, -1, -1)
        crosscoder = Crosscoder(
            W_enc=W_dec.transpose(1, 2),
            W_dec=W_dec,
            b_enc=torch.zeros(config.n_features, device=x.device),
            b_dec=torch.zeros(n, d, device=x.device),
            norm_scale=norm_scale,
            **_settings(config),
        )
        error = float((x - crosscoder.decode(crosscoder.encode(x, k=crosscoder.k))).square().sum((1, 2)).mean())
        if best is None or error < best_error:
            best, best_error = crosscoder, error
    assert best is not None
    return best


class _CrosscoderLearner:
    """The learner: reconstruction, sparsity and AuxK losses of normalised batches."""

    def __init__(self, config: CrosscoderConfig, crosscoder: Crosscoder, golden: Tensor) -> None:
        self.config, self.crosscoder, self.golden = config, crosscoder, golden
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            crosscoder.parameters(), lr=config.learning_rate, fused=True
        )
        self.silent_tokens = torch.zeros(config.n_features, dtype=torch.int64, device=golden.device)
        self.threshold = torch.zeros((), device=golden.device)

    def before_step(self, step: int) -> None:
        pass

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        config, crosscoder = self.config, self.crosscoder
        x = batch.to(crosscoder.b_dec.device, crosscoder.b_dec.dtype) * crosscoder.norm_scale[:, None]
        pre = crosscoder.pre_activations(x)
        code = crosscoder.activate(pre, k=self._k(step))
        losses = crosscoder_losses(crosscoder, x, sparsity=config.sparsity_loss, code=code)
        total = losses.reconstruction + config.sparsity_weight * self._ramp(step) * losses.sparsity
        total = total + config.aux_weight * self._aux_loss(x, pre, code)
        self._remember(code)
        figures = {
            "ev": float(losses.explained_variance.mean()),
            "l0": float(losses.l0[0]),
            "dead": float((self.silent_tokens >= config.dead_after_tokens).float().mean()),
        }
        return total, figures

    def _ramp(self, step: int) -> float:
        """How far the sparsity warm-up has come, 0 to 1."""
        length = self.config.sparsity_warmup * (self.config.steps or 0)
        return min(1.0, step / length) if length else 1.0

    def _k(self, step: int) -> int | None:
        """k in training: it falls from `k_start` over the sparsity warm-up."""
        config = self.config
        if config.activation != "batch_topk":
            return None
        assert config.k is not None
        start = config.k_start or config.k
        return round(start + (config.k - start) * self._ramp(step))

    def _aux_loss(self, x: Tensor, pre: Tensor, code: Tensor) -> Tensor:
        """AuxK: the leading dead features reconstruct what the living ones leave.

        Source: Gao et al. 2024, arXiv 2406.04093.
        """
        dead = (self.silent_tokens >= self.config.dead_after_tokens).nonzero().flatten()
        if self.config.aux_k == 0 or len(dead) == 0:
            return x.new_zeros(())
        crosscoder = self.crosscoder
        with torch.no_grad():
            residual = (x - crosscoder.decode(code)).flatten(1)
        candidates = torch.relu(pre.index_select(1, dead))
        values, columns = candidates.topk(min(self.config.aux_k, len(dead)), dim=1, sorted=False)
        sparse = torch.zeros_like(candidates).scatter(1, columns, values)
        x_hat = sparse @ crosscoder.decoder_rows.index_select(0, dead)
        return (residual - x_hat).square().sum(1).mean()

    @torch.no_grad()
    def _remember(self, code: Tensor) -> None:
        """Count how long each feature has been silent; follow the least score that was kept."""
        self.silent_tokens += len(code)
        self.silent_tokens[(code > 0).any(0)] = 0
        if self.config.activation == "batch_topk":
            least = least_kept_score(code, self.crosscoder.score_weight())
            old = self.threshold if self.threshold > 0 else least
            self.threshold = old + (least - old) / self._threshold_steps()

    def _threshold_steps(self) -> int:
        """Steps over which the threshold is averaged: the last twentieth of the training, 10 to 1,000."""
        return min(1000, max(10, round(0.05 * (self.config.steps or 2000))))

    def finished(self) -> Crosscoder:
        crosscoder = self.crosscoder
        if crosscoder.activation.has_threshold:
            crosscoder.threshold = self.threshold.expand(crosscoder.n_features).clone()
        return crosscoder.requires_grad_(False).eval()

    def state(self) -> dict[str, Any]:
        return {
            "crosscoder": self.crosscoder.tensors(),
            "silent_tokens": self.silent_tokens,
            "threshold": self.threshold,
            "golden": self.golden,
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            source = Crosscoder(**state["crosscoder"], **_settings(self.config))
            for own, saved in zip(self.crosscoder.parameters(), source.parameters(), strict=True):
                own.copy_(saved)
            self.crosscoder.norm_scale.copy_(source.norm_scale)
            self.silent_tokens.copy_(state["silent_tokens"])
            self.threshold = state["threshold"].to(self.threshold.device)


def _settings(config: CrosscoderConfig) -> dict[str, Any]:
    return {
        "activation": config.activation,
        "k": config.k if config.activation == "batch_topk" else None,
        "gate": config.gate,
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
    }


class _Replayed:
    """Batches of which the first, up to a number of tokens, were looked at already; they are not made twice."""

    def __init__(self, batches: Iterable[Tensor], tokens: int) -> None:
        self.batches = batches
        self.iterator = batches.starting_at(0) if isinstance(batches, Resumable) else iter(batches)
        self.first: list[Tensor] = []
        while sum(map(len, self.first)) < tokens and (batch := next(self.iterator, None)) is not None:
            self.first.append(batch)

    def __iter__(self) -> Iterator[Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        if batch > 0 and isinstance(self.batches, Resumable):
            return self.batches.starting_at(batch)
        return islice(chain(self._looked_at(), self.iterator), batch, None)

    def _looked_at(self) -> Iterator[Tensor]:
        while self.first:
            yield self.first.pop(0)


def train_crosscoder(
    batches: Iterable[Float[Tensor, "batch snapshot d_model"]],
    config: CrosscoderConfig,
    *,
    checkpoint: Path | None = None,
    key: str = "",
    events: Events | None = None,
    device: torch.device | str | None = None,
) -> Crosscoder:
    """Train a crosscoder on raw activations; it scales them itself and keeps the scale as `norm_scale`.

    Args:
        batches: raw activations [batch, snapshot, d_model]: a stream, a store, or any iterable of tensors. Training
            ends with `config.steps` or with the iterable.
        checkpoint: file for the state of a training that may be interrupted; remove it when the result is saved.
        key: fingerprint of what the batches depend on; a checkpoint of other settings or batches is ignored.
    Returns:
        The trained crosscoder on the CPU, its inference threshold set.
    Raises:
        TrainingError: an activation or the loss is not finite.
        CorpusError: there is no batch.
    """
    if config.steps is None and hasattr(batches, "__len__"):
        config = config.model_copy(update={"steps": len(batches)})  # type: ignore[arg-type]
    kept = Checkpoint(checkpoint, fingerprint(config, key))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    steps = config.steps
    with numerics():
        saved = kept.read()
        if saved is None:
            source, learner = _start(batches, config, device)
        else:
            source, learner = batches, _restored(saved["learner"], config, device)
        run_loop(
            learner,
            source,
            stage="train",
            steps=steps,
            schedule=warmup_decay(
                total=steps,
                warmup=round(config.warmup * (steps or 0)),
                decay=round(config.decay * (steps or 0)),
            ),
            checkpoint=kept,
            events=events,
        )
    crosscoder = learner.finished().cpu()
    crosscoder.golden_inputs = learner.golden.cpu()
    return crosscoder


def _restored(state: dict[str, Any], config: CrosscoderConfig, device: torch.device) -> _CrosscoderLearner:
    """The learner that a checkpoint was taken of, as far as its shapes go; the loop restores its state."""
    crosscoder = Crosscoder(**state["crosscoder"], **_settings(config)).to(device)
    return _CrosscoderLearner(config, crosscoder, state["golden"].to(device))


def _start(
    batches: Iterable[Tensor], config: CrosscoderConfig, device: torch.device
) -> tuple[_Replayed, _CrosscoderLearner]:
    """Look at the first batches to measure norm_scale and to initialise."""
    replayed = _Replayed(batches, config.norm_tokens)
    if not replayed.first:
        raise CorpusError("there is no batch to train on")
    raw = torch.cat(replayed.first).to(device)
    scale = norm_scale_of(raw)
    x = replayed.first[0].to(device) * scale[:, None]
    return replayed, _CrosscoderLearner(config, initial_crosscoder(config, x, scale), x[:8].clone())
