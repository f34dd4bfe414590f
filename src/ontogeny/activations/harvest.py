"""Harvest: run snapshots, truncated at the hookpoint, on tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.corpus.pack import Corpus
from ontogeny.corpus.tokenizer import tokenizer_hash
from ontogeny.errors import CorpusError, SuiteError
from ontogeny.families import shape_of
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


def harvester_of(run: Run, *, suite: Suite | None = None) -> Harvester:
    """The harvester of a run's suite, or of some of its snapshots; its corpus is checked against the suite."""
    suite, settings = suite or suite_of(run), run.study.suite
    require_same_tokens(suite, Corpus(run.corpus_folder / "train"))
    return Harvester(suite, run.study.hookpoint, dtype=settings.dtype, memory_gb=settings.memory_gb)


def require_same_tokens(suite: Suite, corpus: Corpus) -> None:
    """Check that a corpus was packed with a suite's tokenizer and fits its context.

    Raises:
        CorpusError: it was not, or its sequences are longer than the models can read.
    """
    corpus.require_tokenizer(tokenizer_hash(suite.tokenizer()), owner=f"suite {suite.name}")
    context = shape_of(suite.model_config()).context
    if context is not None and corpus.sequence_length > context:
        raise CorpusError(
            f"{corpus.folder}: sequences of {corpus.sequence_length} tokens, but the models read {context} at most: "
            f"set corpus.sequence_length to {context} or less"
        )


def usable_positions(lengths: Sequence[int] | np.ndarray, sequence_length: int) -> np.ndarray:
    """Mask [sequence, position] of the tokens that count: position 0 and padding left out."""
    position = np.arange(sequence_length)
    return (position >= 1) & (position < np.asarray(lengths)[:, None])
