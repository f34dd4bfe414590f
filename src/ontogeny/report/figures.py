"""Figures as Vega-Lite specifications, made from a run's tables. One function a figure.

Steps are drawn on a symlog axis, log(1 + step), which the page can switch to a linear one. Colours are from the
palette of Okabe and Ito and from viridis, which hold for colour-blind readers.
"""

import base64
import io
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ontogeny.analyses.lineage import LABELS
from ontogeny.run import Run

Spec = dict[str, Any]
WIDTH, HEIGHT = 620, 300
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#767676",
)  # fmt: skip
# viridis at nine even places (Smith and van der Walt 2015, CC0)
VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
THOUSANDS = "datum.value < 1000 ? datum.value : datum.value / 1000 + 'k'"
FATES = {"persistent": BLUE, "transient": ORANGE, "censored": GREY}


def step_axis(steps: list[int], *, title: str = "pre-training step", labels: int = 10) -> alt.X:
    """The x axis of snapshots: log(1 + step), ticks at some of the steps."""
    chosen = spread_out(steps, labels)
    return alt.X(
        "step:Q",
        title=title,
        scale=alt.Scale(type="symlog", constant=1, domain=[steps[0], steps[-1]], nice=False),
        axis=alt.Axis(values=chosen, labelExpr=THOUSANDS, grid=False, labelOverlap=True),
    )


def spread_out(steps: list[int], count: int) -> list[int]:
    """At most `count` of the steps, spread evenly over log(1 + step), the first and last among them."""
    if len(steps) <= count:
        return steps
    logs = np.log1p(np.asarray(steps, dtype=float))
    targets = np.linspace(logs[0], logs[-1], count)
    return sorted({steps[int(np.abs(logs - target).argmin())] for target in targets})


def _finish(chart: alt.TopLevelMixin) -> Spec:
    return chart.to_dict()


def loss(run: Run) -> Spec:
    """Held-out loss of every snapshot, between the n-gram bounds."""
    table = run.analysis("phases")
    bounds = pl.DataFrame(
        {
            "bound": ["unigram", "bigram (Kneser-Ney)"],
            "value": [table["unigram"][0], table["bigram"][0]],
        }
    )
    x = step_axis(run.steps)
    band = alt.Chart(table).mark_area(opacity=0.25, color=BLUE).encode(x=x, y="loss_ci_low:Q", y2="loss_ci_high:Q")
    line = (
        alt.Chart(table.with_columns(curve=pl.lit("language model")))
        .mark_line(point=True)
        .encode(
            x=x,
            y=alt.Y("loss:Q", title="held-out cross-entropy (nat / token)", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "curve:N",
                title=None,
                scale=alt.Scale(
                    domain=["language model", "unigram", "bigram (Kneser-Ney)"], range=[BLUE, ORANGE, GREEN]
                ),
                legend=alt.Legend(orient="top-right"),
            ),
            tooltip=["step", alt.Tooltip("loss", format=".3f")],
        )
    )
    rules = (
        alt.Chart(bounds)
        .mark_rule(strokeDash=[6, 4], strokeWidth=2)
        .encode(y="value:Q", color="bound:N", tooltip=["bound", alt.Tooltip("value", format=".3f")])
    )
    title = "The model's loss, and what n-gram models of the same text reach"
    return _finish(alt.layer(band, rules, line).properties(width=WIDTH, height=HEIGHT, title=title))


def divergences(run: Run) -> Spec:
    """Divergence between the next-token distributions of the model and of the n-gram models."""
    names = {
        "kl_model_unigram": ("unigram", "KL(model ‖ n-gram)"),
        "kl_unigram_model": ("unigram", "KL(n-gram ‖ model)"),
        "kl_model_bigram": ("bigram", "KL(model ‖ n-gram)"),
        "kl_bigram_model": ("bigram", "KL(n-gram ‖ model)"),
    }
    table = run.analysis("phases").unpivot(list(names), index="step", variable_name="name", value_name="kl")
    table = table.with_columns(
        model=pl.col("name").replace_strict({name: pair[0] for name, pair in names.items()}),
        direction=pl.col("name").replace_strict({name: pair[1] for name, pair in names.items()}),
    )
    base = alt.Chart(table).encode(
        x=step_axis(run.steps),
        y=alt.Y("kl:Q", title="mean divergence (nat)", scale=alt.Scale(type="log")),
        color=alt.Color(
            "model:N", title="n-gram model", scale=alt.Scale(domain=["unigram", "bigram"], range=[ORANGE, GREEN])
        ),
        tooltip=["step", "model", "direction", alt.Tooltip("kl", format=".3f")],
    )
    lines = base.mark_line().encode(strokeDash=alt.StrokeDash("direction:N", title="direction"))
    chart = alt.layer(lines, base.mark_point(filled=True, opacity=1))
    title = "How far the model's predictions are from the n-gram models'"
    return _finish(chart.properties(width=WIDTH, height=HEIGHT, title=title))


