"""How far features can be trusted: what the checks of a study found, and what the training text alone shows."""

import altair as alt
import polars as pl

from ontogeny.report.figures.axes import (
    BLUE,
    GREY,
    HEIGHT,
    ORANGE,
    SKY,
    WIDTH,
    Spec,
    finished,
    interval_labels,
    step_axis,
)
from ontogeny.run import Run


def trust(run: Run) -> Spec:
    """Levels of trust of the features born at each snapshot, as shares."""
    levels = {"high": BLUE, "medium": SKY, "low": ORANGE}
    labels = ["initial", *interval_labels(run.steps)]
    names = dict(zip(run.steps, labels, strict=True))
    table = run.table("trust").join(run.features.select("feature", "birth_step"), on="feature")
    counted = table.group_by("birth_step", "level").agg(features=pl.len())
    counted = counted.with_columns(
        interval=pl.col("birth_step").replace_strict(names, return_dtype=pl.String),
        order=pl.col("level").replace_strict({name: place for place, name in enumerate(levels)}, return_dtype=pl.Int64),
    )
    chart = (
        alt.Chart(counted)
        .mark_bar()
        .encode(
            x=alt.X("interval:O", title="born in (previous snapshot, snapshot], steps", sort=labels,
                    scale=alt.Scale(domain=labels), axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("features:Q", title="share of the features born", stack="normalize", axis=alt.Axis(format="%")),
            color=alt.Color("level:N", title="trust",
                            scale=alt.Scale(domain=list(levels), range=list(levels.values()))),
            order="order:Q",
            tooltip=["interval", "level", "features"],
        )
    )  # fmt: skip
    counts = ", ".join(f"{int((table['level'] == level).sum()):,} {level}" for level in levels)
    title = alt.Title("How far features can be trusted", subtitle=f"{len(table):,} living features: {counts}")
    return finished(chart.properties(width=WIDTH, height=HEIGHT * 2 // 3, title=title))


def memorisation(run: Run) -> Spec:
    """Mean gap between strengths on training and on held-out text at every snapshot."""
    table = run.table("memorisation_snapshots").drop_nulls("gap").with_columns(none=pl.lit(0.0))
    base = alt.Chart(table).encode(x=step_axis(run.steps))
    title = "gap (share of the greatest strength)"
    band = base.mark_area(opacity=0.25, color=BLUE).encode(y=alt.Y("gap_ci_low:Q", title=title), y2="gap_ci_high:Q")
    line = base.mark_line(point=True, color=BLUE).encode(
        y=alt.Y("gap:Q", title=title),
        tooltip=["step", "features", alt.Tooltip("gap", format=".4f"), "stronger", "weaker", "at_random"],
    )
    none = base.mark_line(color=GREY, strokeDash=[6, 4]).encode(y="none:Q")
    heading = alt.Title(
        "Is more of a feature shown on training text than on held-out text?",
        subtitle="mean over the features alive at each snapshot; band: 95 % over documents; dashed: no gap",
    )
    chart = alt.layer(band, none, line).properties(width=WIDTH, height=HEIGHT * 2 // 3)
    return finished(chart.properties(title=heading))
