"""Stream activations: every snapshot reads the same tokens up to the hookpoint; nothing is stored unless asked for.

The usable tokens of a corpus (position 0 and padding left out) are numbered in an order of sequences drawn for each
epoch from (seed, epoch). A window is a fixed count of consecutive numbers; inside it rows are shuffled by (seed,
window). So batch n depends on nothing but the corpus, the seed, the window and the batch size: not on the size of the
models' own batches, and not on what was read before it.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.activations.harvest import Harvester, harvester_of, require_same_tokens
from ontogeny.activations.key import activations_key
from ontogeny.activations.store import ActivationStore, StoreView, rounding_error
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import CorpusError, StoreError
from ontogeny.run import Run
from ontogeny.suites.suite import Suite, suite_of

HARVEST_AGAIN = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01}
"""How far, as a share of its norm, the same token may come out elsewhere when models read other sequences beside it."""


@dataclass(frozen=True)
class _Window:
    """Consecutive usable tokens: the sequences that hold them, and each row's place in those."""

    sequences: np.ndarray
    """[sequence] indices into the corpus"""
    places: np.ndarray
    """[row] index into the flattened [sequence, position] of `sequences`"""


class ActivationStream:
    """Batches of raw activations [batch, snapshot, d_model], float32.

    Iterating gives the whole batches of one epoch, `len` of them; `starting_at` goes on epoch after epoch, without end.
    """

    def __init__(
        self,
        harvester: Harvester,
        corpus: Corpus,
        *,
        batch_size: int,
        window_tokens: int,
        model_batch_size: int,
        seed: int,
        store: StoreView | None = None,
    ) -> None:
        self.harvester, self.corpus, self.store = harvester, corpus, store
        self.batch_size, self.model_batch_size, self.seed = batch_size, model_batch_size, seed
        self.batches_per_window = max(1, window_tokens // batch_size)
        self.usable = corpus.lengths.astype(np.int64) - 1
        self.tokens_per_epoch = int(self.usable.sum())
        if self.tokens_per_epoch == 0:
            raise CorpusError(f"{corpus.folder} has no usable token: every sequence ends at its start token")

    def __iter__(self) -> Iterator[Float[Tensor, "batch snapshot d_model"]]:
        return islice(self.starting_at(0), len(self))

    def __len__(self) -> int:
        return self.tokens_per_epoch // self.batch_size

    def starting_at(self, batch: int) -> Iterator[Float[Tensor, "batch snapshot d_model"]]:
        """Batches from number `batch` on, without end."""
        window, skipped = divmod(batch, self.batches_per_window)
        with ThreadPoolExecutor(1) as ahead:
            following: Future[Tensor] | None = None
            while True:
                rows = self._harvest(self._window(window), window) if following is None else following.result()
                following = self._begin(window + 1, ahead)
                for number in range(skipped, self.batches_per_window - 1):
                    yield rows[number * self.batch_size : (number + 1) * self.batch_size]
                last = rows[-self.batch_size :].clone()  # whoever holds a view of a window holds all of it
                del rows
                yield last
                window, skipped = window + 1, 0

    def _begin(self, number: int, ahead: ThreadPoolExecutor) -> "Future[Tensor] | None":
        """Begin to read a window while the one before it is used, where nothing of it is to be harvested."""
        if self.store is None or not self.store.has((window := self._window(number)).sequences).all():
            return None
        return ahead.submit(self._harvest, window, number)

    def _window(self, window: int) -> _Window:
        """Usable tokens number window·size … (window + 1)·size - 1, counted through the epochs."""
        size = self.batches_per_window * self.batch_size
        sequences: list[np.ndarray] = []
        places: list[np.ndarray] = []
        start, rows_before = window * size, 0
        while start < (window + 1) * size:
            epoch, first = divmod(start, self.tokens_per_epoch)
            last = min(first + (window + 1) * size - start, self.tokens_per_epoch)
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.corpus))
            ends = self.usable[order].cumsum()
            low, high = np.searchsorted(ends, first, side="right"), np.searchsorted(ends, last - 1, side="right") + 1
            chosen = order[low:high]
            lengths = self.usable[chosen]
            row = np.repeat(np.arange(len(chosen)), lengths)
            position = np.concatenate([np.arange(1, n + 1) for n in lengths])
            offset = first - (ends[low] - self.usable[order[low]])
            taken = slice(offset, offset + last - first)
            places.append((row[taken] + rows_before) * self.corpus.sequence_length + position[taken])
            sequences.append(chosen)
            rows_before += len(chosen)
            start += last - first
        return _Window(np.concatenate(sequences), np.concatenate(places))

    @torch.no_grad()
    def _harvest(self, window: _Window, number: int) -> Float[Tensor, "row snapshot d_model"]:
        """The rows of a window, shuffled by its number."""
        harvester = self.harvester
        shuffle = np.random.default_rng([self.seed, 1, number])
        target = torch.from_numpy(shuffle.permutation(len(window.places)))
        rows = torch.empty(len(window.places), harvester.n_snapshots, harvester.d_model, device=harvester.device)
        if self.store is None:
            self._run_models(window, rows, target)
        else:
            self._from_store(self.store, window, rows, target)
        return rows

    def _run_models(self, window: _Window, rows: Tensor, target: Tensor) -> None:
        """Write each place's activations to its row."""
        harvester, length = self.harvester, self.corpus.sequence_length
        places = torch.from_numpy(window.places)
        parts = []
        for first in range(0, len(window.sequences), self.model_batch_size):
            chunk = window.sequences[first : first + self.model_batch_size]
            tokens = torch.from_numpy(self.corpus.tokens[chunk].astype(np.int64))
            here = ((places >= first * length) & (places < (first + len(chunk)) * length)).nonzero().squeeze(1)
            inside = (places[here] - first * length).to(harvester.device)
            parts.append((tokens, inside, target[here].to(harvester.device)))
        for snapshot in range(harvester.n_snapshots):
            for tokens, inside, to in parts:
                rows[to, snapshot] = harvester.read(snapshot, tokens).flatten(0, 1)[inside]
        harvester.require_finite(rows)

    def _from_store(self, store: StoreView, window: _Window, rows: Tensor, target: Tensor) -> None:
        """The same from the store; what it lacks is harvested, rounded alike, and kept as far as its budget goes."""
        length = self.corpus.sequence_length
        missing = np.unique(window.sequences[~store.has(window.sequences)])
        lengths = self.usable[missing]
        fresh = store.take(missing, lengths, self._whole(missing, lengths)) if len(missing) else None
        first_row = dict(zip(missing.tolist(), (lengths.cumsum() - lengths).tolist(), strict=True))
        bounds = np.searchsorted(window.places, np.arange(len(window.sequences) + 1) * length)
        for number, sequence in enumerate(window.sequences.tolist()):
            own = slice(bounds[number], bounds[number + 1])
            position = torch.from_numpy(window.places[own] - number * length - 1)
            if sequence in first_row:
                assert fresh is not None
                found = fresh[position + first_row[sequence]]
            else:
                found = store.read(sequence)[position]
            rows[target[own].to(rows.device)] = found.to(rows.device)

    def _whole(self, sequences: np.ndarray, lengths: np.ndarray) -> Float[Tensor, "row snapshot d_model"]:
        """All usable rows of some sequences, one after another."""
        n, d = self.harvester.n_snapshots, self.harvester.d_model
        first = np.arange(len(sequences)) * self.corpus.sequence_length
        places = np.concatenate([start + np.arange(1, n + 1) for start, n in zip(first, lengths, strict=True)])
        rows = torch.empty(len(places), n, d, device=self.harvester.device)
        self._run_models(_Window(sequences, places), rows, torch.arange(len(places)))
        return rows.cpu()


