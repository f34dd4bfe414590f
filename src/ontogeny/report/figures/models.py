"""The models and how well the dictionary stands in for their activations."""

import altair as alt
import polars as pl

from ontogeny.report.figures.axes import (
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    SKY,
    VERMILION,
    WIDTH,
    Spec,
    finished,
    step_axis,
)
from ontogeny.run import Run

SIZES = [SKY, BLUE, VERMILION, ORANGE, GREEN]
"""Colours of dictionaries by their size, smallest first."""


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
    known = table.drop_nulls(["loss_ci_low", "loss_ci_high"])  # of too few documents there are none
    band = alt.Chart(known).mark_area(opacity=0.25, color=BLUE).encode(x=x, y="loss_ci_low:Q", y2="loss_ci_high:Q")
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
    layers = [band, rules, line] if len(known) else [rules, line]
    return finished(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


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
    return finished(chart.properties(width=WIDTH, height=HEIGHT, title=title))


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
    layers: list[alt.Chart] = [base.transform_filter(alt.datum.name != "sae_explained_variance").mark_line(point=True)]
    if "single_saes" in run.study.analyses:
        singles = base.transform_filter(alt.datum.name == "sae_explained_variance")
        layers.append(singles.mark_point(shape="diamond", size=90, filled=True, opacity=1))
    title = "How much of each snapshot's activations the dictionary explains (held-out tokens)"
    return finished(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def pareto(run: Run) -> Spec:
    """L0 against explained variance of dictionaries of several sizes, a panel a snapshot."""
    kinds = {"crosscoder": "crosscoder of all snapshots", "sae": "SAE of this snapshot alone"}
    table = run.table("pareto").with_columns(
        what=pl.col("kind").replace_strict(kinds), size=pl.col("features").cast(pl.String)
    )
    sizes = [str(size) for size in sorted(set(table["features"]))]
    base = alt.Chart(table).encode(
        x=alt.X("l0:Q", title="L0 (active features a token)", scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("explained_variance:Q", title="explained variance (share)", scale=alt.Scale(zero=False)),
        color=alt.Color(
            "size:N", title="features", sort=sizes, scale=alt.Scale(domain=sizes, range=SIZES[: len(sizes)])
        ),
        tooltip=["what", "features", "k", *(alt.Tooltip(name, format=".4g") for name in ("l0", "explained_variance"))],
    )
    scale = alt.Scale(domain=list(kinds.values()), range=[[1, 0], [5, 4]])
    lines = base.mark_line().encode(strokeDash=alt.StrokeDash("what:N", title=None, scale=scale))
    shape = alt.Shape("what:N", title=None, scale=alt.Scale(domain=list(kinds.values()), range=["circle", "diamond"]))
    panel = alt.layer(lines, base.mark_point(filled=True, opacity=1, size=50).encode(shape=shape))
    panel = panel.properties(width=WIDTH // 3, height=HEIGHT * 2 // 3)
    steps = sorted(set(table["step"]))
    panels = [panel.transform_filter(alt.datum.step == step).properties(title=f"step {step:,}") for step in steps]
    title = alt.Title(
        "What sharing features over pre-training costs, by sparsity and size",
        subtitle=f"all trained on the same {table['tokens'][0]:,} tokens",
    )
    return finished(alt.hconcat(*panels).properties(title=title))


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
    return finished(chart.properties(width=WIDTH, height=HEIGHT, title=title))
