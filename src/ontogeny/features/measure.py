"""Measure a dictionary's features in one pass over the corpus, in memory that does not grow with it.

Per chunk of sequences each snapshot's own part of the encoder outputs is made, added up, and forgotten; no
[batch, snapshot, feature] tensor arises. Sums over active tokens use a sparse product.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.activations.harvest import Harvester, usable_positions
from ontogeny.config.settings import fingerprint
from ontogeny.config.study import MeasureConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.features.examples import Leaders
from ontogeny.loop import Checkpoint, numerics
from ontogeny.progress import Events, progress_bar

WINDOW_TOKENS = 32_768
"""Tokens read from one snapshot before the next is loaded, where not all fit in memory."""


@dataclass
class Chunk:
    """Some sequences with the activations of every snapshot.

    Attributes:
        sequences: indices into the corpus [sequence].
        usable: [sequence, position].
        x: [sequence·position, snapshot, d_model] in normalised units.
    """

    sequences: Tensor
    usable: Bool[Tensor, "sequence position"]
    x: Float[Tensor, "token snapshot d_model"]


def chunks_of(
    crosscoder: Crosscoder,
    harvester: Harvester,
    corpus: Corpus,
    *,
    tokens: int,
    sequences_at_once: int,
    seed: int,
    first: int = 0,
) -> Iterator[Chunk]:
    """Chunks of sequences in an order drawn from the seed, until they hold enough usable tokens.

    Args:
        first: number of the chunk to begin with.
    """
    order = chosen_sequences(corpus, tokens=tokens, sequences_at_once=sequences_at_once, seed=seed)[first:]
    together = 1 if harvester.all_resident else max(1, WINDOW_TOKENS // (sequences_at_once * corpus.sequence_length))
    for group in (order[place : place + together] for place in range(0, len(order), together)):
        read = harvester.read_all([torch.from_numpy(corpus.tokens[chosen].astype(np.int64)) for chosen in group])
        for chosen in group:
            x = read.pop(0).flatten(0, 1) * crosscoder.norm_scale[:, None]
            usable = torch.from_numpy(usable_positions(corpus.lengths[chosen], corpus.sequence_length)).to(x.device)
            harvester.require_finite(x[usable.flatten()])
            yield Chunk(torch.from_numpy(chosen).to(x.device), usable, x)


def products(x: Float[Tensor, "token snapshot d_model"]) -> Tensor:
    """Sum over tokens of each snapshot's outer products, float64 [snapshot, d_model, d_model]."""
    by_snapshot = x.transpose(0, 1)
    return torch.bmm(by_snapshot.transpose(1, 2), by_snapshot).double()


def chosen_sequences(corpus: Corpus, *, tokens: int, sequences_at_once: int, seed: int) -> list[np.ndarray]:
    """Indices of the sequences of each chunk."""
    order = np.random.default_rng([seed, 2]).permutation(len(corpus))
    usable = (corpus.lengths[order].astype(np.int64) - 1).cumsum()
    enough = int(np.searchsorted(usable, tokens)) + 1
    order = order[:enough]
    return [order[first : first + sequences_at_once] for first in range(0, len(order), sequences_at_once)]