class SnapshotStream:
    """One snapshot's stream of a run, from batch number `first` on; the model is loaded when batches are asked for."""

    def __init__(self, run: Run, snapshot: int, *, first: int = 0) -> None:
        self.run, self.snapshot, self.first = run, snapshot, first

    def __iter__(self) -> Iterator[Float[Tensor, "batch 1 d_model"]]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Float[Tensor, "batch 1 d_model"]]:
        """Batches from number `first` + `batch` on, without end."""
        one = suite_of(self.run).only([self.snapshot])
        return stream_of(self.run, suite=one).starting_at(self.first + batch)


def stream_of(
    run: Run, *, suite: Suite | None = None, seed: int | None = None, stored: bool = True
) -> ActivationStream:
    """The stream that a run's dictionary is trained on, of its suite or of some of its snapshots.

    Args:
        seed: of another order of the tokens; None for the run's own.
        stored: take what the run's store has, where it has one, and keep there what it has not.
    """
    settings, corpus = run.study.train, Corpus(run.corpus_folder / "train")
    steps = run.steps if suite is None else suite.steps
    store = store_of(run) if stored else None
    return ActivationStream(
        harvester_of(run, suite=suite),
        corpus,
        batch_size=settings.batch_size,
        window_tokens=settings.window_tokens,
        model_batch_size=settings.model_batch_size,
        seed=settings.seed if seed is None else seed,
        store=None if store is None else store.view([run.steps.index(step) for step in steps]),
    )


