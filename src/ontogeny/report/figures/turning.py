"""How decoder directions turn."""

import altair as alt
import numpy as np
import polars as pl

from ontogeny.report.figures.axes import BLUE, GREEN, GREY, HEIGHT, ORANGE, VERMILION, WIDTH, Spec, finished, step_axis
from ontogeny.run import Run


def drift(run: Run) -> Spec:
    """How fast directions turn between neighbouring snapshots, in every variant, with breaks and the warm-up's end."""
    names = {
        "all": "all snapshots", "thinned": "every second snapshot", "independent": "decoder drawn per snapshot"
    }  # fmt: skip
    table = run.analysis("drift").drop_nulls("per_log_step")
    middle = ((1 + pl.col("step_a")) * (1 + pl.col("step_b"))).sqrt() - 1
    table = table.with_columns(step=middle, measure=pl.col("variant").replace_strict(names))
    shown = [names[variant] for variant in table["variant"].unique(maintain_order=True)]
    scale = alt.Scale(domain=shown, range=[BLUE, ORANGE, GREEN][: len(shown)])
    base = alt.Chart(table).encode(
        x=step_axis(run.steps),
        color=alt.Color("measure:N", title=None, scale=scale),
        tooltip=["step_a", "step_b", "measure", alt.Tooltip("per_log_step", format=".2f"), "features"],
    )
    y = alt.Y("per_log_step:Q", title="turning (degrees / log-step)", scale=alt.Scale(type="log", nice=True))
    low = alt.Y("per_log_step_ci_low:Q", title="turning (degrees / log-step)")
    layers = [
        base.mark_line(point=True).encode(y=y),
        base.mark_area(opacity=0.2).encode(y=low, y2="per_log_step_ci_high:Q"),
    ]
    breaks = run.analysis("turning_point").filter(pl.col("variant") == "all").drop_nulls("step")
    marks = [
        {"step": row["step"], "what": "most likely break (all snapshots)", "p": row["p_value"]}
        for row in breaks.iter_rows(named=True)
    ]
    if run.study.suite.warmup_end is not None:
        marks.append({"step": run.study.suite.warmup_end, "what": "end of the learning-rate warm-up", "p": None})
    if marks:
        rules = (
            alt.Chart(pl.DataFrame(marks, schema={"step": pl.Int64, "what": pl.String, "p": pl.Float64}))
            .mark_rule(strokeWidth=1.5)
            .encode(
                x="step:Q",
                strokeDash=alt.StrokeDash("what:N", title=None, legend=alt.Legend(labelLimit=260)),
                tooltip=["step", "what", alt.Tooltip("p", format=".3f")],
            )
        )
        layers.append(rules)
    title = "How fast directions turn (features alive at both ends of an interval)"
    return finished(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def settling(run: Run) -> Spec:
    """How near directions are to where they end: their cosines with the last ones, snapshot by snapshot."""
    table = run.table("directions").drop_nulls("cosine_last").filter(pl.col("snapshot") < len(run.steps) - 1)
    width = 0.05
    bins = (pl.col("cosine_last").clip(-1, 1 - 1e-6) / width).floor() * width
    counts = table.group_by("step", low=bins).agg(features=pl.len())
    counts = counts.with_columns(high=pl.col("low") + width, share=pl.col("features") / pl.sum("features").over("step"))
    middles = table.group_by("step").agg(median=pl.col("cosine_last").median())
    x = alt.X("step:O", title="pre-training step", sort=run.steps[:-1], axis=alt.Axis(labelAngle=-45))
    cells = (
        alt.Chart(counts)
        .mark_bar()
        .encode(
            x=x,
            y=alt.Y("low:Q", title="cosine with the last direction"),
            y2="high:Q",
            color=alt.Color("share:Q", title="features (share)", scale=alt.Scale(scheme="viridis", type="sqrt")),
            tooltip=["step:O", alt.Tooltip("low:Q", format=".2f"), "features:Q", alt.Tooltip("share:Q", format=".3f")],
        )
    )
    line = (
        alt.Chart(middles)
        .mark_line(color=ORANGE, point={"color": ORANGE, "filled": True})
        .encode(x=x, y=alt.Y("median:Q"), tooltip=["step:O", alt.Tooltip("median:Q", format=".3f")])
    )
    layers, subtitle = [cells, line], "line: the median feature"
    if "tracking" in run.study.analyses and "null" in run.study.analysis.track_controls:
        null = run.table("track_drift").filter(pl.col("variant") == "null").drop_nulls("cosine_last")
        null = null.with_columns(step=pl.col("link").replace_strict(dict(enumerate(run.steps))))
        dashes = alt.Chart(null).mark_line(color=VERMILION, strokeDash=[6, 4], point={"color": VERMILION})
        layers.append(
            dashes.encode(x=x, y="cosine_last:Q", tooltip=["step:O", alt.Tooltip("cosine_last:Q", format=".3f")])
        )
        subtitle += "; dashed: the mean of the null track, which retraining alone leaves"
    title = alt.Title("How near directions are to where they end", subtitle=subtitle)
    return finished(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def paths(run: Run) -> Spec:
    """The ways of a few features' directions in the plane of the first two principal components of all."""
    table = run.table("directions").drop_nulls()
    length = (pl.col("component_1").diff().pow(2) + pl.col("component_2").diff().pow(2)).sqrt().sum()
    moved = table.group_by("feature").agg(path=length, snapshots=pl.len())
    whole = moved.filter(pl.col("snapshots") == pl.col("snapshots").max()).sort("path", "feature")
    chosen = whole["feature"].gather(np.linspace(0, len(whole) - 1, min(6, len(whole))).round().astype(int)).to_list()
    shown = table.filter(pl.col("feature").is_in(chosen)).sort("feature", "snapshot")
    explained = run.table("direction_components").sort("component")["explained"]
    axes = [f"component {place} ({explained[place - 1]:.0%} of the variance)" for place in (1, 2)]
    base = alt.Chart(shown).encode(
        x=alt.X("component_1:Q", title=axes[0]),
        y=alt.Y("component_2:Q", title=axes[1]),
        detail="feature:N",
        tooltip=["feature:N", "step:Q", alt.Tooltip("cosine_last:Q", format=".2f")],
    )
    ways = base.mark_line(strokeWidth=1, color=GREY, opacity=0.6).encode(order="snapshot:Q")
    points = base.mark_point(filled=True, size=36, opacity=1).encode(
        color=alt.Color("snapshot:Q", title="snapshot (0 is the first)", scale=alt.Scale(scheme="viridis"))
    )
    title = alt.Title(
        "Where directions go",
        subtitle=f"{len(chosen)} features, from the one that moves least in this plane to the one that moves farthest",
    )
    return finished(alt.layer(ways, points).properties(width=WIDTH, height=420, title=title))


def cosines(run: Run) -> Spec:
    """Mean cosine of decoder directions between every two snapshots."""
    table = run.analysis("cosines").select("step_a", "step_b", "cosine", "features")
    mirrored = table.filter(pl.col("step_a") != pl.col("step_b")).rename({"step_a": "step_b", "step_b": "step_a"})
    table = pl.concat([table, mirrored.select(table.columns)])
    steps = run.steps
    side = 380
    chart = (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("step_a:O", title="pre-training step", sort=steps, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("step_b:O", title="pre-training step", sort=steps),
            color=alt.Color("cosine:Q", title="mean cosine", scale=alt.Scale(scheme="viridis")),
            tooltip=["step_a", "step_b", alt.Tooltip("cosine", format=".3f"), "features"],
        )
    )
    title = "How far directions have turned between two snapshots (features alive at both)"
    return finished(chart.properties(width=side, height=side, title=title))
