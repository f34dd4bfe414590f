"""What the checks of a study found."""

import altair as alt
import polars as pl

from ontogeny.report.figures.axes import BLUE, HEIGHT, ORANGE, SKY, WIDTH, Spec, finished, interval_labels
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
