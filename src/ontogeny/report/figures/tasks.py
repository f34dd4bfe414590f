"""What the models can do, and what features have to do with it."""

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ontogeny.features.labels import labels, token_texts
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
    scale_of,
    short,
    step_axis,
)
from ontogeny.run import Run

COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY, "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
SHOWN = 24
HALF_HEIGHT = 0.5 * 3**0.5


def names(run: Run) -> list[str]:
    """The study's tasks, in their order."""
    return run.table("tasks")["task"].unique(maintain_order=True).to_list()


def learned(run: Run) -> list[str]:
    """Tasks that are learned at the last snapshot at which any is, the one with the greatest margin first."""
    table = run.table("tasks").filter("learned")
    last = table.filter(pl.col("snapshot") == pl.col("snapshot").max()).sort("margin", descending=True)
    return last["task"].to_list()


def _of_task(tasks: list[str], *, drawn: list[str] | None = None) -> dict[str, Any]:
    """Colour and shape of a task, the same in every figure; a legend of those that are drawn, or of all."""
    legend = alt.Legend(labelLimit=220, values=alt.Undefined if drawn is None else drawn)
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(tasks))]
    shapes = [SHAPES[(place + place // len(COLOURS)) % len(SHAPES)] for place in range(len(tasks))]
    return {
        "color": alt.Color("task:N", title="task", scale=alt.Scale(domain=tasks, range=colours), legend=legend),
        "shape": alt.Shape("task:N", title="task", scale=alt.Scale(domain=tasks, range=shapes), legend=legend),
    }


def _lines(base: alt.Chart, y: alt.Y, tasks: list[str]) -> list[alt.Chart]:
    """A line a task; dashed where its colour is an earlier task's too."""
    kinds = ([1, 0], tasks[: len(COLOURS)]), ([5, 3], tasks[len(COLOURS) :])
    return [
        base.mark_line(strokeDash=dash)
        .encode(y=y, shape=alt.value("circle"))
        .transform_filter(alt.FieldOneOfPredicate("task", some))
        for dash, some in kinds
        if some
    ]


def accuracy(run: Run) -> Spec:
    """Accuracy on every task at every snapshot, with its interval, and chance; a panel a task."""
    table = run.table("tasks").with_columns(chance=pl.lit(0.5))
    base = alt.Chart(table).encode(x=step_axis(run.steps, labels=5))
    y, title = alt.Y("accuracy:Q", title="items right", scale=alt.Scale(domain=[0, 1])), "items right"
    band = base.mark_area(opacity=0.25, color=BLUE).encode(
        y=alt.Y("accuracy_ci_low:Q", title=title), y2="accuracy_ci_high:Q"
    )
    chance = base.mark_line(color=GREY, strokeDash=[6, 4]).encode(y="chance:Q")
    tooltip = ["task", "step", alt.Tooltip("accuracy", format=".3f"), alt.Tooltip("margin", format=".2f"), "items"]
    lines = base.mark_line(color=BLUE).encode(y=y)
    points = base.mark_point(filled=True, opacity=1, size=40).encode(
        y=y,
        color=alt.Color("learned:N", title="learned", sort=[True, False],
                        scale=alt.Scale(domain=[True, False], range=[BLUE, ORANGE])),
        shape=alt.Shape("learned:N", title="learned", sort=[True, False],
                        scale=alt.Scale(domain=[True, False], range=["circle", "diamond"])),
        tooltip=tooltip,
    )  # fmt: skip
    chart = alt.layer(band, chance, lines, points).properties(width=190, height=120)
    facet = alt.Facet("task:N", title=None, sort=names(run))
    heading = alt.Title(
        "What the model gets right", subtitle="bands: 95 % over templates and lexemes; dashed: chance", anchor="middle"
    )
    return finished(chart.facet(facet=facet, columns=3).properties(title=heading))


def effects(run: Run) -> Spec:
    """Effects of a task's leading features at every snapshot, a row a feature, ordered by birth."""
    tasks, table = learned(run) or names(run), run.effects
    leading = (
        table.group_by("task", "feature")
        .agg(pl.col("effect").abs().max().alias("size"))
        .sort("size", "feature", descending=[True, False])
        .group_by("task", maintain_order=True)
        .head(SHOWN)
    )
    born = run.features.select("feature", "birth_step", "peak_step")
    shown = leading.join(born, on="feature").sort("task", "birth_step", "peak_step", "feature")
    shown = shown.with_columns(row=pl.int_range(pl.len()).over("task"))
    chosen = shown["feature"].unique().to_list()
    heard = dict(labels(run, token_texts(run), chosen).iter_rows())
    named = {feature: f"{feature} {heard.get(feature, '')}" for feature in chosen}
    rows = table.join(shown, on=["task", "feature"]).filter(pl.col("task").is_in(tasks))
    rows = rows.with_columns(
        label=pl.col("feature").replace_strict(named, return_dtype=pl.String),
        at=pl.col("step").map_elements(short, return_dtype=pl.String),
    ).select("task", "label", "row", "at", "step", "birth_step", "effect", "ci_low", "ci_high")
    rows = rows.with_columns(pl.col("effect", "ci_low", "ci_high").round(4))
    choice = alt.param(name="task_shown", value=tasks[0], bind=alt.binding_select(options=tasks, name="task "))
    chart = (
        alt.Chart(rows)
        .mark_rect()
        .encode(
            x=alt.X("at:O", title="pre-training step", sort=[short(step) for step in run.steps],
                    axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("label:N", title="feature and what it fires on, by birth", sort=alt.SortField("row"),
                    axis=alt.Axis(labelLimit=260)),
            color=alt.Color("effect:Q", title="effect (logit)", scale=alt.Scale(scheme="blueorange", domainMid=0)),
            tooltip=["label", "step", "birth_step", "effect", "ci_low", "ci_high"],
        )
        .add_params(choice)
        .transform_filter("datum.task == task_shown")
    )  # fmt: skip
    title = alt.Title(
        alt.ExprRef("'What each feature does for ' + task_shown"),
        subtitle="logit(good) - logit(bad) lost without it; blank: not active on any item",
    )
    return finished(chart.properties(width=WIDTH, height=16 * SHOWN, title=title))


def relie(run: Run) -> Spec:
    """RelIE of three snapshots as points of a triangle, a feature each; of two as a strip where there are no three."""
    bands = run.table("bands").filter(pl.col("band") != "undetermined")
    sizes = pl.col("comparison").str.count_matches("/") + 1
    triple = bands.filter(sizes == 3)
    return _ternary(run, triple) if len(triple) else _strip(run, bands)


def _with_birth(run: Run, table: pl.DataFrame) -> pl.DataFrame:
    return table.join(run.features.select("feature", "birth_step"), on="feature")


def _choice(keys: list[str]) -> alt.Parameter:
    return alt.param(name="compared", value=keys[0], bind=alt.binding_select(options=keys, name="task and steps "))


def _keyed(run: Run, table: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """With `key`, the task and what is compared; keys of learned tasks first, then those with the most features."""
    table = table.with_columns(key=pl.col("task") + ", steps " + pl.col("comparison").str.replace_all("/", ", "))
    counted = table.group_by("task", "key").len().sort("len", "key", descending=[True, False]).to_dicts()
    first = learned(run)
    return table, [row["key"] for row in sorted(counted, key=lambda row: row["task"] not in first)]


def _ternary(run: Run, bands: pl.DataFrame) -> Spec:
    bands, keys = _keyed(run, _with_birth(run, bands))
    share = run.table("relie").sort("step").group_by("task", "comparison", "feature").agg("relie")
    table = bands.join(share, on=["task", "comparison", "feature"]).filter(pl.col("relie").list.len() == 3)
    first, second, third = (pl.col("relie").list.get(place) for place in range(3))
    table = table.with_columns(
        x=second * 0.5 + third,
        y=second * HALF_HEIGHT,
        first=first.round(3),
        second=second.round(3),
        third=third.round(3),
    ).drop("relie")
    corners = [(0.0, 0.0), (0.5, HALF_HEIGHT), (1.0, 0.0)]
    named = pl.DataFrame(
        [
            {"key": key, "x": x, "y": y + (0.05 if place == 1 else -0.05), "text": f"step {step}"}
            for key in keys
            for place, (step, (x, y)) in enumerate(zip(key.rsplit("steps ", 1)[1].split(", "), corners, strict=True))
        ]
    )
    lines = [(corners[a], corners[b]) for a, b in ((0, 1), (1, 2), (0, 2))]
    for level in (0.3, 0.7):  # where the bands part
        for place in range(3):
            others = [corner for number, corner in enumerate(corners) if number != place]
            (p, q), (r, t) = (
                tuple(level * own + (1 - level) * far for own, far in zip(corners[place], other, strict=True))
                for other in others
            )
            lines.append(((p, q), (r, t)))
    frame = pl.DataFrame(
        [{"x": a[0], "y": a[1], "x2": b[0], "y2": b[1], "border": number < 3} for number, (a, b) in enumerate(lines)]
    )
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.1, 1.1]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.12, 0.98]))
    grid = (
        alt.Chart(frame)
        .mark_rule()
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q",
                color=alt.condition("datum.border", alt.value("#333"), alt.value("#ccc")))
    )  # fmt: skip
    shown = "datum.key == compared"
    words = alt.Chart(named).mark_text(fontWeight="bold").encode(x=x, y=y, text="text:N").transform_filter(shown)
    points = (
        alt.Chart(table)
        .mark_point(filled=True, opacity=0.75)
        .encode(
            x=x,
            y=y,
            color=alt.Color("probability:Q", title="probability of its band",
                            scale=alt.Scale(scheme="viridis", domain=[0, 1])),
            size=alt.Size("total_effect:Q", title="Σ |effect| (logit)", scale=alt.Scale(range=[20, 500])),
            tooltip=["feature", "band", alt.Tooltip("probability", format=".2f"), "first", "second", "third",
                     alt.Tooltip("total_effect", format=".3f"), "birth_step"],
        )
        .transform_filter(shown)
    )  # fmt: skip
    title = alt.Title(
        alt.ExprRef("'RelIE: ' + compared"),
        subtitle="which of three snapshots a feature matters to: a corner, to that one alone; lines part the bands",
    )
    chart = alt.layer(grid, words, points).add_params(_choice(keys))
    return finished(chart.properties(width=520, height=460, title=title))


