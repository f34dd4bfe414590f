"""How features form, what they are about, and how far a series can be trusted."""

import altair as alt
import polars as pl

from ontogeny.analyses.formed import RISEN, SAME_DIRECTION
from ontogeny.report.figures.axes import (
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    PINK,
    SKY,
    VERMILION,
    WIDTH,
    Spec,
    finished,
    step_axis,
)
from ontogeny.run import Run

LEVELS = {"token": BLUE, "weak_concept": SKY, "concept": GREEN, "noise": ORANGE, "too few examples": GREY}
CHAINS = {"forward": BLUE, "reverse": GREEN, "order": PINK, "null": ORANGE}


def progress(run: Run) -> Spec:
    """Mean progress of formation, what tokens alone would give, and random tokens' similarity."""
    table = run.analysis("progress").join(run.table("similarity").select("snapshot", "random"), on="snapshot")
    names = {
        "progress": "progress of formation, mean",
        "normalised": "the same, of what it can be at most",
        "expected": "what the tokens alone would give",
        "random": "similarity of random tokens",
    }
    long = table.unpivot(
        list(names), index=["step", "collapsed"], variable_name="name", value_name="value"
    ).drop_nulls()
    long = long.with_columns(
        measure=pl.col("name").replace_strict(names),
        value=pl.when(pl.col("collapsed") & (pl.col("name") != "random")).then(None).otherwise("value"),
    )
    scale = alt.Scale(domain=list(names.values()), range=[BLUE, SKY, ORANGE, GREY])
    lines = (
        alt.Chart(long)
        .mark_line(point=True)
        .encode(
            x=step_axis(run.steps),
            y=alt.Y("value:Q", title="cosine"),
            color=alt.Color("measure:N", title=None, scale=scale, legend=alt.Legend(labelLimit=260)),
            tooltip=["step:Q", "measure:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    ends = [
        pl.when("collapsed").then(None).otherwise(end).alias(end) for end in ("progress_ci_low", "progress_ci_high")
    ]
    band = (
        alt.Chart(table.with_columns(ends))
        .mark_area(opacity=0.25, color=BLUE)
        .encode(x=step_axis(run.steps), y="progress_ci_low:Q", y2="progress_ci_high:Q")
    )
    layers = [band, lines]
    if table["collapsed"].any():
        rules = alt.Chart(table.filter("collapsed")).mark_rule(strokeDash=[3, 3], color=VERMILION)
        layers.append(rules.encode(x="step:Q", tooltip=[alt.Tooltip("step:Q", title="collapsed at step")]))
    title = alt.Title(
        "How alike the activations at features' examples are",
        subtitle="examples: leading tokens at the last snapshot; dashed: snapshots at which random tokens become alike"
        if table["collapsed"].any()
        else "examples: leading tokens at the last snapshot",
    )
    return finished(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def levels(run: Run) -> Spec:
    """Share of features at each level, snapshot by snapshot."""
    table = run.table("levels").with_columns(pl.col("level").fill_null("too few examples"))
    counts = table.group_by("step", "level").agg(features=pl.len()).sort("step")
    order = {level: place for place, level in enumerate(LEVELS)}
    counts = counts.with_columns(
        share=pl.col("features") / len(run.features), order=pl.col("level").replace_strict(order)
    )
    chart = (
        alt.Chart(counts)
        .mark_bar()
        .encode(
            x=alt.X("step:O", title="pre-training step of the snapshot", sort=run.steps, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("share:Q", title="features (share)", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color(
                "level:N", title="leading tokens", scale=alt.Scale(domain=list(LEVELS), range=list(LEVELS.values()))
            ),
            order="order:Q",
            tooltip=["step:O", "level:N", "features:Q", alt.Tooltip("share:Q", format=".3f")],
        )
    )
    title = "What features are about"
    return finished(chart.properties(width=WIDTH, height=HEIGHT, title=title))


def formed(run: Run) -> Spec:
    """Share of features whose meaning, direction and progress have settled by each step."""
    table = run.table("formed").filter(~pl.col("pattern").is_in(["rare", "dead"]))
    names = {"meaning_step": "meaning", "direction_step": "direction", "progress_step": "progress of formation"}
    rows = []
    for column, name in names.items():
        known = table[column].drop_nulls()
        for step in run.steps:
            rows.append(
                {"step": step, "what": f"{name} ({len(known):,})", "share": (known <= step).sum() / max(len(known), 1)}
            )
    shown = list(dict.fromkeys(row["what"] for row in rows))
    chart = (
        alt.Chart(pl.DataFrame(rows))
        .mark_line(point=True, interpolate="step-after")
        .encode(
            x=step_axis(run.steps),
            y=alt.Y("share:Q", title="settled by then (share)", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color(
                "what:N", title="as at the last snapshot", scale=alt.Scale(domain=shown, range=[BLUE, ORANGE, GREEN])
            ),
            tooltip=["step:Q", "what:N", alt.Tooltip("share:Q", format=".3f")],
        )
    )
    title = alt.Title(
        "When features have formed",
        subtitle=f"meaning: codes correlate by {run.study.analysis.same_meaning:g} with the last one's; direction: "
        f"cosine of {SAME_DIRECTION:g}, or what retraining leaves; progress: {RISEN:.0%} of its rise",
    )
    return finished(chart.properties(width=WIDTH, height=HEIGHT, title=title))


def track(run: Run) -> Spec:
    """By which angle directions turn at each link of the series and of its controls, and how far beyond the null's."""
    middle = ((1 + pl.col("step_a")) * (1 + pl.col("step_b"))).sqrt() - 1
    table = run.table("track_drift").drop_nulls("angle").with_columns(step=middle)
    own = table.filter(pl.col("variant") == run.study.series.direction)
    null = table.filter(pl.col("variant") == "null").drop("step").join(own.select("link", "step"), on="link")
    shown = [name for name in CHAINS if name in table["variant"].to_list() and name != "order"]
    moving = table.filter(pl.col("variant").is_in(shown), pl.col("variant") != "null")
    colour = alt.Color(
        "variant:N",
        title="chain",
        scale=alt.Scale(domain=shown, range=[CHAINS[name] for name in shown]),
        legend=alt.Legend(symbolOpacity=1),
    )

    def curves(rows: pl.DataFrame, column: str, title: str, dash: list[int]) -> list[alt.Chart]:
        tooltip = ["variant:N", "step_a:Q", "step_b:Q", alt.Tooltip(f"{column}:Q", format=".2f"), "features:Q"]
        base = alt.Chart(rows).encode(x=step_axis(run.steps), color=colour, tooltip=tooltip)
        y = alt.Y(f"{column}:Q", title=title)
        band = base.mark_area(opacity=0.2).encode(y=alt.Y(f"{column}_ci_low:Q", title=title), y2=f"{column}_ci_high:Q")
        return [band, base.mark_line(point=True, strokeDash=dash).encode(y=y)]

    angles = curves(moving, "angle", "turning (degrees / link)", [1, 0])
    subtitle = "features active at both ends; bands: 95 % intervals over features"
    if len(null) == 0:
        title = alt.Title("How far directions turn from one SAE to the next", subtitle=subtitle)
        return finished(alt.layer(*angles).properties(width=WIDTH, height=HEIGHT, title=title))
    angles += curves(null, "angle", "turning (degrees / link)", [6, 4])
    zero = alt.Chart(pl.DataFrame({"y": [0]})).mark_rule(color=GREY).encode(y="y:Q")
    beyond = curves(moving.drop_nulls("beyond"), "beyond", "beyond the null (degrees / link)", [1, 0])
    title = alt.Title(
        "How far directions turn from one SAE to the next",
        subtitle=[f"{subtitle};", "null: the same chain, with as many tokens, on the last snapshot again and again"],
    )
    both = alt.vconcat(
        alt.layer(*angles).properties(width=WIDTH, height=HEIGHT),
        alt.layer(zero, *beyond).properties(width=WIDTH, height=HEIGHT // 2),
    )
    return finished(both.properties(title=title))


def umap(run: Run) -> Spec:
    """Activations at some features' examples among random ones, in one plane for all snapshots."""
    table = run.table("umap")
    named = table.drop_nulls("feature").with_columns(of="feature " + pl.col("feature").cast(pl.String))
    names = named["of"].unique(maintain_order=True).to_list()
    colours = [BLUE, ORANGE, GREEN, PINK, SKY, VERMILION][: len(names)]
    shapes = ["circle", "square", "triangle-up", "cross", "diamond", "triangle-down"][: len(names)]
    plain = alt.Axis(labels=False, ticks=False, grid=False)
    panels = []
    for step in table["step"].unique(maintain_order=True):
        random = alt.Chart(table.filter(pl.col("step") == step, pl.col("feature").is_null()))
        dots = random.mark_circle(size=8, color=GREY, opacity=0.5).encode(
            x=alt.X("x:Q", title=None, axis=plain), y=alt.Y("y:Q", title=None, axis=plain)
        )
        examples = alt.Chart(named.filter(pl.col("step") == step)).mark_point(size=22, filled=True, opacity=0.9)
        marks = examples.encode(
            x="x:Q",
            y="y:Q",
            color=alt.Color("of:N", title="at the examples of", scale=alt.Scale(domain=names, range=colours)),
            shape=alt.Shape("of:N", title="at the examples of", scale=alt.Scale(domain=names, range=shapes)),
            tooltip=["of:N", "token:N"],
        )
        panels.append((dots + marks).properties(width=WIDTH // 3, height=WIDTH // 3, title=f"step {step:,}"))
    grid = alt.concat(*panels, columns=3).resolve_scale(x="shared", y="shared")
    title = alt.Title(
        "Activations at features' examples, in one plane for all snapshots",
        subtitle="UMAP of centred activations by their cosine; grey: random tokens",
    )
    return finished(grid.properties(title=title))


def gaps(run: Run) -> Spec:
    """How far activations move between neighbouring snapshots, and how many features are carried over."""
    names = {"moved": "‖Δx‖ / ‖x‖", "cka_distance": "1 − CKA", "carried": "features carried over"}
    table = run.table("gaps").with_columns(step=((1 + pl.col("step_a")) * (1 + pl.col("step_b"))).sqrt() - 1)
    long = table.unpivot(list(names), index=["step", "step_a", "step_b"], variable_name="name", value_name="value")
    long = long.with_columns(measure=pl.col("name").replace_strict(names, return_dtype=pl.String))
    chart = (
        alt.Chart(long)
        .mark_line(point=True)
        .encode(
            x=step_axis(run.steps),
            y=alt.Y("value:Q", title="share"),
            color=alt.Color(
                "measure:N", title=None, scale=alt.Scale(domain=list(names.values()), range=[BLUE, ORANGE, GREEN])
            ),
            tooltip=["step_a:Q", "step_b:Q", "measure:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    title = alt.Title(
        "How far activations move between snapshots, and how many features are carried over",
        subtitle="carried over: codes of the same tokens correlate by .5 or more with the SAE's before",
    )
    return finished(chart.properties(width=WIDTH, height=HEIGHT // 2, title=title))
