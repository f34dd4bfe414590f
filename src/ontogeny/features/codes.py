"""The codes of a sample of held-out tokens: made once, kept sparse in the table `codes`, read by all who need some."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor

from ontogeny.activations.harvest import Harvester
from ontogeny.config.study import MeasureConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.features.measure import Chunk, chosen_sequences, chunks_of
from ontogeny.loop import numerics
from ontogeny.progress import progress_bar
from ontogeny.run import Run


@dataclass
class CodeSample:
    """The codes of some held-out sequences.

    Attributes:
        sequences: indices into the held-out corpus, chunk by chunk [sequence].
        usable: positions that count, chunk by chunk [sequence, position].
        codes: `widest_code`, sparse, chunk by chunk [sequence·position, feature].
    """

    sequences: list[np.ndarray]
    usable: list[Tensor]
    codes: list[Tensor]

    def table(self) -> pl.DataFrame:
        """The table `codes`."""
        parts = []
        for sequences, usable, codes in zip(self.sequences, self.usable, self.codes, strict=True):
            row, feature = codes.indices().cpu().numpy()
            length = usable.shape[1]
            parts.append(
                pl.DataFrame(
                    {
                        "snapshot": pl.Series([None] * len(row), dtype=pl.Int16),
                        "sequence": sequences[row // length].astype(np.int32),
                        "position": (row % length).astype(np.int16),
                        "feature": feature.astype(np.int32),
                        "code": codes.values().cpu().numpy(),
                    }
                )
            )
        return pl.concat(parts)


@torch.no_grad()
def sample_codes(crosscoder: Crosscoder, harvester: Harvester, held_out: Corpus, config: MeasureConfig) -> CodeSample:
    """Codes of the first `config.sample_tokens` of the held-out tokens in their drawn order."""
    sample = CodeSample([], [], [])
    places = {"tokens": config.sample_tokens, "sequences_at_once": config.model_batch_size, "seed": config.seed}
    chunks = chosen_sequences(held_out, **places)
    with numerics(), progress_bar("codes", len(chunks), unit="chunks") as bar:
        for chunk in chunks_of(crosscoder, harvester, held_out, **places):
            sample.sequences.append(chunk.sequences.cpu().numpy())
            sample.usable.append(chunk.usable)
            sample.codes.append(_sparse_code(crosscoder, chunk))
            bar.advance(1)
    return sample


def _sparse_code(crosscoder: Crosscoder, chunk: Chunk) -> Tensor:
    code = crosscoder.widest_code(crosscoder.pre_activations(chunk.x))
    return code.masked_fill_(~chunk.usable.view(-1, 1), 0).to_sparse()


@dataclass(frozen=True)
class StoredCodes:
    """A run's table `codes`, with the usable tokens of its sequences numbered through.

    Attributes:
        codes: sparse [feature, token].
        sequences: indices into the held-out corpus, ascending [sequence].
        token: id of each usable token, sequence by sequence [token].
        sequence: number of the sequence in `sequences` that it stands in [token].
    """

    codes: Tensor
    sequences: Int[np.ndarray, " sequence"]
    token: Int[np.ndarray, " token"]
    sequence: Int[np.ndarray, " token"]

    @property
    def tokens(self) -> int:
        """Number of tokens, those without any code among them."""
        return len(self.token)


def stored_codes(run: Run, *, snapshot: int = -1) -> StoredCodes:
    """The codes that a run kept of its held-out tokens.

    Args:
        snapshot: whose, where snapshots have codes of their own.
    """
    snapshot %= len(run.steps)
    table = run.scan("codes").filter(pl.col("snapshot").is_null() | (pl.col("snapshot") == snapshot)).collect()
    corpus = Corpus(run.corpus_folder / "held_out")
    sequences = sampled_sequences(run)
    usable = corpus.lengths[sequences].astype(np.int64) - 1
    starts = usable.cumsum() - usable
    place = np.searchsorted(sequences, table["sequence"].to_numpy())
    at = starts[place] + table["position"].to_numpy() - 1
    places = torch.from_numpy(np.stack([table["feature"].to_numpy().astype(np.int64), at]))
    values = torch.from_numpy(table["code"].to_numpy().copy())
    size = (len(run.features), int(usable.sum()))
    codes = torch.sparse_coo_tensor(places, values, size, check_invariants=True).coalesce()
    token = np.concatenate([corpus.tokens[sequence, 1 : 1 + n] for sequence, n in zip(sequences, usable, strict=True)])
    return StoredCodes(codes, sequences, token.astype(np.int64), np.repeat(np.arange(len(sequences)), usable))


def sampled_sequences(run: Run) -> Int[np.ndarray, " sequence"]:
    """Indices of the held-out sequences whose codes a run kept, ascending."""
    return run.scan("codes").select(pl.col("sequence").unique()).collect()["sequence"].sort().to_numpy()


def code_correlations(a: Tensor, b: Tensor) -> np.ndarray:
    """Correlation over tokens of each feature's two codes [feature]; nan where one of them is the same on all tokens.

    Args:
        a, b: sparse [feature, token].
    """
    return correlated(as_csr(a), as_csr(b))


def correlated(one: csr_array, other: csr_array) -> np.ndarray:
    """The same of matrices as scipy has them."""
    tokens = int(one.shape[1])  # pyright: ignore[reportOptionalSubscript]
    means = [np.asarray(codes.mean(axis=1)).ravel() for codes in (one, other)]
    squares = [np.asarray(codes.multiply(codes).sum(axis=1)).ravel() / tokens for codes in (one, other)]
    both = np.asarray(one.multiply(other).sum(axis=1)).ravel() / tokens - means[0] * means[1]
    spread = np.sqrt(np.prod([square - mean**2 for square, mean in zip(squares, means, strict=True)], axis=0))
    return np.divide(both, spread, out=np.full(len(both), np.nan), where=spread > 0)


def as_csr(codes: Tensor) -> csr_array:
    """Sparse codes [feature, token] as scipy has them, float64."""
    values, places = codes.values().double().cpu().numpy(), codes.indices().cpu().numpy()
    return csr_array((values, (places[0], places[1])), shape=tuple(codes.shape))
