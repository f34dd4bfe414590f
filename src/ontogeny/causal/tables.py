"""Tables made of effects: accuracy, RelIE and its bands, what predicts exact effects, how leading features overlap."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import rankdata

from ontogeny.attribution_config import AttributionConfig
from ontogeny.causal.ablation import figures, rank
from ontogeny.causal.bands import UNDETERMINED, Bands, bands, swapped
from ontogeny.causal.choice import expected_overlap, overlap, propose
from ontogeny.causal.effects import Effects
from ontogeny.causal.relie import relie
from ontogeny.features.codes import sampled_sequences
from ontogeny.features.sample import stored_activations
from ontogeny.features.similarity import linear_cka, token_cosine
from ontogeny.intervals import cluster_draws
from ontogeny.run import Run
from ontogeny.tables import from_rows
from ontogeny.tasks.task import Task

OVERLAP_OF = 20
Tables = dict[str, pl.DataFrame]


def settings_of(run: Run) -> AttributionConfig:
    """The study's section."""
    assert run.study.attribution is not None
    return run.study.attribution


def is_learned(found: dict[str, float], settings: AttributionConfig) -> bool:
    """Whether a task's accuracy is above chance beyond doubt."""
    return found["accuracy_ci_low"] > settings.learned_accuracy


def derived_tables(run: Run, tasks: list[Task], found: list[Effects], trials: Tables) -> Tables:
    """All tables of the stage.

    Args:
        found: effects of each task.
        trials: the tables `ablation`, `half_margin` and `exact`.
    """
    settings, steps = settings_of(run), found[0].steps
    curves = pl.concat([_task_rows(effects, settings) for effects in found])
    similarity = _similarity(run)
    cka = similarity["cka"].to_numpy().reshape(len(steps), len(steps))
    proposals, comparisons = _comparisons(curves, cka, steps, settings, [task.name for task in tasks])
    strength = run.matrix("strength")
    related = [
        _relie_tables(effects, comparison, strength, settings)
        for effects in found
        for comparison in comparisons[effects.task.name]
    ]
    exact = trials["exact"]
    dropped = [
        {"task": task.name, "reason": reason, "pairs": count}
        for task in tasks
        for reason, count in task.dropped.items()
    ]
    tables = {
        "tasks": curves,
        "task_dropped": from_rows("task_dropped", dropped),
        "effects": pl.concat([effects.table for effects in found]),
        "completeness": pl.concat([effects.completeness() for effects in found]).with_columns(
            pl.col(pl.Float64).fill_nan(None)
        ),
        "snapshot_similarity": similarity,
        "proposals": proposals,
        **trials,
        "prediction": _prediction(exact, settings),
        "ratios": _ratios(exact, comparisons, found, strength, steps, settings),
        "overlap": _overlaps(found, steps),
    }
    for name in ("relie", "bands", "relie_nulls"):
        tables[name] = from_rows(name, [row for one in related for row in one[name]])
    return tables


def _task_rows(effects: Effects, settings: AttributionConfig) -> pl.DataFrame:
    weights = cluster_draws(effects.task.clusters, samples=settings.bootstrap, seed=settings.seed)
    rows = []
    for place, one in enumerate(effects.snapshots):
        row = figures(one.clean[None], weights)
        where = {"task": effects.task.name, "snapshot": place, "step": effects.steps[place]}
        rows.append(where | row | {"learned": is_learned(row, settings)})
    return from_rows("tasks", rows)


def _similarity(run: Run) -> pl.DataFrame:
    sequences = sampled_sequences(run)
    read = [stored_activations(run, place, sequences) for place in range(len(run.steps))]
    return from_rows(
        "snapshot_similarity",
        [
            {"step": step, "other_step": other_step, "cosine": token_cosine(x, y), "cka": linear_cka(x, y)}
            for step, x in zip(run.steps, read, strict=True)
            for other_step, y in zip(run.steps, read, strict=True)
        ],
    )


