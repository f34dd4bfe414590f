"""Tables made of effects: accuracy, RelIE and its bands, what predicts exact effects, how leading features overlap."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import stats
from scipy.sparse import csr_array

from ontogeny.causal.ablation import figures, rank, right
from ontogeny.causal.bands import UNDETERMINED, Bands, bands, cluster_error, swapped
from ontogeny.causal.choice import expected_overlap, overlap, propose
from ontogeny.causal.effects import Effects
from ontogeny.causal.relie import relie
from ontogeny.config.attribution import AttributionConfig
from ontogeny.features.agreement import LEVELS
from ontogeny.features.codes import sampled_sequences
from ontogeny.features.matching import Match
from ontogeny.features.sample import stored_activations
from ontogeny.features.similarity import linear_ckas, token_cosine
from ontogeny.intervals import LEAST_CLUSTERS, cluster_draws, rank_correlation
from ontogeny.run import Run
from ontogeny.tables import from_rows

OVERLAP_OF = 20
SIMILARITY_TOKENS = 16_384
Tables = dict[str, pl.DataFrame]


def settings_of(run: Run) -> AttributionConfig:
    """The study's section."""
    assert run.study.attribution is not None
    return run.study.attribution


def is_learned(margins: np.ndarray, clusters: np.ndarray, *, above: float, snapshots: int) -> bool:
    """Whether a task's accuracy is above a level beyond doubt: at 5 % over all snapshots together.

    Both by how far clusters scatter (t) and by their number (Clopper and Pearson 1934), which still holds where they do
    not scatter at all; never by fewer than LEAST_CLUSTERS.

    Args:
        margins: m of each item [item].
        snapshots: how many are asked of.
    """
    accuracy, units = right(margins), len(np.unique(clusters))
    if units < LEAST_CLUSTERS:
        return False
    level, error = 0.025 / snapshots, cluster_error(csr_array(accuracy[:, None]), clusters)[0]
    by_spread = accuracy.mean() - stats.t.isf(level, units - 1) * error
    by_count = stats.beta.ppf(level, accuracy.mean() * units, units - accuracy.mean() * units + 1)
    return bool(min(by_spread, np.nan_to_num(by_count)) > above)