def quality(run: Run) -> Spec:
    """Explained variance per snapshot, beside PCA and beside SAEs of single snapshots."""
    names = {"explained_variance": "this dictionary", "pca_explained_variance": "PCA, as many components"}
    table = run.table("quality").unpivot(list(names), index="step", variable_name="name", value_name="ev")
    if "single_saes" in run.study.analyses:
        names["sae_explained_variance"] = "SAE of that snapshot"
        saes = run.analysis("single_saes")
        table = pl.concat(
            [table, saes.unpivot(["sae_explained_variance"], index="step", variable_name="name", value_name="ev")]
        )
    table = table.with_columns(measure=pl.col("name").replace_strict(names))
    base = alt.Chart(table).encode(
        x=step_axis(run.steps),
        y=alt.Y("ev:Q", title="explained variance (share)", scale=alt.Scale(zero=False, nice=True)),
        color=alt.Color(
            "measure:N",
            title=None,
            scale=alt.Scale(domain=list(names.values()), range=[BLUE, ORANGE, VERMILION][: len(names)]),
        ),
        tooltip=["step", "measure", alt.Tooltip("ev", format=".4f")],
    )
    lines = base.transform_filter(alt.datum.name != "sae_explained_variance").mark_line(point=True)
    singles = base.transform_filter(alt.datum.name == "sae_explained_variance").mark_point(
        shape="diamond", size=90, filled=True, opacity=1
    )
    title = "How much of each snapshot's activations the dictionary explains (held-out tokens)"
    return _finish(alt.layer(lines, singles).properties(width=WIDTH, height=HEIGHT, title=title))


def splices(run: Run) -> Spec:
    """What each snapshot's loss becomes when it goes on from the reconstruction, or from the mean activation."""
    names = {
        "ce_mean_ablated": "from the mean activation",
        "ce_spliced": "from the reconstruction",
        "ce_clean": "the model as it is",
    }
    table = run.table("quality").unpivot(list(names), index="step", variable_name="name", value_name="ce")
    table = table.with_columns(going_on=pl.col("name").replace_strict(names))
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=step_axis(run.steps),
            y=alt.Y("ce:Q", title="held-out cross-entropy (nat / token)", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "going_on:N", title="goes on", scale=alt.Scale(domain=list(names.values()), range=[GREY, ORANGE, BLUE])
            ),
            tooltip=["step", "going_on", alt.Tooltip("ce", format=".3f")],
        )
    )
    title = "What is lost when the model goes on from the dictionary's reconstruction"
    return _finish(chart.properties(width=WIDTH, height=HEIGHT, title=title))


def births(run: Run) -> Spec:
    """Emergent features born in each interval between snapshots, by fate; the initial ones are counted in the title."""
    living = run.features.filter(~pl.col("dead"))
    emergent = living.filter(pl.col("origin") == "emergent")
    colour = alt.Color("kind:N", title="fate", scale=alt.Scale(domain=list(FATES), range=list(FATES.values())))
    title = alt.Title(
        "When emergent features are born",
        subtitle=f"{len(emergent):,} of {len(living):,} living features; the other {len(living) - len(emergent):,} are "
        f"there at step {run.steps[0]:,}"
        + (". Lines: 95 % intervals of the totals" if "emergence" in run.study.analyses else ""),
    )
    bars = _birth_bars(run, emergent.select("birth_step", kind="fate"), colour)
    if "emergence" not in run.study.analyses:
        return _finish(bars.properties(width=WIDTH, height=HEIGHT, title=title))
    totals = run.analysis("emergence").filter(
        pl.col("alive_threshold") == run.study.measure.alive_threshold, pl.col("snapshot") > 0
    )
    totals = totals.with_columns(interval=pl.Series(interval_labels(run.steps)))
    spread = (
        alt.Chart(totals)
        .mark_rule(strokeWidth=1.5)
        .encode(
            x=alt.X("interval:O", sort=None),
            y=alt.Y("births_ci_low:Q"),
            y2="births_ci_high:Q",
            tooltip=["interval", "births", "births_ci_low", "births_ci_high"],
        )
    )
    return _finish(alt.layer(bars, spread).properties(width=WIDTH, height=HEIGHT, title=title))


