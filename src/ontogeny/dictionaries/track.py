"""Train an SAE series: one SAE after the other on the one training loop, each from its neighbour's weights."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.config import SAESeriesConfig
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.dictionaries.sae_series import SAESeries
from ontogeny.dictionaries.train import learning_rate_of, train_crosscoder
from ontogeny.errors import ConfigError
from ontogeny.loop import Resumable
from ontogeny.progress import Events
from ontogeny.run import remove, write_text
from ontogeny.settings import fingerprint


def train_sae_series(
    batches_per_snapshot: Sequence[Iterable[Float[Tensor, "batch *one d_model"]]],
    config: SAESeriesConfig,
    *,
    folder: Path | None = None,
    key: str = "",
    events: Events | None = None,
    device: torch.device | str | None = None,
) -> SAESeries:
    """Train an SAE for every snapshot on raw activations; each takes its neighbour's weights, with a fresh optimiser.

    Args:
        batches_per_snapshot: raw activations of each snapshot, [batch, d_model] or [batch, 1, d_model].
        folder: where finished SAEs and the state of the one in work are kept; a killed series goes on from there.
        key: fingerprint of what the batches depend on; SAEs of other settings or batches are trained again.
    Returns:
        The series on the CPU, inference thresholds set.
    Raises:
        ConfigError: there is no snapshot.
        TrainingError: an activation or a loss is not finite.
    """
    if not batches_per_snapshot:
        raise ConfigError("a series needs the batches of one snapshot at least, found none")
    places = list(range(len(batches_per_snapshot)))
    order = places if config.direction == "forward" else places[::-1]
    saes: dict[int, Crosscoder] = {}
    before, chain = None, key
    for number, place in enumerate(order):
        own = config.of_sae(number)
        if before is not None:
            rate = learning_rate_of(own, n_snapshots=1, d_model=before.d_model) * config.next_learning_rate
            own = own.model_copy(update={"learning_rate": rate})
        chain = fingerprint(chain, own, place)
        kept = None if folder is None else folder / f"sae-{place:04d}"
        before = _kept(kept, chain)
        if before is None:
            previous = saes.get(order[number - 1]) if number else None
            before = train_crosscoder(
                _OneSnapshot(batches_per_snapshot[place]), own, start=previous, key=chain, events=events,
                checkpoint=None if kept is None else kept.with_suffix(".pt"), device=device, stage=f"sae-{place}",
            )  # fmt: skip
            _keep(before, kept, chain)
        saes[place] = before
    return SAESeries.of([saes[place] for place in places])


def _kept(folder: Path | None, key: str) -> Crosscoder | None:
    """An SAE that is there already."""
    if folder is None or not (folder / "key").is_file() or (folder / "key").read_text(encoding="utf-8") != key:
        return None
    return cast(Crosscoder, load_dictionary(folder / "dictionary"))


def _keep(sae: Crosscoder, folder: Path | None, key: str) -> None:
    if folder is not None:
        (folder / "key").unlink(missing_ok=True)
        sae.save(folder / "dictionary")
        write_text(folder / "key", key)
        remove(folder.with_suffix(".pt"))


class _OneSnapshot:
    """Batches with a snapshot axis of one; as many, and to be taken up, as far as the given ones are."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        return map(_with_axis, self.batches)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        """Batches from number `batch` on."""
        if isinstance(self.batches, Resumable):
            return map(_with_axis, self.batches.starting_at(batch))
        given = iter(self.batches)
        for _ in range(batch):
            next(given, None)
        return map(_with_axis, given)


def _with_axis(x: Tensor) -> Float[Tensor, "batch 1 d_model"]:
    return x[:, None] if x.ndim == 2 else x
