"""When features are born, how strong they are, what became of them."""

import base64
import io

import altair as alt
import numpy as np
import polars as pl

from ontogeny.analyses.lineage import LABELS
from ontogeny.report.figures.axes import (
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    SKY,
    VERMILION,
    VIRIDIS,
    WIDTH,
    Spec,
    finished,
    interval_labels,
    scale_of,
    step_axis,
)
from ontogeny.run import Run

FATES = {"persistent": BLUE, "transient": ORANGE, "censored": GREY}


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
    chart = bars if "emergence" not in run.study.analyses else alt.layer(bars, _birth_spread(run))
    chart = chart.properties(width=WIDTH, height=HEIGHT, title=title)
    return finished(chart if run.study.truth is None else alt.vconcat(chart, _expected_recovery(run)))


def _birth_spread(run: Run) -> alt.Chart:
    """95 % intervals of the births in each interval."""
    totals = run.analysis("emergence").filter(
        pl.col("alive_threshold") == run.study.measure.alive_threshold, pl.col("snapshot") > 0
    )
    totals = totals.with_columns(interval=pl.Series(interval_labels(run.steps)))
    return (
        alt.Chart(totals)
        .mark_rule(strokeWidth=1.5)
        .encode(
            x=alt.X("interval:O", sort=None),
            y=alt.Y("births_ci_low:Q"),
            y2="births_ci_high:Q",
            tooltip=["interval", "births", "births_ci_low", "births_ci_high"],
        )
    )


def _expected_recovery(run: Run) -> alt.LayerChart | alt.FacetChart:
    """How much of what is born in each interval would be found: plants in the study's likeness."""
    table = run.table("recovery").filter(pl.col("birth_step").is_not_null(), pl.col("frequency_part").is_null())
    initial = table.filter(pl.col("birth_step") == run.steps[0])
    labels = interval_labels(run.steps)
    born = table.filter(pl.col("birth_step") != run.steps[0]).with_columns(
        interval=pl.col("birth_step").replace_strict(
            dict(zip(run.steps[1:], labels, strict=True)), return_dtype=pl.String
        )
    )
    x = alt.X("interval:O", title="planted birth, in (previous snapshot, snapshot], steps", sort=labels,
              scale=alt.Scale(domain=labels), axis=alt.Axis(labelAngle=-45))  # fmt: skip
    tooltip = ["interval", "features", "recovered", "recovered_ci_low", "recovered_ci_high", "births_exact"]
    y = alt.Y("recovered:Q", title="recovered (share)", scale=alt.Scale(domain=[0, 1]))
    bars = alt.Chart(born).mark_bar(color=GREEN).encode(x=x, y=y, tooltip=tooltip)
    spread = alt.Chart(born).mark_rule(strokeWidth=1.5).encode(x=x, y="recovered_ci_low:Q", y2="recovered_ci_high:Q")
    of_initial = "".join(f"; of those there at step {run.steps[0]:,} {share:.0%}" for share in initial["recovered"])
    title = alt.Title(
        "How much of what is born there would be found",
        subtitle=f"{table['features'].sum():,} plants in the study's likeness{of_initial}. Lines: 95 % intervals",
    )
    return alt.layer(bars, spread).properties(width=WIDTH, height=HEIGHT // 2, title=title)


def kin(run: Run) -> Spec:
    """Emergent features born in each interval, by what they are to the nearest feature that was there before."""
    labels = dict(zip(LABELS, (GREEN, SKY, VERMILION, ORANGE), strict=True))
    colour = alt.Color(
        "kind:N",
        title="nearest earlier feature",
        scale=alt.Scale(domain=list(labels), range=list(labels.values())),
    )
    lineage = run.analysis("lineage")
    bars = _birth_bars(run, lineage.select("birth_step", kind="label"), colour)
    title = alt.Title(
        "Where emergent features come from",
        subtitle=f"novel: no earlier feature of kinship {run.study.analysis.kin_threshold:g}; split: it lives on; "
        "handover: it fades or turns into it; absorption: it loses tokens",
    )
    return finished(bars.properties(width=WIDTH, height=HEIGHT, title=title))


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
            y=alt.Y("sum(features):Q", title="features born", axis=alt.Axis(tickMinStep=1), scale=scale_of(counted)),
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
    return finished(chart.properties(width=WIDTH, height=HEIGHT, title=title))


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
    return finished(alt.layer(picture, axes).properties(width=width, height=height, title=title))


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
    return finished(chart.properties(width=250, height=150, title=f"Feature {feature} through training"))


def dimensions(run: Run) -> Spec:
    """The share of the dimensions that living features fill, beside random directions with the same norms."""
    names = {"total": "the features alive there", "random": "random, with their norms"}
    table = run.table("dimensions").filter(pl.col("alive_threshold") == run.study.measure.alive_threshold)
    long = table.unpivot(list(names), index=["step", "features"], variable_name="name", value_name="share")
    long = long.with_columns(directions=pl.col("name").replace_strict(names))
    x = step_axis(run.steps)
    band = alt.Chart(table).mark_area(color=GREY, opacity=0.3).encode(
        x=x, y=alt.Y("random_low:Q", title="share of d_model in use"), y2="random_high:Q"
    )  # fmt: skip
    scale = alt.Scale(domain=list(names.values()), range=[BLUE, GREY])
    lines = (
        alt.Chart(long)
        .mark_line(point=True)
        .encode(
            x=x,
            y=alt.Y("share:Q", title="share of d_model in use", scale=alt.Scale(domainMin=0)),
            color=alt.Color("directions:N", title=None, scale=scale),
            tooltip=["step", "directions", alt.Tooltip("share", format=".3f"), "features"],
        )
    )
    title = "How many of the dimensions features have to themselves, all together"
    return finished(alt.layer(band, lines).properties(width=WIDTH, height=HEIGHT, title=title))
