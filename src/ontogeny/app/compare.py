"""Two runs side by side: which features are counterparts, and whether they agree on births."""

from typing import Any

import numpy as np

from ontogeny.app.joined import UNREADABLE, first_line
from ontogeny.app.view import View
from ontogeny.errors import RunError
from ontogeny.features.counterparts import compare_runs

MOST_PAIRS = 2000


def compare(a: View, b: View) -> dict[str, Any]:
    """What two runs have in common; why features are not matched, where they are not."""
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
        answer["matched"] = _matched(a, b)
    except UNREADABLE as error:
        answer["problem"] = first_line(error)
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


def _matched(a: View, b: View) -> dict[str, Any]:
    found = compare_runs(a.run, b.run)
    return {
        "by": found.by,
        "step": found.step,
        "tokens": found.tokens,
        "levels": found.agreement(),
        "pairs": found.pairs.head(MOST_PAIRS).to_dicts(),
    }
