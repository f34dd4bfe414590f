"""Train an SAE series: one SAE after the other on the one training loop, each from its neighbour's weights."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from ontogeny.config.learner import CrosscoderConfig, SAESeriesConfig
from ontogeny.config.settings import fingerprint
from ontogeny.dictionaries.backends import settled
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.learner import learning_rate_of
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.dictionaries.sae_series import SAESeries, with_mean_code
from ontogeny.dictionaries.start import Moments, moments_of
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.errors import ConfigError, CorpusError
from ontogeny.files import is_kept, keeping, read_json, remove, write_json
from ontogeny.loop import Resumable, numerics
from ontogeny.progress import Events

FIRST_TOKENS = 65_536
"""Tokens, at most, from which the mean codes and the explained variance are taken: no more than an SAE trains on."""
MOST_NUMBERS = 64_000_000
"""Numbers of their activations that are kept in memory, so that what was just trained on is not harvested again."""


def train_sae_series(
    batches_per_snapshot: Sequence[Iterable[Float[Tensor, "batch *one d_model"]]],
    config: SAESeriesConfig,
    *,
    folder: Path | None = None,
    key: str | Sequence[str] = "",
    rounds: Sequence[int] | None = None,
    events: Events | None = None,
    device: torch.device | str | None = None,
) -> SAESeries:
    """Train an SAE for every snapshot on raw activations; each takes its neighbour's weights, with a fresh optimiser.

    An SAE starts with nearly its neighbour's codes for inputs that deviate alike from their snapshot's mean, as a share
    of their spread; its encoders are tied to decoders where the neighbour's activations hardly vary.
    In the series every feature has a mean code of 1 where it is active, so that strengths can be compared.

    Args:
        batches_per_snapshot: raw activations of each snapshot, [batch, d_model] or [batch, 1, d_model]; the first are
            read again at the end, so a generator will not do.
        folder: where finished SAEs and the state of the one in work are kept; a killed series goes on from there.
        key: fingerprint of what the batches depend on, one for all or one for each; SAEs of other settings or batches
            are trained again, and so are all that follow them.
        rounds: in how many rounds each SAE takes its tokens, in the order of training; None for as many as help.
    Returns:
        The series on the CPU, inference thresholds set.
    Raises:
        ConfigError: there is no snapshot, there are more or fewer keys or rounds than snapshots, or batches cannot be
            read again.
        TrainingError: an activation or a loss is not finite.
    """
    n = len(batches_per_snapshot)
    if n == 0:
        raise ConfigError("a series needs the batches of one snapshot at least, found none")
    if any(isinstance(batches, Iterator) for batches in batches_per_snapshot):
        raise ConfigError("the batches of a snapshot can be read only once: give a list, a stream or a store")
    keys = [key] * n if isinstance(key, str) else list(key)
    for name, given in (("key", keys), ("rounds", rounds)):
        if given is not None and len(given) != n:
            raise ConfigError(f"{name}: give one for each of the {n} snapshots, found {len(given)}")
    saes: dict[int, _Trained] = {}
    before, chain = None, ""
    kernels = series_kernels(folder, device) if config.kernels == "auto" else None
    for number, place in enumerate(range(n) if config.direction == "forward" else reversed(range(n))):
        gap = config.gap_of(place, n)
        own = config.of_sae(gap)
        if before is not None and gap is not None:
            rate = learning_rate_of(own, n_snapshots=1, d_model=before.sae.d_model) * config.rate_over(gap)
            own = own.model_copy(update={"learning_rate": rate})
        most, gain = (config.rounds, config.gain) if rounds is None else (rounds[number], -np.inf)
        chain = fingerprint(chain, own, keys[place], most, gain)
        kept = None if folder is None else folder / f"sae-{place:04d}"
        found = _kept(kept, chain)
        while found is None or not found.is_done:
            found = _next_round(
                found, batches_per_snapshot[place], own, before=before, most=most, gain=gain, folder=kept, key=chain,
                events=events, device=device, kernels=kernels, stage=f"sae-{place}",
            )  # fmt: skip
        chain = fingerprint(chain, found.rounds)
        before = saes[place] = found
    means = dict(zip(saes, _of_neighbours([sae.mean_code for sae in saes.values()]), strict=True))
    return SAESeries.of([with_mean_code(saes[place].sae, means[place]) for place in range(n)])


def series_kernels(folder: Path | None, device: torch.device | str | None = None) -> str:
    """What products of all SAEs are made by where their settings leave it open, decided once: it is kept in the folder,
    so that a series that was killed between two SAEs ends in the same bits.

    Args:
        folder: of the series, as in `train_sae_series`; None to keep nothing.
    Returns:
        One of `backends.KERNELS`.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    path = None if folder is None else folder / "kernels.json"
    kept = {} if path is None or not path.is_file() else read_json(path, mend="remove it")
    with numerics():
        chosen = settled(device, kept.get(device.type))
    if path is not None and device.type not in kept:
        write_json(path, kept | {device.type: chosen})
    return chosen


def _of_neighbours(means: list[Tensor]) -> list[Tensor]:
    """Mean codes of SAEs in the order of their training, with those of the one before, or else of the next, where a
    feature is silent on the first tokens.

    Its code and direction come from the one before, and the unit of both with them.
    """
    for order in (range(1, len(means)), range(len(means) - 2, -1, -1)):
        for place in order:
            near = means[place - order.step]
            means[place] = torch.where(means[place] > 0, means[place], near)
    return means


def rounds_taken(folder: Path, n_snapshots: int) -> list[int]:
    """In how many rounds each SAE of a finished series in a folder took its tokens, in order of the snapshots."""
    files = [folder / f"sae-{place:04d}" / "first_tokens.safetensors" for place in range(n_snapshots)]
    return [int(load_file(file)["rounds"]) for file in files]


