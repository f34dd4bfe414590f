"""Stream activations: every snapshot reads the same tokens up to the hookpoint; nothing is stored unless asked for.

The usable tokens of a corpus (position 0 and padding left out) are numbered in an order of sequences drawn for each
epoch from (seed, epoch). A window is a fixed count of consecutive numbers; inside it rows are shuffled by (seed,
window). So batch n depends on nothing but the corpus, the seed, the window and the batch size: not on the size of the
models' own batches, and not on what was read before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.activations.key import activations_key
from ontogeny.activations.store import ActivationStore, StoreView
from ontogeny.corpus.pack import Corpus
from ontogeny.corpus.tokenizer import tokenizer_hash
from ontogeny.errors import CorpusError, SuiteError
from ontogeny.models.hookpoints import read_hookpoint
from ontogeny.models.load import load_snapshot, other_dtype
from ontogeny.models.names import check_hookpoint, parse_hookpoint
from ontogeny.run import Run
from ontogeny.suites.suite import Suite, suite_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Harvester:
    """All snapshots of a suite, each truncated at the hookpoint.

    Without a budget every model stays loaded. Within one, as many as fit stay; of the others one at a time is loaded
    when it is asked for, so ask for much of one snapshot before going on to the next.

    Args:
        memory_gb: memory for loaded models, in units of 1e9 bytes; None for as much as they take.
    Raises:
        HookpointError: the models have no such hookpoint.
        SuiteError: snapshots differ in width, weights cannot be loaded, or the budget holds no model.
    """

    def __init__(
        self,
        suite: Suite,
        hookpoint: str,
        *,
        dtype: str = "float32",
        device: torch.device | str | None = None,
        memory_gb: float | None = None,
    ) -> None:
        self.suite, self.hookpoint, self.dtype = suite, parse_hookpoint(hookpoint), dtype
        check_hookpoint(suite.model_config(), self.hookpoint)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.d_model, self.n_snapshots = suite.width(), len(suite.snapshots)
        first = self._load(0)
        size = sum(tensor.nbytes for tensor in (*first.parameters(), *first.buffers()))
        fit = self.n_snapshots if memory_gb is None else int(memory_gb * 1e9 // size)
        if fit == 0:
            raise SuiteError(
                f"suite.memory_gb is {memory_gb:g}, but one model up to {hookpoint} takes {size / 1e9:.3g}: give more"
            )
        self.all_resident = fit >= self.n_snapshots
        residents = self.n_snapshots if self.all_resident else fit - 1
        self.residents = [first if snapshot == 0 else self._load(snapshot) for snapshot in range(residents)]
        self.guest: tuple[int, PreTrainedModel] | None = None if residents else (0, first)

    def _load(self, snapshot: int) -> "PreTrainedModel":
        return load_snapshot(self.suite.snapshots[snapshot], dtype=self.dtype, device=self.device, up_to=self.hookpoint)

    def _model(self, snapshot: int) -> "PreTrainedModel":
        if snapshot < len(self.residents):
            return self.residents[snapshot]
        if self.guest is None or self.guest[0] != snapshot:
            self.guest = None
            self.guest = (snapshot, self._load(snapshot))
        return self.guest[1]

    def read(
        self, snapshot: int, tokens: Int[Tensor, "sequence position"]
    ) -> Float[Tensor, "sequence position d_model"]:
        """Raw float32 activations of one snapshot."""
        return read_hookpoint(self._model(snapshot), tokens.to(self.device), self.hookpoint).float()

    def read_all(
        self, chunks: Sequence[Int[Tensor, "sequence position"]]
    ) -> list[Float[Tensor, "sequence position snapshot d_model"]]:
        """Raw float32 activations of all snapshots, for some chunks of sequences that a model reads at once."""
        size = (self.n_snapshots, self.d_model)
        read = [torch.empty(*chunk.shape, *size, device=self.device) for chunk in chunks]
        for snapshot in range(self.n_snapshots):
            for chunk, activations in zip(chunks, read, strict=True):
                activations[:, :, snapshot] = self.read(snapshot, chunk)
        return read

    def require_finite(self, activations: Float[Tensor, "token snapshot d_model"]) -> None:
        """Check the activations of tokens that count, in any units.

        Raises:
            SuiteError: a snapshot's are not finite.
        """
        finite = torch.stack([activations[:, snapshot].isfinite().all() for snapshot in range(self.n_snapshots)])
        if not finite.all():
            step = self.suite.snapshots[int(finite.int().argmin())].step
            raise SuiteError(
                f"suite {self.suite.name}: activations of step {step} at {self.hookpoint} are not finite as "
                f"{self.dtype}: {other_dtype(self.dtype)}fetch or save it again, or leave it out of suite.steps"
            )


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
        while True:
            rows = self._harvest(self._window(window), shuffle=np.random.default_rng([self.seed, 1, window]))
            for number in range(skipped, self.batches_per_window - 1):
                yield rows[number * self.batch_size : (number + 1) * self.batch_size]
            last = rows[-self.batch_size :].clone()  # whoever holds a view of a window holds all of it
            del rows
            yield last
            window, skipped = window + 1, 0

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
    def _harvest(self, window: _Window, *, shuffle: np.random.Generator) -> Float[Tensor, "row snapshot d_model"]:
        harvester, target = self.harvester, torch.from_numpy(shuffle.permutation(len(window.places)))
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


def harvester_of(run: Run, *, suite: Suite | None = None) -> Harvester:
    """The harvester of a run's suite, or of some of its snapshots; its corpus is checked against the suite."""
    suite, settings = suite or suite_of(run), run.study.suite
    require_same_tokens(suite, Corpus(run.corpus_folder / "train"))
    return Harvester(suite, run.study.hookpoint, dtype=settings.dtype, memory_gb=settings.memory_gb)


