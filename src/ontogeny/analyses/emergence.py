"""Births, deaths and living features per snapshot, at several thresholds of "alive". Source: arXiv 2509.17196, with the
life history defined here."""

import numpy as np
import polars as pl

from ontogeny.features.life import alive_mask, life_history
from ontogeny.intervals import wilson_count
from ontogeny.run import Run
from ontogeny.tables import from_rows


def emergence(run: Run) -> pl.DataFrame:
    """The table `emergence`, a row per threshold and snapshot; dead features left out."""
    strength, lives = _lives(run)
    rows = []
    for threshold, life in lives.items():
        total, born = len(life), 0
        alive = alive_mask(strength, threshold)
        greatest = np.maximum(strength.max(0), np.finfo(strength.dtype).tiny)
        for snapshot, step in enumerate(run.steps):
            births = int((life["birth_step"] == step).sum())
            born += births
            living = int(alive[snapshot].sum())
            low, high = wilson_count(births, total)
            alive_low, alive_high = wilson_count(living, total)
            rows.append(
                {
                    "alive_threshold": threshold,
                    "snapshot": snapshot,
                    "step": step,
                    "births": births,
                    "births_ci_low": low,
                    "births_ci_high": high,
                    "deaths": int((life["death_step"] == step).sum()),
                    "alive": living,
                    "alive_ci_low": alive_low,
                    "alive_ci_high": alive_high,
                    "born_share": born / max(total, 1),
                    "mean_strength_relative": float((strength[snapshot] / greatest).mean()) if total else 0.0,
                }
            )
    return from_rows("emergence", rows)


def births(run: Run) -> pl.DataFrame:
    """The table `births`: features by origin, fate and step of birth, and of all steps together."""
    rows = []
    for threshold, life in _lives(run)[1].items():
        kinds = life.group_by("origin", "fate", "birth_step").agg(features=pl.len())
        totals = life.group_by("origin", "fate").agg(features=pl.len()).with_columns(birth_step=None)
        for row in pl.concat([kinds, totals.select(kinds.columns)], how="vertical_relaxed").iter_rows(named=True):
            low, high = wilson_count(row["features"], len(life))
            rows.append({"alive_threshold": threshold, **row, "ci_low": low, "ci_high": high})
    return from_rows("births", rows).sort("alive_threshold", "origin", "fate", "birth_step", nulls_last=False)


def _lives(run: Run) -> tuple[np.ndarray, dict[float, pl.DataFrame]]:
    """Strengths [snapshot, feature] and, at each threshold, the life histories of the features that are not dead."""
    settings = run.study.measure
    living = np.flatnonzero(~run.features.sort("feature")["dead"].to_numpy())
    strength = run.matrix("strength")[:, living]
    thresholds = sorted({settings.alive_threshold, *run.study.analysis.alive_thresholds})
    return strength, {
        threshold: life_history(
            strength,
            run.steps,
            dead=np.zeros(len(living), dtype=bool),
            alive_threshold=threshold,
            transient_below=settings.transient_below,
            censored_last=settings.censored_last,
        )
        for threshold in thresholds
    }
