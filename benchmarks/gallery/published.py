"""Case study: what published settings see of the reference suite, beside our defaults."""

from typing import Any

import altair as alt
import polars as pl

from ontogeny.features.agreement import LEVELS
from ontogeny.features.counterparts import compare_runs
from ontogeny.report.figures.axes import BLUE, VERMILION, step_axis
from ontogeny.report.sentences.lives import middle
from ontogeny.run import Run

STUDIES, STAGE = ("english", "english-published"), "truth"
NAMES = ("our defaults", "published settings")
COLOURS = (VERMILION, BLUE)


def facts(ours: Run, published: Run) -> dict[str, Any]:
    """Births, the recovery that plants foretell for them, how many a snapshot alone confirms, and what both find."""
    found = compare_runs(ours, published)
    level = next(one for one in found.agreement() if one["similarity"] == LEVELS[0])
    same = found.pairs.filter(pl.col("similarity") >= LEVELS[0])
    emergent = ours.features.filter(~pl.col("dead"), pl.col("birth_step") > ours.steps[0])
    again = emergent.join(same, on="feature").select("birth_step", "birth_step_other")
    return {
        "steps": ours.steps,
        "runs": [{"name": name, **_of(run)} for name, run in zip(NAMES, (ours, published), strict=True)],
        "both": level,
        "again": again.to_dicts(),
    }


def _of(run: Run) -> dict[str, Any]:
    """What one study says of births."""
    living = run.features.filter(~pl.col("dead"))
    emergent = living.filter(pl.col("birth_step") > run.steps[0])
    born = emergent.group_by("birth_step").len("births")
    recovery = run.table("recovery").filter(pl.col("birth_step").is_not_null(), pl.col("frequency_part").is_null())
    columns = ("birth_step", "features", "recovered", "recovered_ci_low", "recovered_ci_high", "births_exact")
    trust = run.table("trust").filter("emergent")
    quality = run.table("quality").sort("snapshot")
    return {
        "features": len(run.features),
        "living": len(living),
        "emergent": len(emergent),
        "births": born.sort("birth_step").to_dicts(),
        "recovery": recovery.select(columns).sort("birth_step").to_dicts(),
        "confirmed": int(trust["confirmed"].sum()),
        "confirmable": int(trust["confirmed"].is_not_null().sum()),
        "trust": dict(trust["level"].value_counts().iter_rows()),
        "explained_variance": quality["explained_variance"].to_list(),
        "l0": float(quality["l0"].mean()),  # pyright: ignore[reportArgumentType]
        "seeds": run.table("stability").filter(cosine=LEVELS[0])["emergent_matched"].to_list(),
    }


def corrected(run: dict[str, Any]) -> list[dict[str, Any]]:
    """For each step of a birth: births, and births over the share of plants born there that are recovered; None where
    none was, or none was planted."""
    share = {row["birth_step"]: row["recovered"] for row in run["recovery"]}
    rows = []
    for row in run["births"]:
        recovered = share.get(row["birth_step"])
        rows.append(
            {"step": row["birth_step"], "births": row["births"],
             "corrected": row["births"] / recovered if recovered else None}
        )  # fmt: skip
    return rows


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells beside the facts: births and corrected births, when half are born, the last birth."""
    first, runs = found["steps"][0], []
    for run in found["runs"]:
        rows = corrected(run)
        births = [row["step"] for row in rows for _ in range(row["births"])]
        plants = [row for row in run["recovery"] if row["birth_step"] > first]
        planted = sum(row["features"] for row in plants)
        runs.append(
            run
            | {
                "corrected": sum(row["corrected"] or 0 for row in rows),
                "beyond_correction": sum(row["births"] for row in rows if row["corrected"] is None),
                "median": middle(births) if births else None,
                "last": max(births, default=None),
                "plants": planted,
                "recovered": sum(row["features"] * row["recovered"] for row in plants) / max(1, planted),
                "explained": [run["explained_variance"][place] for place in (0, len(found["steps"]) // 2, -1)],
            }
        )
    either = found["again"]
    same = sum(row["birth_step_other"] > first for row in either)
    return found | {"runs": runs, "again_emergent": same, "again_count": len(either)}


def chart(found: dict[str, Any]) -> alt.TopLevelMixin:
    """Births up to each step, as found and as plants correct them; below, the share of plants that is recovered."""
    steps, born, planted = found["steps"], [], []
    for run in found["runs"]:
        rows = corrected(run)
        for what, key in (("as found", "births"), ("corrected by plants", "corrected")):
            for step in steps:
                births = [row[key] for row in rows if row["step"] <= step]
                total = None if None in births else sum(births)
                born.append({"settings": run["name"], "births": what, "step": step, "features": total})
        planted += [
            {"settings": run["name"], "step": row["birth_step"], "features": row["features"],
             "share": row["recovered"], "low": row["recovered_ci_low"], "high": row["recovered_ci_high"]}
            for row in run["recovery"]
        ]  # fmt: skip
    colour = alt.Color(
        "settings:N",
        title=None,
        scale=alt.Scale(domain=NAMES, range=COLOURS),
        legend=alt.Legend(orient="right"),
    )
    dash = alt.StrokeDash(
        "births:N",
        title=None,
        scale=alt.Scale(domain=["as found", "corrected by plants"], range=[[1, 0], [5, 3]]),
        legend=alt.Legend(orient="right"),
    )
    curves = (
        alt.Chart(pl.DataFrame(born))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=step_axis(steps),
            y=alt.Y("features:Q", title="emergent features born by then"),
            color=colour,
            strokeDash=dash,
        )
        .properties(width=620, height=240)
    )
    base = alt.Chart(pl.DataFrame(planted)).encode(
        x=step_axis(steps, title="pre-training step, of the planted birth"), color=colour
    )
    share = alt.Y("share:Q", title="plants recovered", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    points = base.mark_point(filled=True, opacity=1).encode(
        y=share, shape=alt.Shape("settings:N", title=None, scale=alt.Scale(domain=NAMES, range=["circle", "square"]))
    )
    spread = base.mark_rule().encode(y="low:Q", y2="high:Q")
    lower = alt.layer(spread, base.mark_line(strokeWidth=1).encode(y=share), points).properties(width=620, height=150)
    subtitle = "below: of features planted in each study's likeness, the share found, by birth; 95 % intervals"
    return alt.vconcat(curves, lower).properties(
        title=alt.Title("How many features are born late depends on who looks", subtitle=subtitle)
    )
