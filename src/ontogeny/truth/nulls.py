"""Controls with a known answer: activations in which nothing changes, or in which snapshots share no tokens.

A shared code is the same under any order of the snapshots, so permuting them says nothing about a crosscoder;
dictionaries of single snapshots that are matched afterwards (`matched_lives`) can be told apart from permuted ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.loop import Resumable

NULL_NOISE = 0.01
"""Norm of the noise of the *no change* null, as a share of each token's norm."""
NULL_NORMS = (5.0, 0.125)
"""Scales of its first and last snapshot."""


class _Changed(ABC):
    """Batches of others, each changed by a function of the batch and a generator of its own."""

    def __init__(self, batches: Iterable[Tensor], seed: int) -> None:
        self.batches, self.seed = batches, seed

    def __iter__(self) -> Iterator[Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        """Changed batches from number `batch` on."""
        if isinstance(self.batches, Resumable):
            given = self.batches.starting_at(batch)
        else:
            given = (one for number, one in enumerate(self.batches) if number >= batch)
        for number, one in enumerate(given, batch):
            yield self.changed(one, np.random.default_rng([self.seed, number]))

    @abstractmethod
    def changed(self, batch: Tensor, generator: np.random.Generator) -> Tensor: ...


class NoChange(_Changed):
    """The same activations at every snapshot, each under its own rotation and scale, with 1 % noise.

    A dictionary trained on them, with decoders that start independently, should find equal strengths and no births.

    Args:
        batches: raw activations of one snapshot, [batch, 1, d_model].
    """

    def __init__(self, batches: Iterable[Float[Tensor, "batch 1 d_model"]], *, n_snapshots: int, seed: int = 0) -> None:
        super().__init__(batches, seed)
        self.scales = torch.from_numpy(np.geomspace(*NULL_NORMS, n_snapshots)).float()
        self._rotations: Tensor | None = None

    def rotations(self, d_model: int) -> Float[Tensor, "snapshot d_model d_model"]:
        """The rotation of each snapshot, for activations as rows."""
        if self._rotations is None:
            shape = (len(self.scales), d_model, d_model)
            draws = np.random.default_rng([self.seed, len(self.scales)]).standard_normal(shape)
            self._rotations = torch.linalg.qr(torch.from_numpy(draws))[0].float()
        assert self._rotations is not None
        return self._rotations

    def undone(self, dictionary: Crosscoder) -> Crosscoder:
        """A dictionary trained on this, made to read and give the activations as they were before, raw: what it says of
        a model can then be asked of the model itself, the same one at every snapshot."""
        raw, turn = dictionary.fold_normalisation(), self.rotations(dictionary.d_model).to(dictionary.b_dec)
        tensors, scale = raw.tensors(), self.scales.to(dictionary.b_dec)
        tensors["W_enc"] = turn @ tensors["W_enc"] * scale[:, None, None]
        tensors["W_dec"] = tensors["W_dec"] @ turn.mT / scale[:, None, None]
        tensors["b_dec"] = (tensors["b_dec"][:, None] @ turn.mT)[:, 0] / scale[:, None]
        tensors["norm_scale"] = tensors["norm_scale"] * scale
        return Crosscoder(**tensors, **raw.options()).requires_grad_(False).eval()

    def changed(
        self, batch: Float[Tensor, "batch 1 d_model"], generator: np.random.Generator
    ) -> Float[Tensor, "batch snapshot d_model"]:
        x = batch[:, 0]
        turned = torch.einsum("bd,sde->bse", x, self.rotations(x.shape[1]).to(x))
        noise = torch.from_numpy(generator.standard_normal(turned.shape, dtype=np.float32)).to(x)
        noise *= NULL_NOISE * x.norm(dim=1)[:, None, None] / x.shape[1] ** 0.5
        return (turned + noise) * self.scales.to(x)[:, None]


class ShuffledRows(_Changed):
    """Every snapshot's rows in an order of its own, so that no two snapshots share tokens."""

    def changed(
        self, batch: Float[Tensor, "batch snapshot d_model"], generator: np.random.Generator
    ) -> Float[Tensor, "batch snapshot d_model"]:
        orders = np.stack([generator.permutation(len(batch)) for _ in range(batch.shape[1])], axis=1)
        order = torch.from_numpy(orders).to(batch.device)
        return batch.gather(0, order[..., None].expand_as(batch))


def specific_share(strength: np.ndarray, *, share: float = 0.9) -> float:
    """Share of features that have nearly all of their Σ strength² in one snapshot.

    It is near 1 where rows of different snapshots do not belong together, and says so before any figure of births.

    Args:
        strength: of living features [snapshot, feature].
        share: how much counts as nearly all.
    """
    square = np.square(strength)
    total = square.sum(0)
    return float((square.max(0) >= share * total)[total > 0].mean()) if (total > 0).any() else float("nan")


def matched_lives(rows: Sequence[Float[Tensor, "_ d_model"]], *, least_cosine: float = 0.7) -> np.ndarray:
    """Where features of the last of several dictionaries are, by matching neighbours one to one [snapshot, feature].

    From the last snapshot back, each dictionary's features are assigned to those of the next (the Hungarian method on
    cosines); a chain ends where the cosine is below `least_cosine`.

    Args:
        rows: decoder rows of the dictionaries of successive snapshots, each [feature, d_model].
    Returns:
        Booleans: whether the chain that ends in each feature of the last dictionary reaches back to a snapshot.
    """
    n, n_features = len(rows), len(rows[-1])
    lives = np.zeros((n, n_features), dtype=bool)
    lives[-1] = True
    place = np.arange(n_features)
    for snapshot in range(n - 2, -1, -1):
        later, earlier = (torch.nn.functional.normalize(rows[index], dim=1) for index in (snapshot + 1, snapshot))
        cosine = (later @ earlier.T).numpy()
        own, other = linear_sum_assignment(-cosine)
        match = np.full(len(later), -1)
        close = cosine[own, other] >= least_cosine
        match[own[close]] = other[close]
        reached = lives[snapshot + 1]
        lives[snapshot] = reached & (match[place] >= 0)
        place = np.where(lives[snapshot], match[place], 0)
    return lives
