"""Train a crosscoder: from its first batches, or a checkpoint, to a dictionary."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.config.settings import fingerprint
from ontogeny.dictionaries.backends import fastest, using
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.learner import PARAMETERS, CrosscoderLearner
from ontogeny.dictionaries.start import (
    FEATURE_AXES,
    Moments,
    continued_crosscoder,
    initial_crosscoder,
    moments_of,
    norm_scale_of,
    settings_of,
)
from ontogeny.errors import ConfigError, CorpusError
from ontogeny.loop import Checkpoint, Resumable, numerics, run_loop, warmup_decay
from ontogeny.progress import Events
from ontogeny.ranks import ALONE, Ranks


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
    stage: str = "train",
    kernels: str | None = None,
    start: Crosscoder | None = None,
    start_inputs: Moments | None = None,
    ranks: Ranks = ALONE,
) -> Crosscoder:
    """Train a crosscoder on raw activations; it scales them itself and keeps the scale as `norm_scale`.

    Args:
        batches: raw activations [batch, snapshot, d_model]: a stream, a store, or any iterable of tensors. Training
            ends with `config.steps` or with the iterable.
        checkpoint: file for the state of a training that may be interrupted; remove it when the result is saved.
        key: fingerprint of what the batches depend on; a checkpoint of other settings or batches is ignored.
        stage: what progress and events call this training.
        kernels: what `config.kernels` = auto is to mean; None: the fastest here.
        start: a crosscoder to take weights and learned thresholds from, in place of random ones.
        start_inputs: of what `start` reads, in its normalised units; it is carried over to those of these batches
            (`tie_undetermined`, `carry_over`).
        ranks: processes that share the features, or the tokens of each batch; each is called alike, with whole batches.
    Returns:
        The trained crosscoder on the CPU, its inference threshold set; of processes that share its features only the
        first has them all, the others get their own.
    Raises:
        TrainingError: an activation or the loss is not finite.
        CorpusError: there is no batch.
        ConfigError: a setting is not for features shared over processes.
    """
    if config.steps is None and hasattr(batches, "__len__"):
        config = config.model_copy(update={"steps": len(batches)})  # type: ignore[arg-type]
    if not ranks.alone and config.apply_b_dec_to_input:
        raise ConfigError(
            "apply_b_dec_to_input: its gradient is not summed over processes: leave it out, or train by one"
        )
    kept = _checkpoint(checkpoint, fingerprint(config, key), config, ranks)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    steps = config.steps
    with numerics(), ExitStack() as stack:
        saved = kept.read()
        asked = (kernels or fastest(device)) if config.kernels == "auto" else config.kernels
        used: str = asked if saved is None else saved["learner"]["kernels"]
        stack.enter_context(using(used, device))
        if saved is None:
            source, learner = _start(batches, config, device, start, start_inputs, ranks)
        else:
            source, learner = batches, _restored(saved["learner"], config, device, ranks)
        learner.kernels = used
        del saved
        run_loop(
            learner,
            source,
            stage=stage,
            steps=steps,
            schedule=warmup_decay(
                total=steps,
                warmup=round(config.warmup * (steps or 0)),
                decay=round(config.decay * (steps or 0)),
            ),
            checkpoint=kept,
            events=events,
        )
    crosscoder = learner.finished()
    crosscoder.golden_inputs = learner.golden.cpu()
    return crosscoder


def _checkpoint(path: Path | None, key: str, config: CrosscoderConfig, ranks: Ranks) -> Checkpoint:
    """A file; a folder where processes share the features, or have begun what this one is to go on with."""
    folder = None if path is None else path.with_suffix(".shared")
    if ranks.mesh is None and (folder is None or not folder.is_dir()):
        return Checkpoint(path, key)
    from ontogeny.dictionaries.shared_checkpoint import SharedCheckpoint

    return SharedCheckpoint(
        folder, key, begun=path, ranks=ranks, feature_axis=_feature_axis, n_features=config.n_features
    )


def _feature_axis(name: str) -> int | None:
    """The axis of features of a tensor in a training's state, by its place there."""
    group, last = ("", *name.split("/"))[-2:]
    if group == "crosscoder":
        return FEATURE_AXES.get(last)
    if last in ("exp_avg", "exp_avg_sq"):
        return None if int(group) == PARAMETERS.index("b_dec") else 0
    return 0 if last in ("silent_tokens", "learned") else None


def _restored(state: dict[str, Any], config: CrosscoderConfig, device: torch.device, ranks: Ranks) -> CrosscoderLearner:
    """The learner that a checkpoint was taken of, as far as its shapes go; the loop restores its state."""
    crosscoder = Crosscoder(**state["crosscoder"], **settings_of(config)).to(device)
    return CrosscoderLearner(config, crosscoder, state["golden"].to(device), ranks)


def _start(
    batches: Iterable[Tensor],
    config: CrosscoderConfig,
    device: torch.device,
    start: Crosscoder | None,
    start_inputs: Moments | None,
    ranks: Ranks,
) -> tuple[_Replayed, CrosscoderLearner]:
    """Look at the first batches to measure norm_scale and to initialise."""
    replayed = _Replayed(batches, config.norm_tokens)
    if not replayed.first:
        raise CorpusError("there is no batch to train on")
    raw = torch.cat(replayed.first).to(device, torch.float32)
    scale = norm_scale_of(raw, robust=config.normalisation == "robust")
    x = raw[: len(replayed.first[0])] * scale[:, None]
    if start is None:
        crosscoder = initial_crosscoder(config, x, scale, ranks)
    else:
        now = None if start_inputs is None else (start_inputs, moments_of(raw * scale[:, None]))
        crosscoder = continued_crosscoder(config, start, scale, inputs=now, ranks=ranks)
    return replayed, CrosscoderLearner(config, crosscoder, x[:8].clone(), ranks)
