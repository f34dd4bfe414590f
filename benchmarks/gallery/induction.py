"""Case study: what it takes for a small model to learn induction, and which features come with it."""

from typing import Any

import altair as alt
import polars as pl

from ontogeny.report.figures.axes import BLUE, GREY, VERMILION, step_axis
from ontogeny.run import Run

STUDIES, STAGE = ("english-repeats", "english-all"), "analyse"
TEXTS = ("a tenth of the contexts repeat a passage", "text as it is")
KINDS = ("previous_token", "induction", "context_sensitive", "token")


def facts(repeats: Run, plain: Run) -> dict[str, Any]:
    """How much cheaper a second copy of random tokens is, and when features of each kind are born."""
    gains = [
        {"text": text, "step": row["step"], "gain": row["gain"], "low": row["gain_ci_low"], "high": row["gain_ci_high"]}
        for text, run in zip(TEXTS, (repeats, plain), strict=True)
        for row in run.analysis("induction_scores").sort("snapshot").to_dicts()
    ]
    return {"gains": gains, "kinds": {text: _kinds(run) for text, run in zip(TEXTS, (repeats, plain), strict=True)}}


def _kinds(run: Run) -> dict[str, dict[str, Any]]:
    """Of each kind: how many features there are, how many of them emerge, and at which steps."""
    kinds, found = run.analysis("kinds"), {}
    for kind in KINDS:
        born = kinds.filter(kind=kind)["birth_step"].drop_nulls().sort()
        emergent = born.filter(born > run.steps[0])
        found[kind] = {"features": len(born), "births": emergent.to_list(), "median": emergent.median()}
    return found


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells."""
    return found


def chart(found: dict[str, Any]) -> alt.TopLevelMixin:
    """The gain of both models over steps, and births of features of induction and of the previous token."""
    rows = pl.DataFrame(found["gains"])
    legend = alt.Legend(orient="bottom", title=None, labelLimit=320)
    x = step_axis(rows["step"].unique().sort().to_list())
    base = alt.Chart(rows).encode(
        x=x,
        y=alt.Y("gain:Q", title="second copy cheaper by (nat)"),
        color=alt.Color("text:N", scale=alt.Scale(domain=TEXTS, range=[VERMILION, GREY]), legend=legend),
        strokeDash=alt.StrokeDash("text:N", scale=alt.Scale(domain=TEXTS, range=[[1, 0], [5, 3]]), legend=legend),
    )
    spread = base.mark_rule().encode(y="low:Q", y2="high:Q", strokeDash=alt.value([1, 0]))
    layers = [(base.mark_line(point=True) + spread).properties(width=620, height=240)]
    births = [
        {"step": step, "kind": kind.replace("_", " ")}
        for kind in ("previous_token", "induction")
        for step in found["kinds"][TEXTS[0]][kind]["births"]
    ]
    if births:
        size = alt.Size("count():Q", title="features born", legend=alt.Legend(orient="bottom"))
        marks = alt.Chart(pl.DataFrame(births)).mark_circle(color=BLUE, opacity=1)
        layers.append(marks.encode(x=x, y=alt.Y("kind:N", title=None), size=size).properties(width=620, height=60))
    subtitle = "random tokens said twice: loss on the first copy less that on the second; 95 % intervals over blocks"
    title = alt.Title("When does a model learn to copy what followed before?", subtitle=subtitle)
    return alt.vconcat(*layers).properties(title=title)
