"""Case study: what other pre-trainings of the same model form, and when."""

from itertools import combinations
from typing import Any

import altair as alt
import polars as pl

from ontogeny.features.agreement import LEVELS
from ontogeny.features.counterparts import compare_runs
from ontogeny.report.figures.axes import BLUE, GREEN, GREY, VERMILION, interval_labels, short, step_axis
from ontogeny.report.sentences.lives import middle
from ontogeny.run import Run

STUDIES, STAGE = ("english", "english-model-1", "english-model-2"), "analyse"
NAMES = ("reference", "seed 1", "seed 2")
COLOURS = (VERMILION, BLUE, GREEN)


def facts(*runs: Run) -> dict[str, Any]:
    """Births in each model, and of each two models the features that are active on the same tokens."""
    named, models = dict(zip(NAMES, runs, strict=True)), []
    for name, run in named.items():
        living = run.features.filter(~pl.col("dead"))
        born = living.filter(pl.col("birth_step") > run.steps[0])["birth_step"]
        loss = run.analysis("phases").sort("snapshot")["loss"]
        models.append({"name": name, "living": len(living), "births": sorted(born.to_list()), "loss": loss[-1]})
    pairs = []
    for a, b in combinations(NAMES, 2):
        found = compare_runs(named[a], named[b])
        same = found.pairs.filter(pl.col("similarity") >= LEVELS[0])
        births = same.group_by("birth_step", "birth_step_other").len("features").sort("birth_step", "birth_step_other")
        pairs.append(
            {"models": [a, b], "tokens": found.tokens, "levels": found.agreement(), "births": births.to_dicts()}
        )
    return {"steps": runs[0].steps, "models": models, "pairs": pairs}


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells: the pairs at the lower level of similarity, and medians of births."""
    models = [model | {"median": middle(model["births"]) if model["births"] else None} for model in found["models"]]
    pairs = [pair | pair["levels"][0] for pair in found["pairs"]]
    return found | {"models": models, "pairs": pairs}


def chart(found: dict[str, Any]) -> alt.TopLevelMixin:
    """Shares of emergent features born by each step; births of those that are matched, model against model."""
    steps, first = found["steps"], found["steps"][0]
    named = {f"{model['name']} ({len(model['births']):,} emergent)": model["births"] for model in found["models"]}
    rows = [
        {"model": name, "step": step, "share": sum(one <= step for one in births) / max(1, len(births))}
        for name, births in named.items()
        for step in steps
    ]
    colour = alt.Color(
        "model:N",
        title=None,
        scale=alt.Scale(domain=list(named), range=COLOURS),
        legend=alt.Legend(orient="top", columnPadding=24, labelLimit=240),
    )
    curves = (
        alt.Chart(pl.DataFrame(rows))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=step_axis(steps),
            y=alt.Y("share:Q", title="of the emergent: born by then", axis=alt.Axis(format="%")),
            color=colour,
        )
        .properties(width=690, height=190)
    )
    labels = dict(zip(steps, [f"at {short(first)}", *interval_labels(steps)], strict=True))
    born = sorted({row[end] for pair in found["pairs"] for row in pair["births"]
                   for end in ("birth_step", "birth_step_other")})  # fmt: skip
    order = [labels[step] for step in born]
    panels = []
    for pair in found["pairs"]:
        level = pair["levels"][0]
        cells = pl.DataFrame(pair["births"]).with_columns(
            a=pl.col("birth_step").replace_strict(labels, return_dtype=pl.String),
            b=pl.col("birth_step_other").replace_strict(labels, return_dtype=pl.String),
        )
        a, b = pair["models"]
        title = alt.Title(f"{a} and {b}", subtitle=_correlation(level))
        scale = alt.Scale(domain=order)
        base = alt.Chart(cells, title=title).encode(
            x=alt.X("a:O", title=f"born in {a}", scale=scale, axis=alt.Axis(labelAngle=-60)),
            y=alt.Y("b:O", title=f"born in {b}", scale=alt.Scale(domain=order[::-1]), axis=alt.Axis(titlePadding=16)),
        )
        points = base.mark_circle(color=BLUE, opacity=0.85).encode(
            size=alt.Size("features:Q", title="features", scale=alt.Scale(type="sqrt", range=[12, 260]),
                          legend=alt.Legend(orient="bottom"))
        )  # fmt: skip
        same = pl.DataFrame({"a": order, "b": order})
        line = alt.Chart(same).mark_line(color=GREY, strokeDash=[4, 3]).encode(
            x=alt.X("a:O", scale=scale), y=alt.Y("b:O", scale=alt.Scale(domain=order[::-1]))
        )  # fmt: skip
        panels.append((line + points).properties(width=190, height=190))
    subtitle = (
        "below: features active on the same tokens in two models (correlation of codes at least .7), by their births"
    )
    return alt.vconcat(curves, alt.hconcat(*panels)).properties(
        title=alt.Title("What other pre-trainings of one model form, and when", subtitle=subtitle)
    )


def _correlation(level: dict[str, Any]) -> str:
    """The rank correlation of births that emerge in both, with its interval."""
    if level["births_spearman"] is None:
        return f"{level['emergent_both']:,} emerge in both"
    low, high = level["births_spearman_ci_low"], level["births_spearman_ci_high"]
    return f"ρ {level['births_spearman']:.2f} ({low:.2f} to {high:.2f}), {level['emergent_both']:,} in both"