def _strip(run: Run, bands: pl.DataFrame) -> Spec:
    share = run.table("relie").filter(pl.col("comparison").str.count_matches("/") == 1)
    table, keys = _keyed(run, _with_birth(run, bands.join(share, on=["task", "comparison", "feature"])))
    base = alt.Chart(table).transform_filter("datum.key == compared")
    x = alt.X("relie:Q", title="RelIE: share of the later snapshot", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("total_effect:Q", title="Σ |effect| (logit)", scale=scale_of(table, type="log"))
    rules = base.mark_rule(color=GREY, opacity=0.5).encode(x="relie_ci_low:Q", x2="relie_ci_high:Q", y=y)
    points = base.mark_point(filled=True, opacity=0.9).encode(
        x=x, y=y, color=alt.Color("band:N", title="band", scale=alt.Scale(range=list(COLOURS))),
        tooltip=["feature", "band", alt.Tooltip("probability", format=".2f"), "birth_step"],
    )  # fmt: skip
    title = alt.Title(
        alt.ExprRef("'RelIE: ' + compared"),
        subtitle="which of two snapshots a feature matters to; bars: 95 % over the items",
    )
    choice = _choice(keys or ["no feature is determined"])
    return finished(alt.layer(rules, points).add_params(choice).properties(width=WIDTH, height=HEIGHT, title=title))


def ablation(run: Run) -> Spec:
    """Margin without leading features, and with them alone, beside controls, at the last snapshot of learned tasks."""
    tasks = learned(run)
    table = run.table("ablation").filter(pl.col("task").is_in(tasks))
    table = table.filter(pl.col("snapshot") == pl.col("snapshot").max().over("task"))
    clean = table.filter(condition="clean").select("task", clean="margin")
    order = ["leading", "matched", "random"]
    curves = table.filter(pl.col("condition").is_in(order)).join(clean, on="task")
    curves = curves.with_columns(
        way=pl.col("way").replace({"removed": "k features removed", "kept": "all others removed"})
    )
    base = alt.Chart(curves).encode(x=alt.X("k:Q", title="features (k)", scale=alt.Scale(type="log")))
    y = alt.Y("margin:Q", title="mean margin (logit)")
    legend = alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2)
    colour = alt.Color("condition:N", title="k features", sort=order, legend=legend,
                       scale=alt.Scale(domain=order, range=[BLUE, ORANGE, GREY]))  # fmt: skip
    ways = ["k features removed", "all others removed"]
    dash = alt.StrokeDash("way:N", title="ablation", sort=ways, scale=alt.Scale(domain=ways, range=[[1, 0], [5, 4]]))
    band = base.mark_area(opacity=0.12).encode(
        y=alt.Y("margin_ci_low:Q", title="mean margin (logit)"), y2="margin_ci_high:Q", color=colour, detail="way:N"
    )
    tooltip = ["task", "step", "condition", "way", "k", alt.Tooltip("margin", format=".2f"),
               alt.Tooltip("accuracy", format=".2f")]  # fmt: skip
    lines = base.mark_line().encode(y=y, color=colour, strokeDash=dash)
    points = base.mark_point(filled=True, opacity=1).encode(y=y, color=colour, detail="way:N", tooltip=tooltip)
    rule = alt.Chart(curves).mark_rule(strokeDash=[2, 3]).encode(y="max(clean):Q")
    half = (
        alt.Chart(curves)
        .mark_rule(strokeDash=[2, 3], color=GREY)
        .encode(y="half:Q")
        .transform_calculate(half="datum.clean / 2")
    )
    title = alt.Title(
        "Without its leading features, or with them alone",
        subtitle="ranked on half of the items, tried on the other; dotted: the model as it is, and half of its margin",
    )
    chart = alt.layer(band, rule, half, lines, points).properties(width=270, height=190)
    faceted = chart.facet(facet=alt.Facet("task:N", title=None, sort=tasks), columns=2)
    return finished(faceted.resolve_scale(y="independent").properties(title=title))


