"""Train an SAE series: one SAE after the other on the one training loop, each from its neighbour's weights."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.dictionaries.sae_series import SAESeries, with_mean_code
from ontogeny.dictionaries.train import Moments, learning_rate_of, moments_of, train_crosscoder
from ontogeny.errors import ConfigError
from ontogeny.learner_config import CrosscoderConfig, SAESeriesConfig
from ontogeny.loop import Resumable
from ontogeny.progress import Events
from ontogeny.run import is_kept, keeping, remove
from ontogeny.settings import fingerprint

FIRST_TOKENS = 65_536
"""Tokens from which the mean codes and the moments of inputs are taken."""


def train_sae_series(
    batches_per_snapshot: Sequence[Iterable[Float[Tensor, "batch *one d_model"]]],
    config: SAESeriesConfig,
    *,
    folder: Path | None = None,
    key: str | Sequence[str] = "",
    events: Events | None = None,
    device: torch.device | str | None = None,
) -> SAESeries:
    """Train an SAE for every snapshot on raw activations; each takes its neighbour's weights, with a fresh optimiser.

    An SAE starts with its neighbour's codes for inputs that deviate alike from their snapshot's mean, as a share of
    their spread.
    In the series every feature has a mean code of 1 where it is active, so that strengths can be compared.

    Args:
        batches_per_snapshot: raw activations of each snapshot, [batch, d_model] or [batch, 1, d_model]; the first are
            read again at the end, so a generator will not do.
        folder: where finished SAEs and the state of the one in work are kept; a killed series goes on from there.
        key: fingerprint of what the batches depend on, one for all or one for each; SAEs of other settings or batches
            are trained again, and so are all that follow them.
    Returns:
        The series on the CPU, inference thresholds set.
    Raises:
        ConfigError: there is no snapshot, or batches cannot be read again.
        TrainingError: an activation or a loss is not finite.
    """
    n = len(batches_per_snapshot)
    if n == 0:
        raise ConfigError("a series needs the batches of one snapshot at least, found none")
    keys = [key] * n if isinstance(key, str) else list(key)
    saes: dict[int, _Trained] = {}
    before, chain = None, ""
    for number, place in enumerate(range(n) if config.direction == "forward" else reversed(range(n))):
        own = config.of_sae(number)
        if before is not None:
            rate = learning_rate_of(own, n_snapshots=1, d_model=before.sae.d_model) * config.next_learning_rate
            own = own.model_copy(update={"learning_rate": rate})
        chain = fingerprint(chain, own, keys[place])
        rise = np.inf
        for turn in range(config.rounds):
            if rise < config.gain:
                break
            chain = fingerprint(chain, turn)
            kept = None if folder is None else folder / f"sae-{place:04d}-{turn}"
            batches = _OneSnapshot(batches_per_snapshot[place], first=turn * config.steps_of(number))
            trained = _kept(kept, chain) or _trained(
                batches, own, kept, chain, start=before, events=events, device=device, stage=f"sae-{place}"
            )
            if place in saes:
                rise = trained.explained_variance - saes[place].explained_variance
            before = saes[place] = trained
    return SAESeries.of([with_mean_code(saes[place].sae, saes[place].mean_code) for place in range(n)])


class _Trained(NamedTuple):
    """An SAE, and what the first tokens of its snapshot say of it.

    Attributes:
        mean_code: of each feature where it is active [feature]; 0 where it never is.
        inputs: of the activations, in normalised units.
        explained_variance: of theirs.
    """

    sae: Crosscoder
    mean_code: Tensor
    inputs: Moments
    explained_variance: float


def _trained(
    batches: "_OneSnapshot",
    config: CrosscoderConfig,
    folder: Path | None,
    key: str,
    *,
    start: _Trained | None,
    **options: Any,
) -> _Trained:
    """An SAE that goes on from another one, kept in the folder."""
    if start is not None:
        options |= {"start": start.sae, "start_inputs": start.inputs}
    checkpoint = None if folder is None else folder.with_suffix(".pt")
    sae = train_crosscoder(batches, config, key=key, checkpoint=checkpoint, **options)
    trained = _seen(sae, batches)
    if folder is not None:
        _keep(trained, folder, key)
    return trained


@torch.no_grad()
def _seen(sae: Crosscoder, batches: "_OneSnapshot") -> _Trained:
    """An SAE with what the snapshot's first tokens say of it, the same in all its rounds."""
    total, count, error = torch.zeros(sae.n_features, dtype=torch.float64), torch.zeros(sae.n_features), 0.0
    inputs: list[Tensor] = []
    for raw in batches.of_snapshot().starting_at(0):
        x = raw.cpu() * sae.norm_scale[:, None]
        code, x_hat = sae(x)
        total += code.sum(0, dtype=torch.float64)
        count += (code > 0).sum(0)
        error += float((x - x_hat).square().sum(dtype=torch.float64))
        inputs.append(x)
        if sum(map(len, inputs)) >= FIRST_TOKENS:
            break
    if not inputs:
        raise ConfigError("the batches of a snapshot can be read only once: give a list, a stream or a store")
    moments, n = moments_of(torch.cat(inputs)), sum(map(len, inputs))
    explained = 1 - error / (n * float(moments.spread.square()))
    return _Trained(sae, (total / count.clamp_min(1)).float(), moments, explained)


def _kept(folder: Path | None, key: str) -> _Trained | None:
    """An SAE that is there already."""
    if folder is None or not is_kept(folder, key):
        return None
    seen = load_file(folder / "first_tokens.safetensors")
    sae = cast(Crosscoder, load_dictionary(folder / "dictionary"))
    return _Trained(sae, seen["mean_code"], Moments(seen["mean"], seen["spread"]), float(seen["explained_variance"]))


def _keep(trained: _Trained, folder: Path, key: str) -> None:
    with keeping(folder, key) as temporary:
        trained.sae.save(temporary / "dictionary")
        explained = torch.tensor(trained.explained_variance, dtype=torch.float64)
        seen = {"mean_code": trained.mean_code, "explained_variance": explained, **trained.inputs._asdict()}
        save_file(seen, temporary / "first_tokens.safetensors")
    remove(folder.with_suffix(".pt"))


class _OneSnapshot:
    """Batches with a snapshot axis of one, from number `first` on; to be taken up as far as the given ones are."""

    def __init__(self, batches: Iterable[Tensor], *, first: int = 0) -> None:
        self.batches, self.first = batches, first

    def of_snapshot(self) -> "_OneSnapshot":
        """All batches of the snapshot."""
        return _OneSnapshot(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        """Batches from number `first` + `batch` on."""
        batch += self.first
        if isinstance(self.batches, Resumable):
            return map(_with_axis, self.batches.starting_at(batch))
        given = iter(self.batches)
        for _ in range(batch):
            next(given, None)
        return map(_with_axis, given)


def _with_axis(x: Tensor) -> Float[Tensor, "batch 1 d_model"]:
    return x[:, None] if x.ndim == 2 else x
