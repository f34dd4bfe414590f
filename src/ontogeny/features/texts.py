"""How strongly activations show each feature on a text: what least squares make of its strength there.

    shown_i[θ] = Σ_t f_i (‖W_dec[θ, i]‖ f_i + ⟨x[θ] − x̂[θ], û_i[θ]⟩) / Σ_t f_i²

over tokens t on which the feature is active: its own contribution and what all leave along its direction û. Where
training minimises the squared error alone, it is the strength itself on the training text.

Source: latent scaling, Minder et al. 2025, arXiv 2504.02922, in units of strength.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor

from ontogeny.activations.harvest import Harvester
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.kernels import Entries
from ontogeny.features.measure import Chunk, chosen_sequences, chunks_of
from ontogeny.intervals import cluster_draws
from ontogeny.loop import numerics
from ontogeny.progress import Bar

GROUPS = 64
"""Most groups that a text's documents are dealt into, each document wholly to one; they are what intervals draw."""
LEAST_GROUPS = 8
"""A feature that is active in fewer groups of a text is not compared."""
FEATURES_AT_ONCE = 4096


@dataclass(frozen=True)
class TextSums:
    """Sums over the active tokens of a text, group of documents by group.

    Attributes:
        product: Σ f · what the activation has along the feature's direction [snapshot, group, feature].
        square: Σ f² [snapshot, group, feature].
        active: active tokens at some snapshot [feature].
        tokens: in all.
    """

    product: Float[np.ndarray, "snapshot group feature"]
    square: Float[np.ndarray, "snapshot group feature"]
    active: np.ndarray
    tokens: int

    def at(self, snapshot: int) -> "tuple[np.ndarray, np.ndarray]":
        """Both sums at one snapshot, double precision [group, feature]."""
        return self.product[snapshot].astype(np.float64), self.square[snapshot].astype(np.float64)


@torch.no_grad()
def text_sums(
    crosscoder: Crosscoder, harvester: Harvester, corpus: Corpus, *, tokens: int, sequences_at_once: int, seed: int,
    bar: Bar | None = None,
) -> TextSums:  # fmt: skip
    """Read some of a corpus at all of a crosscoder's snapshots and add up how strongly features are shown."""
    places = {"tokens": tokens, "sequences_at_once": sequences_at_once, "seed": seed}
    group = _groups(corpus, np.concatenate(chosen_sequences(corpus, **places)))
    n, f, device = crosscoder.n_snapshots, crosscoder.n_features, crosscoder.b_dec.device
    product = torch.zeros(n, int(group.max()) + 1, f, device=device)
    square, active, count = torch.zeros_like(product), torch.zeros(f, dtype=torch.int64, device=device), 0
    with numerics():
        for chunk in chunks_of(crosscoder, harvester, corpus, **places):
            own = torch.from_numpy(group[chunk.sequences.cpu().numpy()]).to(device)
            add_shown(product, square, crosscoder, chunk, own.repeat_interleave(chunk.usable.shape[1]), active)
            count += int(chunk.usable.sum())
            if bar is not None:
                bar.advance(1)
    return TextSums(product.cpu().numpy(), square.cpu().numpy(), active.cpu().numpy(), count)


def add_shown(
    product: Float[Tensor, "snapshot group feature"],
    square: Float[Tensor, "snapshot group feature"],
    crosscoder: Crosscoder,
    chunk: Chunk,
    group: Tensor,
    active: Tensor,
) -> None:
    """Add a chunk's tokens to the sums.

    Args:
        group: of each token [token].
        active: of `TextSums`.
    """
    strength = crosscoder.strength()
    codes = crosscoder.widest_code(crosscoder.pre_activations(chunk.x)).masked_fill_(~chunk.usable.view(-1, 1), 0)
    active += (codes > 0).sum(0)
    row, column = codes.nonzero(as_tuple=True)
    entries = Entries(row, column, (codes.shape[0], codes.shape[1]))
    code = codes[entries.row, entries.column]
    place = group[entries.row] * codes.shape[1] + entries.column
    for snapshot in range(crosscoder.n_snapshots):
        own = strength[snapshot, entries.column]
        f = code * crosscoder.open_at(code, entries.column, snapshot)
        rows, bias = crosscoder.W_dec[snapshot].contiguous(), crosscoder.b_dec[snapshot]
        _, against = entries.errors(f, rows, bias, chunk.x[:, snapshot])
        shown = f * (f * own - against / own.clamp_min(1e-12))
        product[snapshot].view(-1).index_add_(0, place, shown)
        square[snapshot].view(-1).index_add_(0, place, f.square())