def within_clusters(clusters: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the items, as places, that have of each cluster as many; of an odd number one is left out."""
    order = np.random.default_rng(seed).permutation(len(clusters))
    first, second = [], []
    for cluster in np.unique(clusters):
        own = order[clusters[order] == cluster]
        even = len(own) // 2 * 2
        first.append(own[:even:2])
        second.append(own[1:even:2])
    return np.concatenate(first), np.concatenate(second)


class Chosen(NamedTuple):
    """Which snapshots are compared.

    Attributes:
        tables: `tasks`, `snapshot_similarity` and `proposals`, which say why.
        of_task: places of the snapshots of each comparison, by the task's name.
    """

    tables: Tables
    of_task: dict[str, list[tuple[int, ...]]]


def choose_snapshots(run: Run, found: list[Effects]) -> Chosen:
    """The comparisons that the study asks for, or those between which accuracy and activations shift most."""
    settings, steps = settings_of(run), found[0].steps
    curves = pl.concat([_task_rows(effects, settings) for effects in found])
    similarity = _similarity(run)
    cka = similarity["cka"].to_numpy().reshape(len(steps), len(steps))
    proposals, of_task = _comparisons(curves, cka, steps, settings, [effects.task.name for effects in found])
    return Chosen({"tasks": curves, "snapshot_similarity": similarity, "proposals": proposals}, of_task)


def derived_tables(run: Run, found: list[Effects], trials: Tables, chosen: Chosen) -> Tables:
    """All tables of the stage but `relie_seeds`.

    Args:
        found: effects of each task.
        trials: the tables `ablation`, `half_margin` and `exact`.
    """
    settings, steps, comparisons = settings_of(run), found[0].steps, chosen.of_task
    strength = run.matrix("strength")
    related = [
        _relie_tables(effects, comparison, strength, settings)
        for effects in found
        for comparison in comparisons[effects.task.name]
    ]
    exact = trials["exact"]
    dropped = [
        {"task": effects.task.name, "reason": reason, "pairs": count}
        for effects in found
        for reason, count in effects.task.dropped.items()
    ]
    tables = {
        **chosen.tables,
        "task_dropped": from_rows("task_dropped", dropped),
        "effects": pl.concat([effects.table for effects in found]).with_columns(pl.col(pl.Float64).fill_nan(None)),
        "completeness": pl.concat([effects.completeness() for effects in found]).with_columns(
            pl.col(pl.Float64).fill_nan(None)
        ),
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
        row = figures(one.clean[None], effects.task.clusters, weights)
        where = {"task": effects.task.name, "snapshot": place, "step": effects.steps[place]}
        learned = is_learned(
            one.clean, effects.task.clusters, above=settings.learned_accuracy, snapshots=len(effects.steps)
        )
        rows.append(where | row | {"learned": learned})
    return from_rows("tasks", rows)


def _similarity(run: Run) -> pl.DataFrame:
    sequences = sampled_sequences(run)
    read = [stored_activations(run, place, sequences)[:SIMILARITY_TOKENS] for place in range(len(run.steps))]
    cka = linear_ckas(read)
    return from_rows(
        "snapshot_similarity",
        [
            {"step": step, "other_step": run.steps[other], "cosine": token_cosine(x, y), "cka": cka[place, other]}
            for place, (step, x) in enumerate(zip(run.steps, read, strict=True))
            for other, y in enumerate(read)
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
    options = {"samples": settings.bootstrap, **_options(settings)}
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
    first, second = within_clusters(clusters, seed=settings.seed)
    last = effects.snapshots[places[-1]].features
    options["samples"] = 2  # only shares and bands are asked for
    nulls = {
        "study": found,
        "swapped": bands(swapped(of, clusters, seed=settings.seed), steps, clusters, **options),
    }
    if len(first):
        halves = [last[first], last[second]]
        nulls["same snapshot"] = bands(halves, [steps[-1], steps[-1]], clusters[first], **options)
    rows = [where | {"case": case} | _specific(one, len(steps)) for case, one in nulls.items()]
    return {"relie": shares, "bands": banded, "relie_nulls": rows}


def _options(settings: AttributionConfig) -> dict[str, Any]:
    """How RelIE is taken."""
    return {"seed": settings.seed, "normalise": settings.normalise, "absolute": settings.relie_of == "absolute"}


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


def relie_beside(
    effects: Effects, of_other: dict[int, csr_array], match: Match, settings: AttributionConfig
) -> dict[str, Any]:
    """A row of `relie_seeds`, without its seed.

    Args:
        of_other: effects of the other dictionary's features at the snapshots compared, by their places.
        match: its features and ours.
    """
    places, clusters = list(of_other), effects.task.clusters
    steps = [effects.steps[place] for place in places]
    own, other = (
        bands(one, steps, clusters, samples=2, **_options(settings))
        for one in ([effects.snapshots[place].features for place in places], list(of_other.values()))
    )
    known = (match.cosine >= LEVELS[0]) & (own.band[match.feature] != UNDETERMINED)
    known &= other.band[match.other] != UNDETERMINED
    feature, counterpart = match.feature[known], match.other[known]
    middle, low, high = rank_correlation(
        own.share[-1, feature], other.share[-1, counterpart], samples=settings.bootstrap, seed=settings.seed
    )
    return {
        "task": effects.task.name,
        "comparison": label(places, effects.steps),
        "features": int((own.band != UNDETERMINED).sum()),
        "matched": len(feature),
        "spearman": middle,
        "spearman_ci_low": low,
        "spearman_ci_high": high,
        "same_band": float((own.band[feature] == other.band[counterpart]).mean())
        if len(feature) and len(steps) <= 3
        else None,
    }


def _prediction(exact: pl.DataFrame, settings: AttributionConfig) -> pl.DataFrame:
    rows = []
    keys = ["task", "snapshot", "step"]
    for values, table in exact.group_by(*keys, maintain_order=True):
        both = table.filter((pl.col("predicted") != 0) | (pl.col("exact") != 0))
        predicted, real = both["predicted"].to_numpy(), both["exact"].to_numpy()
        middle, low, high = rank_correlation(predicted, real, samples=settings.bootstrap, seed=settings.seed)
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
                middle, low, high = rank_correlation(
                    ratio[known], share[known], samples=settings.bootstrap, seed=settings.seed
                )
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
        rows.append(
            {
                "kind": kind,
                "task": found[one].task.name,
                "other_task": found[other].task.name,
                "step": steps[here],
                "other_step": steps[there],
                "k": OVERLAP_OF,
                "overlap": overlap(*sets),
                "expected": expected_overlap(len(sets[0]), len(sets[1]), active[one][here], active[other][there]),
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
