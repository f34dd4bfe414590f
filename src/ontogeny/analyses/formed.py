"""When features have formed: in what they mean, in where they point, and in how alike their examples are; and how they
got there.

Source: SAE-Track, arXiv 2412.17626 (semantic patterns; drift after meaning has settled), made into rules here.
"""

from typing import Any

import numpy as np
import polars as pl

from ontogeny.analyses.directions import unit_directions
from ontogeny.analyses.three_phases import find_phases_of
from ontogeny.intervals import wilson_count
from ontogeny.run import Run
from ontogeny.tables import from_rows

SAME_DIRECTION = 0.9
"""Cosine with the last direction from which on a direction has settled."""
RISEN, LEAST_RISE = 0.9, 0.1
PATTERNS = (
    "maintaining", "shifting_to_token", "shifting_to_concept", "grouping_to_token", "grouping_to_concept",
    "dissolving", "unformed", "rare", "dead",
)  # fmt: skip


def formed(run: Run) -> pl.DataFrame:
    """The table `formed`: a row per feature."""
    from ontogeny.features.codes import code_correlations, stored_codes

    steps, settings = np.array(run.steps), run.study.analysis
    n, n_features = len(steps), len(run.features)
    last = stored_codes(run).codes
    meaning = np.stack([code_correlations(stored_codes(run, snapshot=place).codes, last) for place in range(n)])
    level = run.table("levels").sort("snapshot", "feature")["level"].to_numpy().reshape(n, n_features)
    progress = run.table("formation").sort("snapshot", "feature")["progress"].to_numpy().reshape(n, n_features).copy()
    directions = unit_directions(run)
    cosine = np.einsum("sfd,fd->sf", directions, directions[-1])
    angles = np.degrees(2 * np.arcsin(np.minimum(np.linalg.norm(np.diff(directions, axis=0), axis=2) / 2, 1)))
    near, retraining = _null_track(run)
    dead = run.features.sort("feature")["dead"].to_numpy()
    progress[run.table("similarity").sort("snapshot")["collapsed"].to_numpy()] = np.nan
    shapes = find_phases_of(run.steps, progress.T)
    rows = []
    for feature in range(n_features):
        sem = _settled(meaning[:, feature] >= settings.same_meaning)
        direction = _settled(cosine[:, feature] >= near)
        risen = _risen(progress[:, feature])
        known = np.flatnonzero([one is not None for one in level[:, feature]])
        first = int(known[0]) if len(known) else None
        row: dict[str, Any] = {
            "feature": feature,
            "pattern": "dead"
            if dead[feature]
            else pattern_of(level[:, feature], meaning[:, feature], same=settings.same_meaning),
            "first_step": None if first is None else steps[first],
            "first_level": None if first is None else level[first, feature],
            "last_level": level[-1, feature],
            "same_as_first": None if first is None else meaning[first, feature],
        }
        for name, place, seen in (
            ("meaning", sem, None), ("direction", direction, None), ("progress", risen, progress[:, feature])
        ):  # fmt: skip
            before = _before(place, seen)
            row[f"{name}_step"] = None if place is None else steps[place]
            row[f"{name}_after"] = None if before is None else steps[before]
        if sem is not None and direction is not None:
            row |= _lag(steps, sem, direction)
            path = float(np.nansum(angles[sem:, feature]))
            row |= {"path_after": path, "path_beyond": path - retraining[sem:].sum()}
        shape = shapes[feature]
        if shape is not None:
            row |= {"shape": shape.shape, "rise_from": steps[shape.rise_from], "rise_to": steps[shape.rise_to]}
        rows.append(row)
    return from_rows("formed", rows)


def patterns(run: Run) -> pl.DataFrame:
    """The table `patterns`: how many features took each way."""
    found, rows = run.table("formed"), []
    for pattern in PATTERNS:
        count = int((found["pattern"] == pattern).sum())
        low, high = wilson_count(count, len(found))
        share = count / len(found)
        ends = {"share_ci_low": low / len(found), "share_ci_high": high / len(found)}
        rows.append({"pattern": pattern, "features": count, "share": share, **ends})
    return from_rows("patterns", rows)


def pattern_of(level: np.ndarray, meaning: np.ndarray, *, same: float) -> str:
    """How a feature that is not dead came to what it is at the last snapshot; `rare` where examples are too few there.

    Args:
        level: [snapshot], None where it has too few examples.
        meaning: correlation of its codes with those at the last snapshot [snapshot].
    """
    if level[-1] is None:
        return "rare"
    first = next(place for place, one in enumerate(level) if one is not None)
    if level[-1] == "noise":
        return "unformed" if level[first] == "noise" else "dissolving"
    if level[first] != "noise" and meaning[first] >= same:
        return "maintaining"
    way = "grouping" if level[first] == "noise" else "shifting"
    return f"{way}_to_{'token' if level[-1] == 'token' else 'concept'}"


def _settled(same: np.ndarray) -> int | None:
    """The first snapshot from which on all are as the last one; None where the last is not."""
    if not same[-1]:
        return None
    other = np.flatnonzero(~same)
    return int(other[-1]) + 1 if len(other) else 0


def _risen(progress: np.ndarray) -> int | None:
    """The first snapshot with nine tenths of the rise from the first to the last that are known; None where that is
    small.
    """
    known = progress[np.isfinite(progress)]
    if len(known) == 0 or known[-1] - known[0] < LEAST_RISE:
        return None
    return int(np.flatnonzero(progress >= known[0] + RISEN * (known[-1] - known[0]))[0])


def _before(place: int | None, curve: np.ndarray | None) -> int | None:
    """The snapshot before, or the nearest one before at which the curve is known; None where there is none."""
    if place is None or curve is None:
        return place - 1 if place else None
    known = np.flatnonzero(np.isfinite(curve[:place]))
    return int(known[-1]) if len(known) else None


def _null_track(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """From which cosine with the last on a direction counts as settled [snapshot], and the degrees by which retraining
    alone turns directions [interval]; nan without a null track.

    Where retraining on one snapshot takes directions further than .9 from the last, the bound is what all but 5 % of
    them keep.
    """
    n = len(run.steps)
    near, retraining = np.full(n, SAME_DIRECTION), np.full(n - 1, np.nan)
    if "tracking" in run.study.analyses and "null" in run.study.analysis.track_controls:
        null = run.table("track_drift").filter(pl.col("variant") == "null").sort("link")
        near[:-1] = np.fmin(near[:-1], null["cosine_last_low"].cast(pl.Float64).fill_null(np.nan).to_numpy())
        retraining = null["angle"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return near, retraining


def _lag(steps: np.ndarray, sem: int, direction: int) -> dict[str, float | None]:
    """Between which bounds the direction settles after the meaning, in log-steps; None where an end is not known."""
    at = np.log2(1.0 + steps)
    return {
        "lag_low": None if direction == 0 else float(at[direction - 1] - at[sem]),
        "lag_high": None if sem == 0 else float(at[direction] - at[sem - 1]),
    }
