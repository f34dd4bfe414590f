"""What figures share: axes of steps and of intervals between them, colours, sizes.

Steps are drawn on a symlog axis, log(1 + step), which the page can switch to a linear one. Colours are from the
palette of Okabe and Ito and from viridis, which hold for colour-blind readers.
"""

from itertools import pairwise
from textwrap import wrap
from typing import Any

import altair as alt
import numpy as np
import polars as pl

Spec = dict[str, Any]
WIDTH, HEIGHT = 620, 300
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#767676",
)  # fmt: skip
# viridis at nine even places (Smith and van der Walt 2015, CC0)
VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
THOUSANDS = "datum.value < 1000 ? datum.value : datum.value / 1000 + 'k'"


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


def interval_labels(steps: list[int]) -> list[str]:
    """One label for each interval between neighbouring snapshots."""
    return [f"({short(a)}, {short(b)}]" for a, b in pairwise(steps)]


def short(step: int) -> str:
    """1000 as 1k."""
    return f"{step / 1000:g}k" if step >= 1000 else str(step)


def scale_of(table: pl.DataFrame, **given: Any) -> alt.Scale:
    """A scale over a table's values; of an empty one, that has no extent, from one to ten."""
    if not len(table):
        given["domain"] = [1, 10]
    return alt.Scale(**given)


LETTERS = {"text": 7.6, "subtitle": 6.0}
"""Widths in pixels of a letter of Vega's titles and subtitles, in the mean."""


def finished(chart: alt.TopLevelMixin) -> Spec:
    """The chart as Vega-Lite has it; titles that are wider than what they stand over have several lines."""
    spec = chart.to_dict()
    for part in (spec, *(part for below in ("vconcat", "hconcat", "concat") for part in spec.get(below, ()))):
        title, width = part.get("title"), _width(part, spec)
        if title and width is not None:
            titles: dict[str, Any] = {"text": title} if isinstance(title, str) else title
            part["title"] = titles
            for name, letter in LETTERS.items():
                if isinstance(text := titles.get(name), str):
                    lines = wrap(text, int((width + 40) / letter))
                    titles[name] = lines if len(lines) > 1 else text
    return spec


def _width(part: Spec, spec: Spec) -> float | None:
    """Pixels from the left to the right of a chart, its panels beside each other; None where Vega lays it out."""
    if "facet" not in part:
        return width if isinstance(width := part.get("width"), int | float) else None
    one, field, rows = _width(part["spec"], spec), part["facet"].get("field"), spec["datasets"][part["data"]["name"]]
    panels = min(len({row[field] for row in rows}), part.get("columns") or len(rows)) if field else None
    return None if one is None or panels is None else one * panels