class _Trained(NamedTuple):
    """An SAE, and what the first tokens of its snapshot say of it.

    Attributes:
        mean_code: of each feature where it is active [feature]; 0 where it never is.
        inputs: of the activations, in normalised units.
        explained_variance: of theirs.
        rounds: in which it took its tokens.
        is_done: whether it takes no more.
    """

    sae: Crosscoder
    mean_code: Tensor
    inputs: Moments
    explained_variance: float
    rounds: int
    is_done: bool


def _next_round(
    found: _Trained | None,
    batches: Iterable[Tensor],
    config: CrosscoderConfig,
    *,
    before: _Trained | None,
    most: int,
    gain: float,
    folder: Path | None,
    key: str,
    **options: Any,
) -> _Trained:
    """A snapshot's SAE after one more round, kept in the folder; the first goes on from the neighbour's."""
    turn, start = (0, before) if found is None else (found.rounds, found)
    if start is not None:
        options |= {"start": start.sae, "start_inputs": start.inputs}
    checkpoint = None if folder is None else folder.with_suffix(".pt")
    whole, further = _OneSnapshot(batches), _OneSnapshot(batches, first=turn * (config.steps or 0))
    further = whole if turn == 0 else further
    try:
        sae = train_crosscoder(further, config, key=fingerprint(key, turn), checkpoint=checkpoint, **options)
    except CorpusError:
        if found is None:
            raise
        trained = found._replace(is_done=True)  # the batches have come to their end
    else:
        trained = _seen(sae, whole, head=config.norm_tokens, steps=config.steps)
        level = found is not None and trained.explained_variance - found.explained_variance < gain
        trained = trained._replace(rounds=turn + 1, is_done=level or turn + 1 >= most)
    if folder is not None:
        _keep(trained, folder, key)
    return trained


@torch.no_grad()
def _seen(sae: Crosscoder, batches: "_OneSnapshot", *, head: int, steps: int | None) -> _Trained:
    """An SAE with what the first tokens of its training say of it; moments are of the first `head`, as in its training.

    A training of a few steps has fewer tokens than FIRST_TOKENS; no more are read.
    """
    code_sum, count, n = torch.zeros(sae.n_features, dtype=torch.float64), torch.zeros(sae.n_features), 0
    x_sum, squares, error = torch.zeros(sae.d_model, dtype=torch.float64), 0.0, 0.0
    first: list[Tensor] = []
    for number, raw in enumerate(batches.once_more(), 1):
        x = raw.cpu().float() * sae.norm_scale[:, None]
        code, x_hat = sae(x)
        if n < head:
            first.append(x)
        code_sum += code.sum(0, dtype=torch.float64)
        count += (code > 0).sum(0)
        x_sum += x.sum((0, 1), dtype=torch.float64)
        squares += float(x.square().sum(dtype=torch.float64))
        error += float((x - x_hat).square().sum(dtype=torch.float64))
        n += len(x)
        if n >= FIRST_TOKENS or (steps is not None and n >= head and number >= steps):
            break
    explained = 1 - error / (squares - float(x_sum.square().sum()) / n)
    mean_code = (code_sum / count.clamp_min(1)).float()
    return _Trained(sae, mean_code, moments_of(torch.cat(first)), explained, rounds=0, is_done=False)


def _kept(folder: Path | None, key: str) -> _Trained | None:
    """An SAE that is there already."""
    if folder is None or not is_kept(folder, key):
        return None
    seen = load_file(folder / "first_tokens.safetensors")
    return _Trained(
        cast(Crosscoder, load_dictionary(folder / "dictionary")),
        seen["mean_code"],
        Moments(*(seen[name] for name in Moments._fields)),
        float(seen["explained_variance"]),
        rounds=int(seen["rounds"]),
        is_done=bool(seen["is_done"]),
    )


def _keep(trained: _Trained, folder: Path, key: str) -> None:
    names = ("explained_variance", "rounds", "is_done")
    numbers = {name: torch.tensor(getattr(trained, name), dtype=torch.float64) for name in names}
    with keeping(folder, key) as temporary:
        trained.sae.save(temporary / "dictionary")
        seen = {"mean_code": trained.mean_code, **trained.inputs._asdict(), **numbers}
        save_file(seen, temporary / "first_tokens.safetensors")
    remove(folder.with_suffix(".pt"))


class _OneSnapshot:
    """Batches with a snapshot axis of one, from number `first` on; to be taken up as far as the given ones are."""

    def __init__(self, batches: Iterable[Tensor], *, first: int = 0) -> None:
        self.batches, self.first = batches, first
        self.head: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        """Batches from number `first` + `batch` on; the first of all are kept as they pass."""
        for number, x in enumerate(self._read(batch), batch):
            wanted = number == len(self.head) and number * len(x) < FIRST_TOKENS
            if wanted and (number + 1) * x.numel() <= MOST_NUMBERS:
                self.head.append(x.clone())  # a view would hold its window
            yield x

    def once_more(self) -> Iterator[Tensor]:
        """Batches from the first on, as far as they were kept from memory."""
        kept = list(self.head)
        yield from kept
        yield from self._read(len(kept))

    def _read(self, batch: int) -> Iterator[Tensor]:
        batch += self.first
        if isinstance(self.batches, Resumable):
            return map(_with_axis, self.batches.starting_at(batch))
        given = iter(self.batches)
        for _ in range(batch):
            next(given, None)
        return map(_with_axis, given)


def _with_axis(x: Tensor) -> Float[Tensor, "batch 1 d_model"]:
    return x[:, None] if x.ndim == 2 else x
