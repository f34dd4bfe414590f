"""A model at a snapshot with the dictionary spliced in: effects of features on a task's items, margins without some.

What these mean, and their sources, are told in `effects.py`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array, vstack
from torch import Tensor

from ontogeny.causal.inputs import Batch, ItemCodes, batches
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.loop import numerics
from ontogeny.models.rest import Rest
from ontogeny.tasks.task import Task

LEAST_TOTAL = 0.1
"""Completeness is held against Σ|effect| or this, whichever is greater."""


class SnapshotEffects(NamedTuple):
    """Effects at one snapshot.

    Attributes:
        features: effect of each feature on each item, sparse [item, feature].
        error: effect of the error term [item]; nan where the method gives none.
        clean: m of each item [item].
        end: m at the end of the path [item].
        elsewhere: of features and error at positions that were not asked for [item]; 0 where all are.
    """

    features: csr_array
    error: np.ndarray
    clean: np.ndarray
    end: np.ndarray
    elsewhere: np.ndarray | float = 0.0

    def save(self, path: Path) -> None:
        """Write all of it to an .npz file, effects in float32."""
        of = self.features
        kept = {"data": of.data.astype(np.float32), "indices": of.indices, "indptr": of.indptr, "shape": of.shape}
        np.savez(path, **kept, error=self.error, clean=self.clean, end=self.end)

    @classmethod
    def load(cls, path: Path) -> "SnapshotEffects":
        """What `save` wrote."""
        with np.load(path) as file:
            of = csr_array((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
            return cls(csr_array(of, dtype=np.float64), file["error"], file["clean"], file["end"])

    def gap(self) -> np.ndarray:
        """How far features and error are from adding up, over Σ|effect| or LEAST_TOTAL [item]."""
        total = np.asarray(self.features.sum(1)).ravel() + self.error + self.elsewhere
        size = np.asarray(abs(self.features).sum(1)).ravel() + np.abs(self.error) + np.abs(self.elsewhere)
        return np.abs(total - (self.clean - self.end)) / np.maximum(size, LEAST_TOTAL)


class Site:
    """A model at a snapshot with the dictionary spliced in at the hookpoint, and a task's items to run.

    Args:
        dictionary: folded, on the model's device.
    """

    def __init__(self, rest: Rest, dictionary: Dictionary, snapshot: int, task: Task, *, batch_size: int = 64) -> None:
        assert dictionary.folded
        self.rest, self.snapshot, self.task, self.batch_size = rest, snapshot, task, batch_size
        self.W_dec = dictionary.W_dec[snapshot].detach()
        self.b_dec = dictionary.b_dec[snapshot].detach()

    def batches(self, *, pad: int = 0) -> list[Batch]:
        return list(batches(self.task, size=self.batch_size, device=self.W_dec.device, pad=pad))

    def clean_margins(self) -> np.ndarray:
        """m of each item [item]."""
        return self._gather(
            (batch, batch.margins(self.rest.read(batch.tokens, batch.last)[2])) for batch in self.batches()
        )

    def effects(
        self,
        codes: ItemCodes,
        *,
        method: str = "ig",
        steps: int = 10,
        replaced_by: "ItemCodes | Tensor | None" = None,
        position: int | None = None,
        features: Sequence[int] | None = None,
        pad: int = 0,
    ) -> SnapshotEffects:
        """Effects of all features, or of some where the method is `exact`.

        Args:
            replaced_by: codes of the corrupted inputs, or one mean code; None for zero.
        """
        pieces, places = [], []
        numbers: dict[str, list[np.ndarray]] = {"error": [], "clean": [], "end": [], "elsewhere": []}
        with numerics():
            for batch in self.batches(pad=pad):
                f = codes.at(self.snapshot, batch.places)
                if isinstance(replaced_by, ItemCodes):
                    f_new = replaced_by.at(self.snapshot, batch.places)
                else:
                    f_new = torch.zeros_like(f) if replaced_by is None else replaced_by.expand_as(f)
                counted = _counted(batch, position)
                splice, elsewhere = _Splice(self, batch, f, f_new), torch.zeros(len(batch.places))
                if method == "exact":
                    effects = splice.exact(counted, features)
                    error = torch.full((len(batch.places),), float("nan"))
                else:
                    gradient = splice.gradient(steps if method == "ig" else 0)
                    effects = splice.of_features(gradient, counted)
                    error = splice.of_error(gradient, counted)
                    if position is not None:
                        left = splice.of_features(gradient, 1 - counted).sum(1)
                        elsewhere = left + splice.of_error(gradient, 1 - counted)
                pieces.append(csr_array(effects.cpu().numpy()))
                places.append(batch.places)
                for name, value in (
                    ("error", error),
                    ("clean", splice.clean),
                    ("end", splice.end()),
                    ("elsewhere", elsewhere),
                ):
                    numbers[name].append(value.detach().cpu().numpy())
        back = np.argsort(np.concatenate(places), kind="stable")
        joined = {name: np.concatenate(values)[back].astype(np.float64) for name, values in numbers.items()}
        return SnapshotEffects(csr_array(vstack(pieces))[back], **joined)

    @torch.no_grad()
    def margins_with(self, codes: ItemCodes, kept: Float[Tensor, " feature"]) -> np.ndarray:
        """m of each item with every feature's code multiplied [item].

        Args:
            kept: a factor for each feature; 1 keeps it, 0 removes it.
        """
        found = []
        for batch in self.batches():
            f = codes.at(self.snapshot, batch.places)
            splice = _Splice(self, batch, f, f * kept.to(f))
            found.append((batch, splice.margins(splice.with_codes(f * kept.to(f)))))
        return self._gather(found)

    def _gather(self, found: Iterable[tuple[Batch, Tensor]]) -> np.ndarray:
        out = np.full(len(self.task), np.nan)
        for batch, values in found:
            out[batch.places] = values.cpu().numpy()
        return out


class _Splice:
    """One batch of items with its activations taken apart into features and error."""

    def __init__(self, site: Site, batch: Batch, f: Tensor, f_new: Tensor) -> None:
        self.site, self.batch, self.f, self.f_new = site, batch, f, f_new
        self.x, self.entry, logits = site.rest.read(batch.tokens, batch.last)
        self.x = self.x.float()
        self.clean = batch.margins(logits)
        # usable positions, item by item: the rows of the codes
        self.item, self.position = batch.usable.nonzero(as_tuple=True)
        self.eps = self.x[batch.usable] - (f @ site.W_dec + site.b_dec)

    def margins(self, x: Tensor) -> Tensor:
        batch = self.batch
        return batch.margins(self.site.rest.logits(batch.tokens, batch.last, x, self.entry))

    def placed(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "item position d_model"]:
        """The clean activations, with others at the usable positions."""
        x = self.x.clone()
        x[self.batch.usable] = rows
        return x

    def path_end(self) -> Tensor:
        """Activations at the end of the path: replaced codes, no error."""
        return self.placed(self.f_new @ self.site.W_dec + self.site.b_dec)

    def with_codes(self, f: Tensor) -> Tensor:
        """Activations with other codes, the error kept."""
        return self.placed(self.x[self.batch.usable] + (f - self.f) @ self.site.W_dec)

    @torch.no_grad()
    def end(self) -> Tensor:
        return self.margins(self.path_end())

    def gradient(self, steps: int) -> Float[Tensor, "row d_model"]:
        """∂m/∂x at the usable positions: at the clean point (0 steps), or averaged over the path's midpoints."""
        end = self.path_end()
        total = torch.zeros_like(self.x)
        for alpha in [1.0] if steps == 0 else [(step + 0.5) / steps for step in range(steps)]:
            x = (end + alpha * (self.x - end)).requires_grad_()
            (gradient,) = torch.autograd.grad(self.margins(x).sum(), x)
            total += gradient / max(steps, 1)
        return total[self.batch.usable]

    def of_features(self, gradient: Tensor, counted: Tensor) -> Float[Tensor, "item feature"]:
        rows = (self.f - self.f_new) * (gradient @ self.site.W_dec.T) * counted[:, None]
        return self.f.new_zeros(len(self.clean), self.f.shape[1]).index_add_(0, self.item, rows)

    def of_error(self, gradient: Tensor, counted: Tensor) -> Float[Tensor, " item"]:
        rows = (self.eps * gradient).sum(1) * counted
        return self.f.new_zeros(len(self.clean)).index_add_(0, self.item, rows)

    @torch.no_grad()
    def exact(self, counted: Tensor, features: Sequence[int] | None) -> Float[Tensor, "item feature"]:
        """m(clean) - m(one feature's code replaced), for every item and feature where the two codes differ."""
        effects = self.f.new_zeros(len(self.clean), self.f.shape[1])
        change = (self.f_new - self.f) * counted[:, None]
        differs = effects.index_add(0, self.item, (change != 0).to(effects)) > 0
        if features is not None:
            asked = torch.zeros_like(differs)
            asked[:, list(features)] = True
            differs &= asked
        pairs = differs.nonzero()
        rest, batch = self.site.rest, self.batch
        for some in pairs.split(self.site.batch_size):
            item, feature = some.T
            x = self.x[item].clone()
            # each pair's change at the positions of its item
            row, copy = (self.item[:, None] == item[None, :]).nonzero(as_tuple=True)
            x[copy, self.position[row]] += change[row, feature[copy]][:, None] * self.site.W_dec[feature[copy]]
            logits = rest.logits(batch.tokens[item], batch.last[item], x, self.entry[item])
            rows = torch.arange(len(item), device=logits.device)
            m = logits[rows, batch.good[item]] - logits[rows, batch.bad[item]]
            effects[item, feature] = self.clean[item] - m
        return effects


def _counted(batch: Batch, position: int | None) -> Tensor:
    """1 for the usable positions that count, by the rows of the codes; 0 for others."""
    item, at = batch.usable.nonzero(as_tuple=True)
    if position is None:
        return torch.ones(len(at), device=at.device)
    wanted = batch.last[item] + 1 + position if position < 0 else torch.full_like(at, position)
    return (at == wanted).float()