def kin(run: Run) -> Spec:
    """Emergent features born in each interval, by what they are to the nearest feature that was there before."""
    labels = dict(zip(LABELS, (GREEN, SKY, VERMILION, ORANGE), strict=True))
    colour = alt.Color(
        "kind:N",
        title="to the nearest earlier feature",
        scale=alt.Scale(domain=list(labels), range=list(labels.values())),
    )
    lineage = run.analysis("lineage")
    bars = _birth_bars(run, lineage.select("birth_step", kind="label"), colour)
    title = alt.Title(
        "Where emergent features come from",
        subtitle=f"novel: no earlier feature of kinship {run.study.analysis.kin_threshold:g}; split: it lives on; "
        "handover: it fades; absorption: it loses tokens",
    )
    return _finish(bars.properties(width=WIDTH, height=HEIGHT, title=title))


def _birth_bars(run: Run, table: pl.DataFrame, colour: alt.Color) -> alt.Chart:
    """Stacked bars of features by interval of birth and `kind`."""
    labels = interval_labels(run.steps)
    names = dict(zip(run.steps[1:], labels, strict=True))
    counted = table.group_by("birth_step", "kind").agg(features=pl.len())
    counted = counted.with_columns(interval=pl.col("birth_step").replace_strict(names, return_dtype=pl.String))
    return (
        alt.Chart(counted)
        .mark_bar()
        .encode(
            x=alt.X("interval:O", title="born in (previous snapshot, snapshot], steps", sort=labels,
                    scale=alt.Scale(domain=labels), axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("sum(features):Q", title="features born", axis=alt.Axis(tickMinStep=1)),
            color=colour,
            tooltip=["interval", "kind", "features"],
        )
    )  # fmt: skip


def thresholds(run: Run) -> Spec:
    """Share of the features born by each step, at several thresholds of being alive."""
    table = run.analysis("emergence").with_columns(threshold=pl.col("alive_threshold").cast(pl.String))
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=step_axis(run.steps),
            y=alt.Y("born_share:Q", title="born so far (share of living features)", scale=alt.Scale(zero=False)),
            color=alt.Color("threshold:O", title="alive from this share", scale=alt.Scale(scheme="viridis")),
            tooltip=["step", "threshold", alt.Tooltip("born_share", format=".4f"), "births"],
        )
    )
    title = "How the count of births depends on the threshold of being alive"
    return _finish(chart.properties(width=WIDTH, height=HEIGHT, title=title))


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
    return _finish(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def recovered(run: Run) -> Spec:
    """How much of plants born at each snapshot is found, with what is planted in the study's likeness."""
    labels = ["initial", *interval_labels(run.steps)]
    table = run.table("recovery").filter(pl.col("birth_step").is_not_null(), pl.col("frequency_part").is_null())
    names = dict(zip(run.steps, labels, strict=True))
    table = table.with_columns(interval=pl.col("birth_step").replace_strict(names, return_dtype=pl.String))
    x = alt.X(
        "interval:O",
        title="planted birth, in (previous snapshot, snapshot], steps",
        sort=labels,
        scale=alt.Scale(domain=labels),
        axis=alt.Axis(labelAngle=-45),
    )
    tooltip = ["interval", "features", "recovered", "recovered_ci_low", "recovered_ci_high", "births_exact"]
    y = alt.Y("recovered:Q", title="recovered, share", scale=alt.Scale(domain=[0, 1]))
    bars = alt.Chart(table).mark_bar(color=GREEN).encode(x=x, y=y, tooltip=tooltip)
    spread = alt.Chart(table).mark_rule(strokeWidth=1.5).encode(x=x, y="recovered_ci_low:Q", y2="recovered_ci_high:Q")
    title = alt.Title(
        "How much of what is born there would be found",
        subtitle=f"{table['features'].sum():,} planted features with the study's directions, births and frequencies. "
        "Lines: 95 % intervals",
    )
    return _finish(alt.layer(bars, spread).properties(width=WIDTH, height=HEIGHT * 2 // 3, title=title))


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
    return _finish(chart.properties(width=WIDTH, height=HEIGHT * 2 // 3, title=title))


def interval_labels(steps: list[int]) -> list[str]:
    """One label for each interval between neighbouring snapshots."""
    return [f"({short(a)}, {short(b)}]" for a, b in pairwise(steps)]


def short(step: int) -> str:
    """1000 as 1k."""
    return f"{step / 1000:g}k" if step >= 1000 else str(step)


def strengths(run: Run) -> Spec:
    """Relative strength of every living feature at every snapshot, features in order of birth, as an image."""
    features = run.features.filter(~pl.col("dead")).sort("birth_step", "peak_step", "feature")["feature"].to_numpy()
    steps = run.steps
    relative = run.matrix("strength_relative")
    width, height = WIDTH, 420
    image = alt.Chart(pl.DataFrame({"url": [_viridis_png(relative[:, features].T, width=width, height=height)]}))
    picture = image.mark_image(width=width, height=height).encode(
        x=alt.value(width / 2), y=alt.value(height / 2), url="url:N"
    )
    axes = (
        alt.Chart(pl.DataFrame({"step": steps, "feature": np.linspace(0, len(features), len(steps)), "strength": 0.0}))
        .mark_point(opacity=0)
        .encode(
            x=alt.X("step:O", title="pre-training step of the snapshot", sort=steps,
                    scale=alt.Scale(type="band", padding=0), axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("feature:Q", title="living features, ordered by birth",
                    scale=alt.Scale(domain=[len(features), 0], nice=False)),
            color=alt.Color("strength:Q", title="strength / greatest",
                            scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=alt.Legend(gradientLength=160)),
        )
    )  # fmt: skip
    title = f"Strength of {len(features):,} features over pre-training"
    return _finish(alt.layer(picture, axes).properties(width=width, height=height, title=title))


def _viridis_png(values: np.ndarray, *, width: int, height: int) -> str:
    """Values in 0..1 [row, column] as a PNG data address, a block of pixels for each."""
    from PIL import Image

    positions = np.linspace(0, 1, len(VIRIDIS))
    colours = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in VIRIDIS], dtype=float)
    pixels = np.stack([np.interp(values, positions, colours[:, channel]) for channel in range(3)], axis=-1)
    image = Image.fromarray(pixels.round().astype(np.uint8), "RGB")
    image = image.resize(
        (width * 2, height * 2), Image.Resampling.BOX if len(values) > height * 2 else Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


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
    return _finish(chart.properties(width=side, height=side, title=title))


def trajectory(run: Run, feature: int, trajectories: pl.DataFrame) -> Spec:
    """Strength of one feature, and the mean of each snapshot's own part of its code."""
    names = {"strength": "strength (decoder norm)", "own_part": "own part of the code"}
    table = trajectories.filter(pl.col("feature") == feature).select("step", *names)
    table = table.with_columns(pl.col(name) / pl.col(name).abs().max() for name in names)
    table = table.unpivot(list(names), index="step", variable_name="name", value_name="value").drop_nulls()
    table = table.with_columns(measure=pl.col("name").replace_strict(names), value=pl.col("value").round(4))
    chart = (
        alt.Chart(table.drop("name"))
        .mark_line(point=True)
        .encode(
            x=step_axis(run.steps, labels=6),
            y=alt.Y("value:Q", title="share of greatest"),
            color=alt.Color(
                "measure:N",
                title=None,
                scale=alt.Scale(domain=list(names.values()), range=[BLUE, ORANGE]),
                legend=alt.Legend(orient="bottom", columns=1, labelLimit=240),
            ),
            tooltip=["step", "measure", alt.Tooltip("value", format=".3f")],
        )
    )
    return _finish(chart.properties(width=250, height=150, title=f"Feature {feature} through training"))
