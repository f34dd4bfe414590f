"""What each feature does for a task at a snapshot: exact, by its gradient (atp), or by integrated gradients (ig).

The dictionary is spliced in at the hookpoint, x = Σ_i f_i W_dec[i] + b_dec + ε, with the error ε kept, in raw units, at
every position but the first. A feature's effect is m(clean) - m(its code replaced), m = logit(good) - logit(bad):
positive means that it helps. A shared code is computed from all snapshots' activations and held constant.

`ig` averages gradients along the straight path from Σ_i f'_i W_dec[i] + b_dec, where f' is the replacement, to x, by
the midpoint rule; ε shrinks with the rest. Features and error then add up to m(clean) - m(end of the path), up to the
rule's error, which is reported. Two features that do the same work share its credit under `ig`; `exact` gives each what
is lost without it alone, which is nothing.

Sources: Marks et al. 2024, arXiv 2403.19647 (sparse feature circuits); Sundararajan et al. 2017 (integrated gradients);
Crosscoding Through Time, arXiv 2509.05291.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy.sparse import csr_array, vstack
from torch import Tensor

from ontogeny.activations.harvest import Harvester
from ontogeny.attribution_config import METHODS, REPLACEMENTS
from ontogeny.causal.inputs import Batch, ItemCodes, batches, encode_items
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.errors import ConfigError, DictionaryError, did_you_mean
from ontogeny.intervals import cluster_draws
from ontogeny.loop import numerics
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.models.rest import Rest
from ontogeny.suites.suite import Suite
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
    """

    features: csr_array
    error: np.ndarray
    clean: np.ndarray
    end: np.ndarray

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
        total = np.asarray(self.features.sum(1)).ravel() + self.error
        size = np.asarray(abs(self.features).sum(1)).ravel() + np.abs(self.error)
        return np.abs(total - (self.clean - self.end)) / np.maximum(size, LEAST_TOTAL)


@dataclass(frozen=True)
class Effects:
    """Effects of all features on a task.

    Attributes:
        task: its items are the rows of what snapshots hold.
        places: of the snapshots in the suite, in the order of all that follows.
        steps: pre-training step of each of them.
        method: `exact`, `atp` or `ig`.
        snapshots: one for each step.
        table: the table `effects`.
    """

    task: Task
    places: list[int]
    steps: list[int]
    method: str
    snapshots: list[SnapshotEffects]
    table: pl.DataFrame

    @property
    def array(self) -> Float[np.ndarray, "snapshot feature"]:
        """Mean effect over items [snapshot, feature]."""
        return np.stack([np.asarray(one.features.mean(axis=0)).ravel() for one in self.snapshots])

    def completeness(self) -> pl.DataFrame:
        """The table `completeness`: median and 95th percentile of the gap over items, a row per snapshot."""
        rows = []
        for place, step, one in zip(self.places, self.steps, self.snapshots, strict=True):
            gap = one.gap()
            size = np.asarray(abs(one.features).sum(1)).ravel() + np.abs(one.error)
            rows.append(
                {
                    "task": self.task.name,
                    "snapshot": place,
                    "step": step,
                    "method": self.method,
                    "gap_median": float(np.median(gap)),
                    "gap_95": float(np.quantile(gap, 0.95)),
                    "margin_clean": float(one.clean.mean()),
                    "margin_end": float(one.end.mean()),
                    "error_effect": float(one.error.mean()),
                    "error_share": float((np.abs(one.error) / np.maximum(size, 1e-12)).mean()),
                }
            )
        return pl.DataFrame(rows)


