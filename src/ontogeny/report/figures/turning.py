"""How decoder directions turn."""

import altair as alt
import polars as pl

from ontogeny.report.figures.axes import BLUE, GREEN, HEIGHT, ORANGE, WIDTH, Spec, finished, step_axis
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