def _comparisons(
    curves: pl.DataFrame, cka: np.ndarray, steps: list[int], settings: AttributionConfig, names: list[str]
) -> tuple[pl.DataFrame, dict[str, list[tuple[int, ...]]]]:
    """The table `proposals`, and what is compared for each task, as places: those given, or the proposed ones; of more
    than two snapshots also their pairs."""
    rows, chosen = [], {}
    given = [tuple(steps.index(step) for step in sorted(one)) for one in settings.comparisons or []]
    for name in names:
        accuracy = curves.filter(task=name)["accuracy"].to_numpy()
        proposed = [one for size in (2, 3) if (one := propose(accuracy, cka, size=size)) is not None]
        for one in proposed:
            shifts = ", ".join(
                f"accuracy {change:+.2f} and 1 - CKA {distance:.2f} to step {steps[place]}"
                for change, distance, place in zip(one.accuracy, one.distance, one.places[1:], strict=True)
            )
            comparison = label(one.places, steps)
            rows.append({"task": name, "comparison": comparison, "reason": shifts, "used": not given})
        wanted: dict[tuple[int, ...], None] = {}
        for places in given or [one.places for one in proposed]:
            wanted[places] = None
            if len(places) > 2:
                pairs = [*pairwise(places), (places[0], places[-1])]
                wanted.update(dict.fromkeys(pairs))
        chosen[name] = list(wanted)
    return from_rows("proposals", rows), chosen


def label(places: Sequence[int], steps: Sequence[int]) -> str:
    """Snapshots compared, as tables name them."""
    return "/".join(str(steps[place]) for place in places)


def _relie_tables(
    effects: Effects, places: tuple[int, ...], strength: np.ndarray, settings: AttributionConfig
) -> dict[str, list[dict[str, Any]]]:
    steps = [effects.steps[place] for place in places]
    of = [effects.snapshots[place].features for place in places]
    options: dict[str, Any] = {"samples": settings.bootstrap, "seed": settings.seed, "normalise": settings.normalise}
    clusters = effects.task.clusters
    found = bands(of, steps, clusters, **options)
    decoders = np.atleast_2d(relie(strength[list(places)]))
    where = {"task": effects.task.name, "comparison": label(places, effects.steps)}
    shown = np.flatnonzero(found.total > 0).tolist()
    of_share = steps[1:] if len(steps) == 2 else steps
    shares = [
        where
        | {
            "feature": feature,
            "step": step,
            "relie": found.share[row, feature],
            "relie_ci_low": found.low[row, feature],
            "relie_ci_high": found.high[row, feature],
            "reldec": decoders[row, feature],
        }
        for row, step in enumerate(of_share)
        for feature in shown
    ]
    banded = [
        where
        | {
            "feature": feature,
            "band": found.band[feature],
            "probability": found.probability[feature],
            "p": found.p[feature],
            "total_effect": found.total[feature],
        }
        for feature in shown
    ]
    first, second = effects.task.halves(seed=settings.seed)
    count = min(len(first), len(second))
    last = effects.snapshots[places[-1]].features
    options["samples"] = 2  # only shares and bands are asked for
    nulls = {
        "study": found,
        "swapped": bands(swapped(of, clusters, seed=settings.seed), steps, clusters, **options),
        "same snapshot": bands(
            [last[first[:count]], last[second[:count]]], [steps[-1], steps[-1]], np.arange(count), **options
        ),
    }
    rows = [where | {"case": case} | _specific(one, len(steps)) for case, one in nulls.items()]
    return {"relie": shares, "bands": banded, "relie_nulls": rows}


def _specific(found: Bands, snapshots: int) -> dict[str, Any]:
    determined = found.band != UNDETERMINED
    n = 2 if len(found.share) == 1 else snapshots
    off = np.abs(found.share[:, determined] - 1 / n).max(0) if determined.any() else np.full(1, np.nan)
    specific = np.asarray([str(band).startswith("only") for band in found.band[determined]])
    return {
        "features": int(determined.sum()),
        "specific": float(specific.mean()) if determined.any() else None,
        "off_even": float(np.median(off)),
    }