def stream_of(run: Run, *, suite: Suite | None = None, seed: int | None = None) -> ActivationStream:
    """The stream that a run's dictionary is trained on, of its suite or of some of its snapshots.

    Args:
        seed: of another order of the tokens; None for the run's own.
    """
    settings, corpus = run.study.train, Corpus(run.corpus_folder / "train")
    steps = run.steps if suite is None else suite.steps
    return ActivationStream(
        harvester_of(run, suite=suite),
        corpus,
        batch_size=settings.batch_size,
        window_tokens=settings.window_tokens,
        model_batch_size=settings.model_batch_size,
        seed=settings.seed if seed is None else seed,
        store=None if settings.store_gb is None else store_of(run).view([run.steps.index(step) for step in steps]),
    )


def store_of(run: Run) -> ActivationStore:
    """The store of a run that has one, checked."""
    settings, suite, corpus = run.study.train, suite_of(run), Corpus(run.corpus_folder / "train")
    assert settings.store_gb is not None
    store = ActivationStore(
        run.folder / "activations",
        key=activations_key(run),
        steps=suite.steps,
        width=suite.width(),
        dtype=settings.store_dtype,
        n_sequences=len(corpus),
        max_bytes=int(settings.store_gb * 1e9),
    )
    store.verify()
    return store


def require_same_tokens(suite: Suite, corpus: Corpus) -> None:
    """Check that a corpus was packed with a suite's tokenizer and fits its context.

    Raises:
        CorpusError: it was not, or its sequences are longer than the models can read.
    """
    corpus.require_tokenizer(tokenizer_hash(suite.tokenizer()), owner=f"suite {suite.name}")
    context = suite.model_config().get("max_position_embeddings")
    if context is not None and corpus.sequence_length > context:
        raise CorpusError(
            f"{corpus.folder}: sequences of {corpus.sequence_length} tokens, but the models read {context} at most: "
            f"set corpus.sequence_length to {context} or less"
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


def usable_positions(lengths: Sequence[int] | np.ndarray, sequence_length: int) -> np.ndarray:
    """Mask [sequence, position] of the tokens that count: position 0 and padding left out."""
    position = np.arange(sequence_length)
    return (position >= 1) & (position < np.asarray(lengths)[:, None])