def shown_strength(product: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength that a text shows of each feature, and its standard error by the jackknife over groups [feature].

    Both are nan where the feature is active in fewer than LEAST_GROUPS.

    Args:
        product, square: sums of a snapshot [group, feature].
    """
    known, n = (square > 0).sum(0) >= LEAST_GROUPS, len(product)
    total, all_square = product.sum(0), np.where(known, square.sum(0), np.nan)
    without = (total - product) / (all_square - square)
    return total / all_square, np.sqrt((n - 1) / n * np.square(without - without.mean(0)).sum(0))


@dataclass(frozen=True)
class Gap:
    """How much more strongly features are shown on one text than on another, in units of their greatest strength.

    Attributes:
        gap, error: with its standard error [feature]; nan where it is not known.
        p: chance of one as far from 0 where there is none, by Student's t [feature].
    """

    gap: np.ndarray
    error: np.ndarray
    p: np.ndarray

    def interval(self, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of each feature's [feature], for so many groups in the smaller text."""
        half = student.ppf(0.975, max(groups - 1, 1)) * self.error
        return self.gap - half, self.gap + half


def text_gap(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], *, greatest: np.ndarray) -> Gap:
    """The gap between two texts at a snapshot.

    Args:
        one, other: product and square of each text [group, feature].
        greatest: strength of each feature where it is strongest [feature].
    """
    (shown, error), (shown_other, error_other) = shown_strength(*one), shown_strength(*other)
    scale = np.where(greatest > 0, greatest, np.nan)
    gap, spread = (shown - shown_other) / scale, np.hypot(error, error_other) / scale
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * student.sf(np.abs(gap) / spread, max(min(len(one[0]), len(other[0])) - 1, 1))
    return Gap(gap, spread, p)


def mean_gap_interval(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], *, greatest: np.ndarray, samples: int,
    seed: int,
) -> tuple[float, float]:  # fmt: skip
    """95 % interval of the mean gap over features, groups of both texts drawn with replacement.

    Args:
        one, other, greatest: as for `text_gap`, of the features that the mean is taken over.
    """
    sums = np.zeros(samples)
    draws = [
        cluster_draws(np.arange(len(text[0])), samples=samples, seed=seed + number)
        for number, text in enumerate((one, other))
    ]
    for first in range(0, len(greatest), FEATURES_AT_ONCE):
        block = slice(first, first + FEATURES_AT_ONCE)
        shown, shown_other = (
            (drawn @ product[:, block]) / np.maximum(drawn @ square[:, block], 1e-12)
            for drawn, (product, square) in zip(draws, (one, other), strict=True)
        )
        sums += ((shown - shown_other) / greatest[block]).sum(1)
    low, high = np.quantile(sums / len(greatest), [0.025, 0.975])
    return float(low), float(high)


def _groups(corpus: Corpus, sequences: np.ndarray) -> np.ndarray:
    """The group of each sequence's document [sequence of the corpus]; those not chosen are in group 0."""
    documents, index = np.unique(corpus.documents[sequences], return_inverse=True)
    group = np.zeros(len(corpus), dtype=np.int64)
    dealt = np.random.default_rng(len(documents)).permutation(len(documents)) % GROUPS
    group[sequences] = dealt[index]
    return group