def elsewhere(run: Run) -> Spec:
    """What each task loses without the leading features of the others, at the last snapshot where all are learned."""
    table = run.table("ablation").filter(pl.col("condition").is_in(["other task", "leading"]), way="removed")
    other = table.filter(condition="other task")
    table = table.filter(snapshot=other["snapshot"].max(), k=other["k"].max())
    clean = run.table("ablation").filter(condition="clean").select("task", "snapshot", clean="margin")
    table = table.join(clean, on=["task", "snapshot"]).with_columns(
        pl.col("ranked_on").fill_null(pl.col("task")), lost=(1 - pl.col("margin") / pl.col("clean")).clip(-1, 1)
    )
    tasks = [name for name in names(run) if name in set(table["task"])]
    base = alt.Chart(table).encode(
        x=alt.X("task:N", title="tried on", sort=tasks, axis=alt.Axis(labelAngle=-40, labelLimit=200)),
        y=alt.Y("ranked_on:N", title="leading features of", sort=tasks, axis=alt.Axis(labelLimit=220, titlePadding=14)),
        tooltip=["task", "ranked_on", "step", "k",
                 *(alt.Tooltip(name, format=".2f") for name in ("margin", "clean", "accuracy"))],
    )  # fmt: skip
    scale = alt.Scale(scheme="blueorange", domain=[-1, 1], reverse=True)
    cells = base.mark_rect().encode(
        color=alt.Color("lost:Q", title="margin lost", scale=scale, legend=alt.Legend(format="%"))
    )
    ink = alt.condition("abs(datum.lost) > .6", alt.value("white"), alt.value("black"))
    text = base.mark_text(fontSize=11).encode(text=alt.Text("lost:Q", format=".0%"), color=ink)
    title = alt.Title(
        "Does a task have features of its own?",
        subtitle=f"margin lost without {table['k'].max()} leading features at step {table['step'].max():,}, "
        "on items that none was ranked by",
    )
    width, height = (max(200, per * len(tasks)) for per in (46, 28))
    return finished((cells + text).properties(width=width, height=height, title=title))