class Measurement:
    """Sums over the tokens seen so far.

    Attributes:
        tokens: usable tokens seen.
        active: tokens on which each feature is active at some snapshot [feature].
        active_at, code_sum: active tokens and sum of the codes [1, feature] where the snapshots share the code, else
            [snapshot, feature].
        code_max: greatest code [feature].
        x_sum: sum of the normalised activations [snapshot, d_model].
        x_products: sum of their outer products, for a PCA [snapshot, d_model, d_model].
        x_sum_where_active: sum of the normalised activations where each feature is active [feature, snapshot·d_model].
        top, quantile: leading and randomly drawn contexts by the code.
        own: leading contexts by each snapshot's own part of the code, one `Leaders` per snapshot; empty where there is
            one, whose own part is the code.
    """

    def __init__(self, crosscoder: Crosscoder, config: MeasureConfig) -> None:
        self.crosscoder, self.config = crosscoder, config
        n, d, f, device = crosscoder.n_snapshots, crosscoder.d_model, crosscoder.n_features, crosscoder.b_dec.device
        self.tokens = 0
        self.active = torch.zeros(f, dtype=torch.int64, device=device)
        rows = 1 if crosscoder.gate == "shared" else n
        self.active_at = torch.zeros(rows, f, dtype=torch.int64, device=device)
        self.code_sum = torch.zeros(rows, f, dtype=torch.float64, device=device)
        self.code_max = torch.zeros(f, device=device)
        self.x_sum = torch.zeros(n, d, dtype=torch.float64, device=device)
        self.x_products = torch.zeros(n, d, d, dtype=torch.float64, device=device)
        self.x_sum_where_active = torch.zeros(f, n * d, device=device)

        def leaders(ranks: int) -> Leaders:
            return Leaders.empty(f, ranks, before=config.context_before, after=config.context_after, device=device)

        self.top, self.quantile = leaders(config.examples), leaders(config.quantile_examples)
        self.own = [leaders(config.snapshot_examples) for _ in range(n)]

    def add(self, chunk: Chunk, *, number: int) -> None:
        """Add chunk number `number`; the number seeds the draw of the quantile examples."""
        crosscoder = self.crosscoder
        sequences, positions = chunk.usable.shape
        unusable = ~chunk.usable
        pre = crosscoder.b_enc.expand(len(chunk.x), -1).clone()
        for snapshot in range(crosscoder.n_snapshots):
            part = crosscoder.own_parts(chunk.x[:, snapshot], snapshot)
            pre += part
            if crosscoder.n_snapshots > 1:
                part = part.view(sequences, positions, -1)
                part[unusable] = -torch.inf
                self.own[snapshot].update(part.amax(1), part, chunk.sequences)
        pre.view(sequences, positions, -1)[unusable] = -torch.inf
        code = crosscoder.widest_code(pre).nan_to_num_(0).view(sequences, positions, -1)
        flat = code.flatten(0, 1)
        self.tokens += int(chunk.usable.sum())
        self.active += (flat > 0).sum(0)
        self._add_codes(flat, pre, chunk.x)
        peaks = code.amax(1)
        self.code_max = torch.maximum(self.code_max, peaks.amax(0))
        x = chunk.x[chunk.usable.flatten()]
        self.x_sum += x.sum(0, dtype=torch.float64)
        self.x_products += products(x)
        code[unusable] = -torch.inf
        self.top.update(peaks.masked_fill(peaks <= 0, -torch.inf), code, chunk.sequences)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        drawn = torch.rand(peaks.shape, generator=generator).to(peaks.device)
        self.quantile.update(drawn.masked_fill(peaks <= 0, -torch.inf), code, chunk.sequences)

    def _add_codes(self, widest: Tensor, pre: Tensor, x: Tensor) -> None:
        """Add the codes of a chunk: once where snapshots share them, else snapshot by snapshot."""
        crosscoder = self.crosscoder
        if crosscoder.gate == "shared":
            self.active_at += (widest > 0).sum(0)
            self.code_sum += widest.sum(0, dtype=torch.float64)
            self.x_sum_where_active += _sum_where(widest > 0, x.flatten(1))
            return
        strength, d = crosscoder.strength(), crosscoder.d_model
        for snapshot in range(crosscoder.n_snapshots):
            code = crosscoder.code_at(pre, snapshot, strength=strength).nan_to_num_(0)
            self.active_at[snapshot] += (code > 0).sum(0)
            self.code_sum[snapshot] += code.sum(0, dtype=torch.float64)
            own = slice(snapshot * d, (snapshot + 1) * d)
            self.x_sum_where_active[:, own] += _sum_where(code > 0, x[:, snapshot])

    def mean(self) -> Float[Tensor, "snapshot d_model"]:
        """Mean of the normalised activations."""
        return (self.x_sum / self.tokens).float()

    def principal_directions(self) -> Float[Tensor, "snapshot d_model component"]:
        """Principal directions of each snapshot's activations, the one of greatest variance first."""
        mean = self.x_sum / self.tokens
        covariance = self.x_products / self.tokens - torch.einsum("sd,se->sde", mean, mean)
        return torch.linalg.eigh(covariance).eigenvectors.flip(-1)

    def strength(self) -> Float[Tensor, "snapshot feature"]:
        """Strength of each feature, 0 where it is never active."""
        return self.crosscoder.strength() * (self.active_at > 0)

    def own_part_mean(self) -> Float[Tensor, "snapshot feature"]:
        """Mean of each snapshot's own part of the code over the tokens where the feature is active; nan if none."""
        crosscoder = self.crosscoder
        products = self.x_sum_where_active * crosscoder.encoder_rows
        sums = products.view(crosscoder.n_features, crosscoder.n_snapshots, crosscoder.d_model).sum(-1).T
        if crosscoder.apply_b_dec_to_input:
            sums = sums - self.active_at * torch.einsum("sd,sdf->sf", crosscoder.b_dec, crosscoder.W_enc)
        if crosscoder.encoder == "mean":
            sums = sums / crosscoder.n_snapshots
        return sums / self.active_at

    def state(self) -> dict[str, Any]:
        sums = ("active", "active_at", "code_sum", "code_max", "x_sum", "x_products", "x_sum_where_active")
        return {
            "tokens": self.tokens,
            "sums": {name: getattr(self, name) for name in sums},
            "top": self.top.state(),
            "quantile": self.quantile.state(),
            "own": [leaders.state() for leaders in self.own],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.tokens = state["tokens"]
        for name, saved in state["sums"].items():
            getattr(self, name).copy_(saved)
        self.top.restore(state["top"])
        self.quantile.restore(state["quantile"])
        for leaders, saved in zip(self.own, state["own"], strict=True):
            leaders.restore(saved)


def _sum_where(
    active: Bool[Tensor, "token feature"], x: Float[Tensor, "token width"]
) -> Float[Tensor, "feature width"]:
    """For each feature the sum of x over the tokens where it is active, without a dense product."""
    token = active.T.nonzero()[:, 1]
    ones = torch.ones(len(token), dtype=x.dtype, device=x.device)
    offsets = torch.zeros(active.shape[1], dtype=torch.int64, device=x.device)
    offsets[1:] = active.sum(0).cumsum(0)[:-1]
    return torch.nn.functional.embedding_bag(token, x, offsets, mode="sum", per_sample_weights=ones)


@torch.no_grad()
def measure_features(
    crosscoder: Crosscoder,
    harvester: Harvester,
    corpus: Corpus,
    config: MeasureConfig,
    *,
    checkpoint: Path | None = None,
    key: str = "",
    events: Events | None = None,
) -> Measurement:
    """Pass over the corpus once and measure every feature.

    Args:
        checkpoint: file for the state of a pass that may be interrupted; removed by the caller.
        key: fingerprint of dictionary, models and corpus; a checkpoint with another key is ignored.
    """
    measurement = Measurement(crosscoder, config)
    kept = Checkpoint(checkpoint, fingerprint(config, key))
    events = events or Events()
    places = {
        "tokens": config.tokens,
        "sequences_at_once": config.model_batch_size,
        "seed": config.seed,
    }
    total = len(chosen_sequences(corpus, **places))
    start = 0
    with numerics():
        if (saved := kept.read()) is not None:
            measurement.restore(saved["measurement"])
            start = saved["chunks"]
            events.emit("measure", "resumed", chunk=start)
        chunks = chunks_of(crosscoder, harvester, corpus, **places, first=start)
        with progress_bar("measure", total, unit="chunks", done=start) as bar:
            for number, chunk in enumerate(chunks, start=start):
                measurement.add(chunk, number=number)
                bar.advance(1)
                events.emit("measure", "step", step=number + 1, tokens=measurement.tokens)
                kept.write_if_due(lambda done=number + 1: {"chunks": done, "measurement": measurement.state()})
    return measurement
