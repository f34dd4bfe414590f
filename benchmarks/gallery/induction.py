"""Case study: a model that learns induction, and the features that come with it."""

from typing import Any

import altair as alt
import polars as pl
from benchmarks.gallery.kinds import births_of

from ontogeny.report.figures.axes import BLUE, GREEN, GREY, ORANGE, PINK, step_axis
from ontogeny.run import Run

STUDIES, STAGE = ("english-repeats",), "attribute"
KINDS = {"context sensitive": GREEN, "previous token": ORANGE, "induction": PINK}


def facts(run: Run) -> dict[str, Any]:
    """How much cheaper random tokens are the second time, births of three kinds of feature, strengths of the induction
    features, and what is left of the task's margin without them all."""
    kinds = run.table("kinds").select("feature", "birth_step", kind=pl.col("kind").str.replace_all("_", " "))
    found = kinds.filter(kind="induction")["feature"].sort().to_list()
    strength, last = run.matrix("strength_relative"), run.steps[-1]
    tried = run.table("ablation").filter(step=last)
    margin = {way: tried.filter(condition=way, way=how) for way, how in (("clean", "none"), ("all", "removed"))}
    return {
        "features": len(kinds),
        "kinds": {kind: kinds.filter(kind=kind)["birth_step"].sort().to_list() for kind in KINDS},
        "gain": run.table("induction_scores").sort("step").to_dicts(),
        "strength": [
            {"feature": feature, "step": step, "strength": float(strength[place, feature])}
            for feature in found
            for place, step in enumerate(run.steps)
        ],
        "margin": {way: rows.select("margin", "accuracy").row(0, named=True) for way, rows in margin.items()},
        "error": run.table("completeness").filter(step=last).select("margin_clean", "error_effect").row(0, named=True),
    }


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells."""
    born = {kind: pl.Series(kind, [step for step in births if step > 0]) for kind, births in found["kinds"].items()}
    return found | {
        "count": {kind: len(births) for kind, births in found["kinds"].items()},
        "median": {kind: births.median() for kind, births in born.items()},
        "cheap": next(row["step"] for row in found["gain"] if row["gain_ci_low"] > 1),
    }


def chart(found: dict[str, Any]) -> alt.TopLevelMixin:
    """The model's induction score, strengths of induction features, and births of three kinds, over steps."""
    steps = [row["step"] for row in found["gain"]]
    gain = alt.Chart(pl.DataFrame(found["gain"])).encode(x=step_axis(steps))
    scores = gain.mark_line(point=True, color=BLUE).encode(
        y=alt.Y("gain:Q", title=["random tokens, the second", "time: nat a token saved"])
    ) + gain.mark_rule(color=BLUE).encode(y="gain_ci_low:Q", y2="gain_ci_high:Q")
    lives = (
        alt.Chart(pl.DataFrame(found["strength"]))
        .mark_line(color=PINK, opacity=0.7, point=alt.OverlayMarkDef(color=PINK, size=18))
        .encode(
            x=step_axis(steps),
            y=alt.Y("strength:Q", title=["strength of each induction", "feature, of its greatest"]),
            detail="feature:N",
        )
    )
    half = alt.Chart(pl.DataFrame({"half": [0.5]})).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y="half:Q")
    emergent = {kind: [step for step in born if step > 0] for kind, born in found["kinds"].items()}
    named = {f"{kind} ({len(born)})": born for kind, born in emergent.items()}
    colour = alt.Color(
        "kind:N",
        title="kind of feature (emergent ones)",
        scale=alt.Scale(domain=list(named), range=list(KINDS.values())),
        legend=alt.Legend(orient="bottom", columnPadding=24),
    )
    curves = births_of(named, steps, colour)
    panels = [panel.properties(width=620, height=170) for panel in (scores, lives + half, curves)]
    subtitle = "intervals of 95 % over sequences; dashed: from here on a feature counts as alive"
    return alt.vconcat(*panels).properties(
        title=alt.Title("Induction, and the features that come with it", subtitle=subtitle)
    )