def indirect_effects(
    suite: Suite,
    dictionary: Dictionary,
    *,
    task: Task,
    hookpoint: str,
    snapshots: Sequence[int] | None = None,
    method: str = "ig",
    steps: int = 10,
    replacement: str = "zero",
    position: int | None = None,
    compat: Literal["ctt"] | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
    memory_gb: float | None = None,
    device: torch.device | str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Effects:
    """Effects of all features on a task at some snapshots.

    Codes are read from all snapshots first; then models are run one at a time, in float32.

    Args:
        suite: of the dictionary's snapshots, in their order.
        dictionary: folded or not.
        snapshots: pre-training steps; None for all.
        method: `exact` runs the model for every active feature of every item; `ig` costs `steps` backward passes, `atp`
            one.
        replacement: what codes are replaced with: `zero`, `mean` (over the items' positions), or the item's code on its
            `corrupted` input; items without one are left out.
        position: effects at one position, counted from the end (-1 the last) or from the start; None for their sum.
        compat: `ctt` does what the code published with arXiv 2509.05291 does under the name of integrated gradients:
            gradient × activation at the clean point. (It also counts padding and scales by the number of columns of
            its table, which this does not.)
        dtype: of the models that codes are read from.
        memory_gb: for these, in 1e9 bytes; None: all are loaded at once.
    Raises:
        DictionaryError: the dictionary's snapshots are not as many as the suite's.
        ConfigError: no such method, replacement or step.
    """
    method, replacement = ("atp", "zero") if compat == "ctt" else (method, replacement)
    for name, value, allowed in (("method", method, METHODS), ("replacement", replacement, REPLACEMENTS)):
        if value not in allowed:
            raise ConfigError(f"no {name} '{value}'{did_you_mean(value, allowed)}: there are {', '.join(allowed)}")
    if len(suite.snapshots) != dictionary.n_snapshots:
        raise DictionaryError(
            f"the dictionary has {dictionary.n_snapshots} snapshots, suite {suite.name} {len(suite.snapshots)}: "
            "open the suite with the steps that it was trained on"
        )
    if suite.width() != dictionary.d_model:
        raise DictionaryError(f"the dictionary is {dictionary.d_model} wide, suite {suite.name} {suite.width()}")
    for step in snapshots or ():
        if suite.steps.count(step) != 1:
            raise ConfigError(
                f"{suite.steps.count(step) or 'no'} snapshot at step {step} in suite {suite.name}: it has "
                f"{', '.join(map(str, suite.steps))}"
            )
    places = list(range(len(suite.steps))) if snapshots is None else [suite.steps.index(step) for step in snapshots]
    longest = max(len(item.prefix) for item in task.items)
    if position is not None and not -longest < position < longest:
        raise ConfigError(f"position {position} lies outside of task {task.name}, whose items have up to {longest}")
    task = task.aligned() if replacement == "corrupted" else task
    if len(task) == 0:
        raise ConfigError("replacement corrupted: no item of this task has a corrupted input that aligns")
    harvester = Harvester(suite, hookpoint, dtype=dtype, device=device, memory_gb=memory_gb)
    raw = copy.deepcopy(dictionary).fold_normalisation().to(harvester.device)
    codes = encode_items(raw, harvester, task, batch_size=batch_size)
    corrupted = (
        encode_items(raw, harvester, task, batch_size=batch_size, corrupted=True)
        if replacement == "corrupted"
        else None
    )
    found, at = [], harvester.device
    del harvester  # and the models that it holds
    for place in places:
        model = load_snapshot(suite.snapshots[place], device=at)
        site = Site(Rest(model, parse_hookpoint(hookpoint)), raw, place, task, batch_size=batch_size)
        mean = codes.mean(place) if replacement == "mean" else None
        found.append(
            site.effects(
                codes, method=method, steps=steps, replaced_by=corrupted if mean is None else mean, position=position
            )
        )
    taken = [suite.steps[place] for place in places]
    table = effects_table(task, places, taken, found, method=method, samples=bootstrap, seed=seed)
    return Effects(task, places, taken, method, found, table)


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
        numbers: dict[str, list[np.ndarray]] = {"error": [], "clean": [], "end": []}
        with numerics():
            for batch in self.batches(pad=pad):
                f = codes.at(self.snapshot, batch.places)
                if isinstance(replaced_by, ItemCodes):
                    f_new = replaced_by.at(self.snapshot, batch.places)
                else:
                    f_new = torch.zeros_like(f) if replaced_by is None else replaced_by.expand_as(f)
                counted = _counted(batch, position)
                splice = _Splice(self, batch, f, f_new)
                if method == "exact":
                    effects = splice.exact(counted, features)
                    error = torch.full((len(batch.places),), float("nan"))
                else:
                    gradient = splice.gradient(steps if method == "ig" else 0)
                    effects = splice.of_features(gradient, counted)
                    error = splice.of_error(gradient, counted)
                pieces.append(csr_array(effects.cpu().numpy()))
                places.append(batch.places)
                for name, value in (("error", error), ("clean", splice.clean), ("end", splice.end())):
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


def effects_table(
    task: Task,
    places: Sequence[int],
    steps: Sequence[int],
    found: Sequence[SnapshotEffects],
    *,
    method: str,
    samples: int,
    seed: int,
) -> pl.DataFrame:
    """A row per feature and snapshot at which it has an effect on any item, with a 95 % bootstrap interval by clusters
    of template and lexeme."""
    draws = cluster_draws(task.clusters, samples=samples, seed=seed)
    tables = []
    for place, step, one in zip(places, steps, found, strict=True):
        active = np.flatnonzero(np.diff(one.features.tocsc().indptr))
        effects = one.features[:, active].toarray()
        low, high = np.quantile(draws @ effects / draws.sum(1, keepdims=True), [0.025, 0.975], axis=0)
        right = one.clean > 0
        tables.append(
            pl.DataFrame(
                {
                    "task": task.name,
                    "feature": active,
                    "snapshot": place,
                    "step": step,
                    "method": method,
                    "effect": effects.mean(0),
                    "ci_low": low,
                    "ci_high": high,
                    "effect_right": effects[right].mean(0) if right.any() else np.full(len(active), np.nan),
                    "items_active": (effects != 0).sum(0),
                }
            )
        )
    return pl.concat(tables)
