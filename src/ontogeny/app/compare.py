"""Two runs side by side: which features are counterparts, and whether they agree on births."""

from typing import Any

import numpy as np

from ontogeny.app.directions import Directions
from ontogeny.app.view import View
from ontogeny.errors import RunError

LEVELS = (0.7, 0.9)
ROWS_AT_ONCE = 4096


def compare(a: View, b: View) -> dict[str, Any]:
    """What two runs have in common.

    Features are matched where both dictionaries read the same width: each to the one of the other run whose direction
    at the last common snapshot is nearest, if that is true both ways. Elsewhere only numbers of features are compared.
    """
    for view in (a, b):
        if not view.run.manifest.get("snapshots"):
            raise RunError(f"{view.run.folder} has no snapshots yet: ontogeny run {view.run.folder}")
    steps = [step for step in a.run.steps if step in set(b.run.steps)]
    answer: dict[str, Any] = {
        "runs": [_facts(a), _facts(b)],
        "births": [_births(a), _births(b)],
        "quality": [_quality(a), _quality(b)],
        "common_steps": steps,
        "matched": None,
        "problem": None,
    }
    try:
        answer["matched"] = _matched(a, b, steps)
    except RunError as error:
        answer["problem"] = str(error)
    return answer


def _facts(view: View) -> dict[str, Any]:
    study = view.run.study
    return {
        "name": study.name, "suite": view.suite, "hookpoint": study.hookpoint,
        "kind": study.dictionary.kind, "activation": study.dictionary.activation, "k": study.dictionary.used_k,
        "features": study.dictionary.n_features, "seed": study.train.seed, "tokens": study.train.tokens,
        "snapshots": len(view.run.steps),
    }  # fmt: skip


def _births(view: View) -> list[dict[str, Any]]:
    """Emergent features born by each snapshot, as a share of the living ones."""
    found = view.rows.query("SELECT birth_step, origin FROM features WHERE NOT dead", [])
    born = np.sort([row["birth_step"] for row in found if row["origin"] == "emergent"])
    so_far = np.searchsorted(born, view.run.steps, side="right") / max(len(found), 1)
    return [{"step": step, "share": float(share)} for step, share in zip(view.run.steps, so_far, strict=True)]


def _quality(view: View) -> list[dict[str, Any]]:
    try:
        return view.run.table("quality").select("step", "explained_variance", "l0").to_dicts()
    except RunError:
        return []


def _matched(a: View, b: View, steps: list[int]) -> dict[str, Any]:
    """Mutual nearest neighbours at the last common snapshot."""
    if not steps:
        raise RunError("the runs have no step in common")
    one, other = Directions(a.run), Directions(b.run)
    if one.d_model != other.d_model:
        raise RunError(f"the runs read streams of width {one.d_model} and {other.d_model}: no directions to compare")
    rows = one.at(a.run.steps.index(steps[-1]), slice(None))
    others = other.at(b.run.steps.index(steps[-1]), slice(None))
    nearest, size = _nearest(rows, others)
    back, _ = _nearest(others, rows)
    born = [_birth_of(view) for view in (a, b)]
    for own, directions in zip(born, (rows, others), strict=True):
        if len(own) != len(directions):
            raise RunError("a run's dictionary and its features are of different trainings: run it to its end")
    living = born[0] >= 0
    mutual = (back[nearest] == np.arange(len(nearest))) & living & (born[1][nearest] >= 0)
    places = np.flatnonzero(mutual)
    order = places[np.argsort(-size[places], kind="stable")]
    levels = []
    for level in LEVELS:
        same = places[size[places] >= level]
        x, y = born[0][same], born[1][nearest[same]]
        levels.append(
            {
                "cosine": level,
                "features": int(living.sum()),
                "features_other": int((born[1] >= 0).sum()),
                "matched": len(same),
                "births_same": float((x == y).mean()) if len(same) else None,
            }
        )
    pairs = [
        {"feature": int(place), "other": int(nearest[place]), "cosine": round(float(size[place]), 4),
         "birth": int(born[0][place]), "birth_other": int(born[1][nearest[place]])}
        for place in order[:2000]
    ]  # fmt: skip
    return {"step": steps[-1], "levels": levels, "pairs": pairs}


def _nearest(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the place of the other one with the greatest cosine, and that cosine."""
    places, sizes = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        cosine = rows[start : start + ROWS_AT_ONCE] @ others.T
        places[start : start + len(cosine)] = cosine.argmax(1)
        sizes[start : start + len(cosine)] = cosine.max(1)
    return places, sizes


def _birth_of(view: View) -> np.ndarray:
    """Step of birth of each feature; -1 where it is dead."""
    found = view.rows.query(
        "SELECT CASE WHEN dead THEN -1 ELSE birth_step END AS it FROM features ORDER BY feature", []
    )
    return np.asarray([-1 if row["it"] is None else row["it"] for row in found])
