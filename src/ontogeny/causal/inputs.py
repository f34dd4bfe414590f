"""A task's items as the dictionary sees them: token ids, positions that count, and codes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array, vstack
from torch import Tensor

from ontogeny.activations.harvest import Harvester, usable_positions
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.loop import numerics
from ontogeny.tasks.task import Task


@dataclass(frozen=True)
class Batch:
    """Some items, padded on the right.

    Attributes:
        places: which items of the task [item].
        tokens: ids, 0 at padding [item, position].
        usable: positions at which the dictionary is spliced in: all but position 0 and padding [item, position].
        last: position whose logits are asked [item].
        good, bad: token ids [item].
    """

    places: Int[np.ndarray, " item"]
    tokens: Int[Tensor, "item position"]
    usable: Bool[Tensor, "item position"]
    last: Int[Tensor, " item"]
    good: Int[Tensor, " item"]
    bad: Int[Tensor, " item"]

    def margins(self, logits: Float[Tensor, "item vocabulary"]) -> Float[Tensor, " item"]:
        """m = logit(good) - logit(bad)."""
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, self.good] - logits[rows, self.bad]


def batches(
    task: Task, *, size: int, device: torch.device | str = "cpu", corrupted: bool = False, pad: int = 0
) -> Iterator[Batch]:
    """All items, those of like length together.

    Args:
        corrupted: read the corrupted inputs instead.
        pad: so many positions of padding more than are needed; they change nothing.
    """
    prefixes = [item.corrupted if corrupted else item.prefix for item in task.items]
    lengths = np.asarray([0 if prefix is None else len(prefix) for prefix in prefixes])
    assert lengths.all(), "items without a corrupted input are to be left out first"
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(order), size):
        places = order[first : first + size]
        width = int(lengths[places].max()) + pad
        tokens = np.zeros((len(places), width), dtype=np.int64)
        for row, place in enumerate(places.tolist()):
            tokens[row, : lengths[place]] = prefixes[place]
        of = [task.items[place] for place in places.tolist()]
        yield Batch(
            places=places,
            tokens=torch.from_numpy(tokens).to(device),
            usable=torch.from_numpy(usable_positions(lengths[places], width)).to(device),
            last=torch.from_numpy(lengths[places] - 1).to(device),
            good=torch.tensor([item.good for item in of], device=device),
            bad=torch.tensor([item.bad for item in of], device=device),
        )


class ItemCodes:
    """Codes of a task's items, kept sparse: one for all snapshots where they share it, one each otherwise.

    Row by row the usable positions of the items in the order of the task.

    Attributes:
        starts: first row of each item, and the end [item + 1].
    """

    def __init__(self, dictionary: Dictionary, parts: list[csr_array], starts: np.ndarray) -> None:
        self.dictionary, self.starts, self._parts = dictionary, starts, parts
        self._strength = dictionary.strength().detach()
        self._part_of = {
            place: number
            for number, part in enumerate(dictionary.parts())
            for place in range(part.snapshots.start, part.snapshots.stop)
        }

    def only(self, places: Int[np.ndarray, " item"]) -> "ItemCodes":
        """Those of some items, in the order given."""
        rows, lengths = self.rows(places), np.diff(self.starts)[places]
        return ItemCodes(
            self.dictionary, [csr_array(part[rows]) for part in self._parts], np.concatenate([[0], lengths.cumsum()])
        )

    def rows(self, places: Int[np.ndarray, " item"]) -> np.ndarray:
        """Rows of some items' positions, item by item."""
        return _rows(self.starts, places)

    def at(self, snapshot: int, places: Int[np.ndarray, " item"]) -> Float[Tensor, "row feature"]:
        """Dense codes of some items' positions at a snapshot."""
        return torch.from_numpy(self._sparse_at(snapshot)[self.rows(places)].toarray()).to(self.dictionary.b_dec)

    def _sparse_at(self, snapshot: int) -> csr_array:
        """Codes of all positions at a snapshot."""
        codes = self._parts[self._part_of[snapshot]]
        if self.dictionary.gate == "per_snapshot" and self.dictionary.threshold is not None:
            threshold, strength = self.dictionary.threshold.cpu().numpy(), self._strength[snapshot].cpu().numpy()
            kept = codes.data * strength[codes.indices] > threshold[codes.indices]
            codes = csr_array((codes.data * kept, codes.indices, codes.indptr), shape=codes.shape)
        return codes

    def counts(self, snapshot: int) -> np.ndarray:
        """On how many items each feature is active [feature]."""
        codes = self._sparse_at(snapshot)
        item = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        row, feature = codes.nonzero()
        pairs = np.unique(item[row] * self.dictionary.n_features + feature)
        return np.bincount(pairs % self.dictionary.n_features, minlength=self.dictionary.n_features)

    def mean(self, snapshot: int) -> Float[Tensor, " feature"]:
        """Mean code over all positions of all items."""
        total = np.asarray(self._sparse_at(snapshot).sum(axis=0, dtype=np.float64)).ravel()
        return torch.from_numpy(total / self.starts[-1]).to(self.dictionary.b_dec)


@torch.no_grad()
def encode_items(
    dictionary: Dictionary, harvester: Harvester, task: Task, *, batch_size: int = 64, corrupted: bool = False
) -> ItemCodes:
    """Codes of a task's items. A shared code reads the activations of all snapshots.

    Args:
        dictionary: folded, so that it reads raw activations.
        corrupted: of the corrupted inputs; all items need one.
    """
    assert dictionary.folded
    lengths = np.asarray([len(item.prefix) - 1 for item in task.items])
    starts = np.concatenate([[0], lengths.cumsum()])
    parts = dictionary.parts()
    found: list[list[csr_array]] = [[] for _ in parts]
    order: list[np.ndarray] = []
    read = list(batches(task, size=batch_size, device=harvester.device, corrupted=corrupted))
    with numerics():
        for batch, activations in zip(read, harvester.read_all([batch.tokens for batch in read]), strict=True):
            x = activations[batch.usable]
            harvester.require_finite(x)
            order.append(_rows(starts, batch.places))
            for number, (at, crosscoder) in enumerate(parts):
                code = crosscoder.widest_code(crosscoder.pre_activations(x[:, at]))
                found[number].append(csr_array(code.cpu().numpy()))
    back = np.argsort(np.concatenate(order), kind="stable")
    return ItemCodes(dictionary, [csr_array(vstack(pieces))[back] for pieces in found], starts)


def _rows(starts: Int[np.ndarray, " end"], places: Int[np.ndarray, " item"]) -> np.ndarray:
    return np.concatenate([np.arange(int(starts[place]), int(starts[place + 1])) for place in places])
