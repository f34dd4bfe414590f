"""Case study: what is there from the start, what forms, and in which order."""

from typing import Any

import altair as alt
import polars as pl
from scipy.stats import mannwhitneyu

from ontogeny.features.agreement import LEVELS
from ontogeny.report.figures.axes import BLUE, GREEN, GREY, ORANGE, step_axis
from ontogeny.run import Run

STUDIES, STAGE = ("english",), "truth"
KINDS = {"token": BLUE, "context sensitive": GREEN, "previous token": ORANGE, "other": GREY}
ORIGINS = ("initial", "emergent")
ORDERED = ("context sensitive", "previous token")


def facts(run: Run) -> dict[str, Any]:
    """Features of each kind and origin, births of those that emerge, and whether two kinds are born at the same
    time: of all emergent features, and of those alone that both further seeds have too."""
    table = run.table("kinds").select("feature", "birth_step", kind=pl.col("kind").str.replace_all("_", " "))
    table = table.with_columns(
        origin=pl.when(birth_step=run.steps[0]).then(pl.lit("initial")).otherwise(pl.lit("emergent"))
    )
    counts = table.group_by("origin", "kind").len("features").sort("origin", "kind").to_dicts()
    births = table.filter(origin="emergent").group_by("kind", "birth_step").len("features").sort("kind", "birth_step")
    matches = run.table("seed_matches").filter(pl.col("cosine") >= LEVELS[0])
    seeds = matches.group_by("feature").agg(pl.col("seed").n_unique())
    again = seeds.filter(pl.col("seed") == matches["seed"].n_unique()).select("feature")
    emergent = table.filter(origin="emergent")
    return {
        "counts": counts,
        "births": births.to_dicts(),
        "steps": run.steps,
        "order": _order(emergent),
        "order_again": _order(emergent.join(again, on="feature")),
    }


def _order(table: pl.DataFrame) -> dict[str, Any]:
    """Median births of the two kinds, and the p-value of their ranks (Mann and Whitney, features as a sample)."""
    births = [table.filter(kind=kind)["birth_step"].to_list() for kind in ORDERED]
    return {
        "features": [len(one) for one in births],
        "median": [pl.Series(one).median() for one in births],
        "p": float(mannwhitneyu(*births).pvalue),
    }


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells."""
    count = {(row["origin"], row["kind"]): row["features"] for row in found["counts"]}
    of = {origin: sum(n for (one, _), n in count.items() if one == origin) for origin in ORIGINS}
    return found | {
        "of": of,
        "count": {origin: {kind: count.get((origin, kind), 0) for kind in KINDS} for origin in ORIGINS},
    }


def chart(found: dict[str, Any]) -> alt.TopLevelMixin:
    """Shares of the kinds among features there from the start and among those that emerge; births of the latter."""
    scale = alt.Scale(domain=list(KINDS), range=list(KINDS.values()))
    of = shown(found)["of"]
    names = {"initial": f"initial ({of['initial']:,})", "emergent": f"emergent ({of['emergent']:,})"}
    counts = pl.DataFrame(found["counts"]).with_columns(
        name=pl.col("origin").replace_strict(names),
        place=pl.col("kind").replace_strict({k: i for i, k in enumerate(KINDS)}),
    )
    colour = alt.Color("kind:N", title="kind of feature", scale=scale, legend=alt.Legend(orient="bottom"))
    shares = (
        alt.Chart(counts)
        .mark_bar()
        .encode(
            x=alt.X("features:Q", stack="normalize", title="share of the features", axis=alt.Axis(format="%")),
            y=alt.Y("name:N", title=None, sort=list(names.values())),
            color=colour,
            order="place:Q",
        )
        .properties(width=620, height=80)
    )
    born = {
        kind: [row["birth_step"] for row in found["births"] if row["kind"] == kind for _ in range(row["features"])]
        for kind in KINDS
    }
    births = births_of(born, found["steps"], colour).properties(width=620, height=220)
    return alt.vconcat(shares, births).properties(title=alt.Title("Tokens are there, contexts form"))


def births_of(born: dict[str, list[int]], steps: list[int], colour: alt.Color) -> alt.LayerChart:
    """Which share of each kind's emergent features is born by each step.

    Args:
        born: step of birth of every emergent feature of a kind.
    """
    rows = [
        {"kind": kind, "step": step, "share": sum(one <= step for one in births) / max(1, len(births))}
        for kind, births in born.items()
        for step in steps
    ]
    base = alt.Chart(pl.DataFrame(rows)).encode(
        x=step_axis(steps),
        y=alt.Y("share:Q", title="of the emergent: born by then", axis=alt.Axis(format="%")),
        color=colour,
    )
    return base.mark_line(interpolate="step-after") + base.mark_point(filled=True, opacity=1)
