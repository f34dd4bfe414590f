"""Case study: what a second dictionary finds again."""

from typing import Any

import altair as alt
import polars as pl

from ontogeny.features.agreement import LEVELS
from ontogeny.intervals import wilson_count
from ontogeny.report.figures.axes import BLUE, VERMILION
from ontogeny.run import Run

STUDIES, STAGE = ("english",), "truth"
ORIGINS = ("initial", "emergent")


def facts(run: Run) -> dict[str, Any]:
    """Of the living features of either origin, how many have a counterpart in the dictionary of each further seed."""
    living = run.features.filter(~pl.col("dead")).select("feature", emerges=pl.col("birth_step") > run.steps[0])
    matches = run.table("seed_matches").join(living, on="feature")
    rows = []
    for (seed,), of_seed in matches.group_by("seed", maintain_order=True):
        for emerges, origin in enumerate(ORIGINS):
            total = living.filter(emerges=bool(emerges)).height
            for level in LEVELS:
                count = of_seed.filter(pl.col("emerges") == bool(emerges), pl.col("cosine") >= level).height
                low, high = wilson_count(count, total)
                rows.append(
                    {"seed": seed, "origin": origin, "cosine": level, "features": total, "count": count,
                     "share": count / total, "low": low / total, "high": high / total}
                )  # fmt: skip
    stability = run.table("stability").filter(cosine=LEVELS[0])
    return {"rows": rows, "stability": stability.to_dicts()}


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells."""
    return found


def chart(found: dict[str, Any]) -> alt.TopLevelMixin:
    """A point and its interval for each seed, origin and cosine."""
    rows = [row | {"level": f"cosine ≥ {row['cosine']:g}", "name": f"seed {row['seed']}"} for row in found["rows"]]
    legend = alt.Legend(orient="bottom", title="features")
    base = alt.Chart(pl.DataFrame(rows)).encode(
        y=alt.Y("name:N", title=None),
        color=alt.Color("origin:N", scale=alt.Scale(domain=ORIGINS, range=[BLUE, VERMILION]), legend=legend),
        yOffset=alt.YOffset("origin:N", sort=list(ORIGINS)),
    )
    shape = alt.Shape("origin:N", scale=alt.Scale(domain=ORIGINS, range=["square", "circle"]), legend=legend)
    whole = alt.Scale(domain=[0, 1])
    share = alt.X("share:Q", title="share with a counterpart", axis=alt.Axis(format="%"), scale=whole)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(x=share, shape=shape)
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    panels = (spread + points).properties(width=300, height=110).facet(alt.Facet("level:N", title=None), columns=2)
    subtitle = "share of each origin's features that a dictionary trained from another seed has too; 95 % intervals"
    return panels.properties(title=alt.Title("What forms in training is found again", subtitle=subtitle))