def _spearman(one: np.ndarray, other: np.ndarray, settings: AttributionConfig) -> tuple[float, float, float]:
    """With a 95 % interval by bootstrap over features; nan where there are too few to order."""
    if len(one) < 4 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan"), float("nan"), float("nan")

    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])

    draw, drawn = np.random.default_rng(settings.seed), []
    for _ in range(settings.bootstrap):
        some = draw.integers(len(one), size=len(one))
        if np.ptp(one[some]) > 0 and np.ptp(other[some]) > 0:
            drawn.append(correlation(one[some], other[some]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return correlation(one, other), float(low), float(high)


def _prediction(exact: pl.DataFrame, settings: AttributionConfig) -> pl.DataFrame:
    rows = []
    keys = ["task", "snapshot", "step"]
    for values, table in exact.group_by(*keys, maintain_order=True):
        both = table.filter((pl.col("predicted") != 0) | (pl.col("exact") != 0))
        predicted, real = both["predicted"].to_numpy(), both["exact"].to_numpy()
        middle, low, high = _spearman(predicted, real, settings)
        rows.append(
            {
                **dict(zip(keys, values, strict=True)),
                "features": len(both),
                "spearman": middle,
                "spearman_ci_low": low,
                "spearman_ci_high": high,
                "slope": float(predicted @ real / max(predicted @ predicted, 1e-300)) if len(both) else None,
            }
        )
    return from_rows("prediction", rows)


def _ratios(
    exact: pl.DataFrame,
    comparisons: dict[str, list[tuple[int, ...]]],
    found: list[Effects],
    strength: np.ndarray,
    steps: list[int],
    settings: AttributionConfig,
) -> pl.DataFrame:
    rows = []
    for effects in found:
        own = exact.filter(task=effects.task.name)
        array = effects.array
        for places in (one for one in comparisons[effects.task.name] if len(one) == 2):
            early, late = (own.filter(snapshot=place).sort("feature") for place in places)
            both = (early["exact"] != 0).to_numpy() & (late["exact"] != 0).to_numpy()
            if not both.any():
                continue
            feature = early["feature"].to_numpy()[both]
            ratio = np.abs(late["exact"].to_numpy()[both] / early["exact"].to_numpy()[both])
            row: dict[str, Any] = {
                "task": effects.task.name,
                "comparison": label(places, steps),
                "features": len(ratio),
            }
            for name, of in (("relie", array), ("reldec", strength)):
                share = relie(of[list(places)])[feature]
                known = ~np.isnan(share)
                middle, low, high = _spearman(ratio[known], share[known], settings)
                row |= {f"{name}_spearman": middle}
                row |= {f"{name}_spearman_ci_low": low, f"{name}_spearman_ci_high": high}
            rows.append(row)
    return from_rows("ratios", rows)


def _overlaps(found: list[Effects], steps: list[int]) -> pl.DataFrame:
    """Of leading features: between snapshots of a task, neighbours and each against the last, and between tasks."""
    leaders = [[rank(row)[:OVERLAP_OF] for row in effects.array] for effects in found]
    active = [[np.flatnonzero(row) for row in effects.array] for effects in found]
    last, rows = len(steps) - 1, []

    def compare(kind: str, one: int, other: int, here: int, there: int) -> None:
        sets = leaders[one][here], leaders[other][there]
        among = len(np.union1d(active[one][here], active[other][there]))
        rows.append(
            {
                "kind": kind,
                "task": found[one].task.name,
                "other_task": found[other].task.name,
                "step": steps[here],
                "other_step": steps[there],
                "k": OVERLAP_OF,
                "overlap": overlap(*sets),
                "expected": expected_overlap(len(sets[0]), len(sets[1]), among),
            }
        )

    for number in range(len(found)):
        for place in range(last):
            for other in dict.fromkeys((place + 1, last)):
                compare("snapshots", number, number, place, other)
        for other in range(number + 1, len(found)):
            for place in range(len(steps)):
                compare("tasks", number, other, place, place)
    return from_rows("overlap", rows)