def store_of(run: Run) -> ActivationStore | None:
    """The store of a run, checked; None for a run that keeps no activations."""
    budget, suite, corpus = run.store_gb_of(run.study), suite_of(run), Corpus(run.corpus_folder / "train")
    if budget is None:
        return None
    store = ActivationStore(
        run.folder / "activations",
        key=activations_key(run),
        steps=suite.steps,
        width=suite.width(),
        dtype=run.study.train.store_dtype,
        n_sequences=len(corpus),
        max_bytes=int(budget * 1e9),
    )
    store.verify()
    return store


class Verified(NamedTuple):
    """What a store holds.

    Attributes:
        shards, sequences, tokens, bytes: their numbers.
        compared: tokens that were harvested again.
        difference: the greatest of ‖stored - harvested‖ / ‖harvested‖ over those and the snapshots.
    """

    shards: int
    sequences: int
    tokens: int
    bytes: int
    compared: int
    difference: float


@torch.no_grad()
def verify_store(run: Run, *, compared: int = 8) -> Verified:
    """Check a run's store: the size and hash of every shard, and some sequences against the models.

    Args:
        compared: sequences that are harvested again, spread over the shards.
    Raises:
        StoreError: the run has no store; a shard is missing, short or changed; or rows are not what their snapshots
            give at their tokens.
    """
    if run.store_gb_of(run.study) is None:
        raise StoreError(f"the study of {run.folder} keeps no activations: set train.store_gb in it, and train")
    if not (run.folder / "activations" / "manifest.json").is_file():
        raise StoreError(f"{run.folder / 'activations'} holds nothing yet: ontogeny train {run.folder}")
    store = store_of(run)
    assert store is not None
    store.verify(again=True)
    harvester, corpus = harvester_of(run), Corpus(run.corpus_folder / "train")
    kept = np.flatnonzero(store.shard_of >= 0)
    kept = kept[np.lexsort((store.first_row[kept], store.shard_of[kept]))]
    chosen = kept[np.unique(np.linspace(0, len(kept) - 1, compared).round().astype(int))]
    difference = 0.0
    for snapshot, step in enumerate(run.steps):
        for sequence in chosen.tolist():
            tokens = torch.from_numpy(corpus.tokens[sequence][None].astype(np.int64))
            stored = store.read(sequence, slice(snapshot, snapshot + 1))[:, 0]
            fresh = harvester.read(snapshot, tokens)[0, 1 : len(stored) + 1].cpu()
            norm, moved = fresh.norm(dim=1), (stored - fresh).norm(dim=1)
            allowed = rounding_error(fresh, store.dtype) + HARVEST_AGAIN[run.study.suite.dtype] * norm
            if not (moved <= allowed).all():
                raise StoreError(
                    f"{store.folder}: sequence {sequence} at step {step} is not what the model gives (it differs by "
                    f"{float((moved / norm).max()):.2g} of its norm): remove {store.folder}, it will be made again"
                )
            difference = max(difference, float((moved / norm).max()))
    rows = store.rows_of[kept]
    return Verified(
        shards=len(store.shards),
        sequences=len(kept),
        tokens=int(rows.sum()),
        bytes=store.nbytes,
        compared=int(store.rows_of[chosen].sum()),
        difference=difference,
    )


def stream_activations(
    suite: Suite,
    corpus: Corpus,
    *,
    hookpoint: str,
    batch_size: int = 2048,
    seed: int = 0,
    window_tokens: int = 32_768,
    model_batch_size: int = 16,
    dtype: str = "float32",
    device: torch.device | str | None = None,
    memory_gb: float | None = None,
) -> ActivationStream:
    """Raw activations of all snapshots on the same tokens, shuffled inside windows; nothing is stored.

    Position 0 and padding are left out. Iterating ends after one epoch; training for more `steps` goes on into further
    epochs, each in its own order.

    Args:
        hookpoint: such as `resid_post.2`.
        batch_size: tokens in a batch.
        seed: with the window's number it decides the order.
        window_tokens: tokens shuffled among each other; their activations are held in memory.
        model_batch_size: sequences that a model reads at once; it changes no batch's tokens.
        dtype: dtype of the models' weights; batches are float32.
        memory_gb: memory for loaded models; the rest are loaded for each window and dropped again.
    Returns:
        An iterable of float32 [batch, snapshot, d_model] with a length.
    Raises:
        HookpointError: the models have no such hookpoint.
        CorpusError: the corpus was packed with another tokenizer, or is longer than the models' context.
        SuiteError: weights cannot be loaded, or snapshots differ in width.
    """
    require_same_tokens(suite, corpus)
    harvester = Harvester(suite, hookpoint, dtype=dtype, device=device, memory_gb=memory_gb)
    return ActivationStream(
        harvester,
        corpus,
        batch_size=batch_size,
        window_tokens=window_tokens,
        model_batch_size=model_batch_size,
        seed=seed,
    )
