"""What features are about: kinds by rule, how complex they are, in how many senses tokens are used, how far strength
says what a snapshot knows."""

import altair as alt
import polars as pl

from ontogeny.analyses.proxy import pairs
from ontogeny.report.figures.axes import (
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    VERMILION,
    WIDTH,
    Spec,
    finished,
    interval_labels,
    step_axis,
)
from ontogeny.run import Run

MEASURES = {
    "score": "score by a language model (1 to 5)",
    "words": "words in effect (leading tokens)",
    "context_dependence": "left open by the token (share)",
    "span": "active in a row (tokens)",
}
"""Measures of complexity, columns of the table `complexity`."""


def kinds(run: Run) -> Spec:
    """Births of features of each kind, as shares of the kind."""
    colours = {
        "induction": VERMILION, "previous_token": ORANGE, "context_sensitive": GREEN, "token": BLUE, "other": GREY
    }  # fmt: skip
    table = run.table("kind_births").filter(pl.col("of_kind") > 0)
    counts = dict(table.select("kind", "of_kind").unique().iter_rows())
    names = {kind: f"{kind.replace('_', ' ')} ({counts[kind]:,})" for kind in colours if kind in counts}
    table = table.with_columns(
        share=pl.col("features").cum_sum().over("kind", order_by="birth_step") / pl.col("of_kind"),
        what=pl.col("kind").replace_strict(names, return_dtype=pl.String),
    )
    scale = alt.Scale(domain=list(names.values()), range=[colours[kind] for kind in names])
    base = alt.Chart(table.rename({"birth_step": "step"})).encode(
        x=step_axis(run.steps),
        y=alt.Y("share:Q", title="born by then (share of the kind)", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("what:N", title="kind (features)", scale=scale),
        tooltip=["what", "step", "features", alt.Tooltip("share", format=".2f")],
    )
    chart = alt.layer(base.mark_line(interpolate="step-after"), base.mark_point(filled=True, opacity=1))
    return finished(chart.properties(width=WIDTH, height=HEIGHT, title="When features of each kind are born"))


def induction(run: Run) -> Spec:
    """By how much the second copy of random tokens is cheaper, at every snapshot."""
    table = run.table("induction_scores").with_columns(none=pl.lit(0.0))
    base = alt.Chart(table).encode(x=step_axis(run.steps))
    title = "gain of the second copy (nat / token)"
    band = base.mark_area(opacity=0.25, color=BLUE).encode(y=alt.Y("gain_ci_low:Q", title=title), y2="gain_ci_high:Q")
    line = base.mark_line(point=True, color=BLUE).encode(
        y=alt.Y("gain:Q", title=title), tooltip=["step", alt.Tooltip("gain", format=".3f")]
    )
    none = base.mark_line(color=GREY, strokeDash=[6, 4]).encode(y="none:Q")
    chart = alt.layer(band, none, line).properties(width=WIDTH, height=HEIGHT * 2 // 3)
    return finished(chart.properties(title="Does the model do induction? Random tokens, repeated"))


def complexity(run: Run) -> Spec:
    """Means of each measure of complexity by interval of birth, a panel a measure."""
    labels = ["initial", *interval_labels(run.steps)]
    names = dict(zip(run.steps, labels, strict=True))
    table = run.table("complexity")
    measured = [name for name in MEASURES if table[name].is_not_null().any()]
    means = pl.concat(
        [
            table.drop_nulls(name)
            .group_by("birth_step")
            .agg(mean=pl.col(name).mean(), spread=pl.col(name).std(), features=pl.len())
            .with_columns(measure=pl.lit(MEASURES[name]))
            for name in measured
        ]
    ).with_columns(
        interval=pl.col("birth_step").replace_strict(names, return_dtype=pl.String),
        half=1.96 * pl.col("spread") / pl.col("features").sqrt(),
    )
    means = means.with_columns(low=pl.col("mean") - pl.col("half"), high=pl.col("mean") + pl.col("half"))
    panels = []
    for name in measured:
        shown = means.filter(measure=MEASURES[name]).drop("spread", "half")
        x = alt.X("interval:O", title="born in (previous snapshot, snapshot], steps", sort=labels,
                  scale=alt.Scale(domain=labels), axis=alt.Axis(labelAngle=-45, labelOverlap=True))  # fmt: skip
        base = alt.Chart(shown).encode(x=x)
        rules = base.mark_rule(color=GREY).encode(y=alt.Y("low:Q", title="mean"), y2="high:Q")
        points = base.mark_point(filled=True, color=BLUE, opacity=1).encode(
            y=alt.Y("mean:Q", title="mean", scale=alt.Scale(zero=False)),
            size=alt.Size("features:Q", title="features", scale=alt.Scale(type="log", range=[20, 160])),
            tooltip=["interval", alt.Tooltip("mean", format=".2f"), "features"],
        )
        panels.append(
            alt.layer(rules, points).properties(width=WIDTH * 2 // 5, height=HEIGHT // 2, title=MEASURES[name])
        )
    title = alt.Title("Are features that are born later more complex?", subtitle="lines: 95 % intervals of the means")
    return finished(alt.concat(*panels, columns=2).properties(title=title))


def detection(run: Run) -> Spec:
    """How well descriptions made at the last snapshot tell excerpts at every snapshot."""
    names = {True: "alive there", False: "not yet, or no more"}
    table = run.table("detection_snapshots").with_columns(
        which=pl.col("alive").replace_strict(names, return_dtype=pl.String), chance=pl.lit(0.5)
    )
    base = alt.Chart(table).encode(x=step_axis(run.steps))
    title = "balanced accuracy (mean over features)"
    colour = alt.Color("which:N", title="features", scale=alt.Scale(domain=list(names.values()), range=[BLUE, ORANGE]))
    band = base.mark_area(opacity=0.25).encode(
        y=alt.Y("accuracy_ci_low:Q", title=title, scale=alt.Scale(domain=[0.4, 1], clamp=True)),
        y2="accuracy_ci_high:Q", color=colour,
    )  # fmt: skip
    line = base.mark_line(point=True).encode(
        y=alt.Y("accuracy:Q", title=title), color=colour,
        tooltip=["step", "which", "features", alt.Tooltip("accuracy", format=".3f")],
    )  # fmt: skip
    chance = base.mark_line(color=GREY, strokeDash=[6, 4]).encode(y="chance:Q")
    heading = alt.Title(
        "Is a feature the same concept earlier on?",
        subtitle="the last snapshot's descriptions, told from each snapshot's own examples; dashed: chance",
    )
    chart = alt.layer(band, chance, line).properties(width=WIDTH, height=HEIGHT * 2 // 3)
    return finished(chart.properties(title=heading))


def senses(run: Run) -> Spec:
    """Mean sense entropy of the tokens of several senses at every snapshot."""
    table = run.table("senses")
    base = alt.Chart(table).encode(x=step_axis(run.steps))
    title = "sense entropy (nat, mean over tokens)"
    band = base.mark_area(opacity=0.25, color=BLUE).encode(
        y=alt.Y("entropy_ci_low:Q", title=title, scale=alt.Scale(zero=False)), y2="entropy_ci_high:Q"
    )
    line = base.mark_line(point=True, color=BLUE).encode(
        y=alt.Y("entropy:Q", title=title), tooltip=["step", "tokens", alt.Tooltip("entropy", format=".3f")]
    )
    subtitle = (
        f"{table['tokens'].max() or 0:,} tokens with two senses in effect at some snapshot; band: 95 % over tokens"
    )
    chart = alt.layer(band, line).properties(width=WIDTH, height=HEIGHT * 2 // 3)
    return finished(chart.properties(title=alt.Title("Do tokens gain or lose senses?", subtitle=subtitle)))


def proxy(run: Run) -> Spec:
    """Relative strength beside how well a probe on the snapshot alone tells when the feature is active."""
    table = pairs(run)
    tenth = (pl.col("strength_relative") * 10).floor().clip(0, 9)
    quantiles = (
        table.group_by(strength=(tenth + 0.5) / 10)
        .agg(
            low=pl.col("auc").quantile(0.25),
            middle=pl.col("auc").median(),
            high=pl.col("auc").quantile(0.75),
            token=pl.col("auc_token").median(),
            pairs=pl.len(),
        )
        .sort("strength")
    )
    title = "relative strength (share of the feature's greatest)"
    base = alt.Chart(quantiles).encode(x=alt.X("strength:Q", title=title, scale=alt.Scale(domain=[0, 1])))
    title = "AUC of a probe on the snapshot alone"
    y = alt.Y("middle:Q", title=title, scale=alt.Scale(domain=[0.4, 1]))
    what = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=["probe on activations", "the token's own rate"], range=[BLUE, ORANGE]),
    )
    band = base.mark_area(opacity=0.25, color=BLUE).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    tooltip = [alt.Tooltip("strength", format=".2f"), alt.Tooltip("middle", format=".3f"), "pairs"]
    line = base.transform_calculate(what="'probe on activations'").mark_line(point=True)
    token = base.transform_calculate(what='"the token\'s own rate"').mark_line(strokeDash=[6, 4])
    chart = alt.layer(band, line.encode(y=y, color=what, tooltip=tooltip), token.encode(y="token:Q", color=what))
    title = alt.Title(
        "Is strength a good proxy for what a snapshot knows?",
        subtitle=f"{len(table):,} pairs of a feature and a snapshot; medians, band: middle half",
    )
    return finished(chart.properties(width=WIDTH, height=HEIGHT, title=title))
