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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from ontogeny.activations.harvest import Harvester
from ontogeny.causal.inputs import encode_items
from ontogeny.causal.site import Site, SnapshotEffects
from ontogeny.config.attribution import METHODS, REPLACEMENTS
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.errors import ConfigError, DictionaryError, did_you_mean
from ontogeny.intervals import cluster_draws
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.models.rest import Rest
from ontogeny.suites.suite import Suite
from ontogeny.tasks.task import Task


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