def half_margin(run: Run) -> Spec:
    """How many leading features half of the margin depends on, at each snapshot."""
    table = run.table("half_margin").drop_nulls("features")
    tasks = names(run)
    drawn = [name for name in tasks if name in set(table["task"])]
    base = alt.Chart(table).encode(x=step_axis(run.steps), **_of_task(tasks, drawn=drawn))
    y = alt.Y("features:Q", title="features", scale=scale_of(table, type="log"))
    points = base.mark_point(filled=True, opacity=1, size=45).encode(
        y=y, tooltip=["task", "step", "features", "active"]
    )
    title = alt.Title(
        "How few features half of a task's margin depends on",
        subtitle="where the task is learned and some number of them does it; others are left out",
    )
    return finished(alt.layer(*_lines(base, y, tasks), points).properties(width=WIDTH, height=HEIGHT, title=title))


def prediction(run: Run) -> Spec:
    """Predicted against exact mean effects, of features of all sizes of effect."""
    table = run.table("exact").filter(pl.col("snapshot") == pl.col("snapshot").max())
    bound = float(table.select(pl.max_horizontal(pl.col("predicted").abs().max(), pl.col("exact").abs().max())).item())
    scale = alt.Scale(type="symlog", constant=max(bound / 1000, 1e-9), domain=[-bound, bound])
    axis = alt.Axis(
        values=[float(v) for v in np.outer([-1, 1], bound * np.asarray([1, 0.1, 0.01])).ravel()], format=".2g"
    )
    points = (
        alt.Chart(table)
        .mark_point(filled=True, opacity=0.7)
        .encode(
            x=alt.X("predicted:Q", title="predicted effect (logit)", scale=scale, axis=axis),
            y=alt.Y("exact:Q", title="exact effect (logit)", scale=scale, axis=axis),
            tooltip=["task", "feature", alt.Tooltip("predicted", format=".4f"), alt.Tooltip("exact", format=".4f")],
            **_of_task(names(run)),
        )
    )
    diagonal = (
        alt.Chart(pl.DataFrame({"a": [-bound, bound]}))
        .mark_line(color=GREY, strokeDash=[4, 4])
        .encode(x="a:Q", y="a:Q")
    )
    title = alt.Title(
        "Are effects what they are predicted to be?",
        subtitle=f"each feature's code replaced at step {run.steps[-1]:,}; dashed: as predicted",
    )
    return finished(alt.layer(diagonal, points).properties(width=420, height=420, title=title))


def turnover(run: Run) -> Spec:
    """How many of a task's leading features are the leading ones of the last snapshot too."""
    last = run.steps[-1]
    table = run.table("overlap").filter(pl.col("kind") == "snapshots", pl.col("other_step") == last)
    base = alt.Chart(table).encode(x=step_axis(run.steps), **_of_task(names(run)))
    y = alt.Y("overlap:Q", title="share of both sets in both (Jaccard)", scale=alt.Scale(domain=[0, 1]))
    points = base.mark_point(filled=True, opacity=1, size=45).encode(
        y=y, tooltip=["task", "step", alt.Tooltip("overlap", format=".2f"), alt.Tooltip("expected", format=".3f")]
    )
    chance = base.mark_line(strokeDash=[2, 3], opacity=0.6).encode(y="expected:Q", shape=alt.value("circle"))
    k = int(table["k"][0])
    title = alt.Title(
        f"When do the {k} leading features become those of step {last:,}?", subtitle="dotted: sets drawn at random"
    )
    return finished(
        alt.layer(chance, *_lines(base, y, names(run)), points).properties(width=WIDTH, height=HEIGHT, title=title)
    )
