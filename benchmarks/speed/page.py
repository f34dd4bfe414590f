"""docs/performance.md and its figures, from the latest results."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import altair as alt
import jinja2
import numpy as np
import polars as pl
import vl_convert
from benchmarks.speed.pairs import BATCHES
from benchmarks.speed.peers import PEERS, UNUSED

from ontogeny.loop import LOG_EVERY_STEPS
from ontogeny.report.figures.axes import BLUE, GREEN, GREY, ORANGE, VERMILION

DOCS = Path(__file__).resolve().parents[2] / "docs"
Rows = list[dict[str, Any]]


def write_page(found: dict[str, Any]) -> None:
    """docs/performance.md, docs/images/performance-*.svg."""
    template = jinja2.Template(Path(__file__).with_name("page.md.j2").read_text(encoding="utf-8"), trim_blocks=True)
    timed = [part for name, part in found.items() if name != "agreement"]
    about = {part["machine"] + f", {part['threads']} threads" for part in timed}
    precision = ", ".join(sorted({part["precision"] for part in found.values()}))
    found = {name: part["found"] for name, part in found.items()}
    shown: dict[str, Any] = {"machine": " and ".join(sorted(about)), "peers": _peers(), "precision": precision}
    if rows := found.get("training"):
        shapes = list(dict.fromkeys(row["shape"] for row in rows))
        sides = list(dict.fromkeys(row["beside"] for row in rows))
        by_side = {side: [row for row in rows if row["beside"] == side] for side in sides}
        shown["training"] = [
            (shape, [_training([row for row in own if row["shape"] == shape], side) for side, own in by_side.items()])
            for shape in shapes
        ]
        shown["means"] = {
            side: ", ".join(f"{name} {ratio:.2f}" for name, ratio in _means(own).items())
            for side, own in by_side.items()
        }
        _draw("peers", _bars(_means(by_side[sides[0]])))
    if rows := found.get("curves"):
        shown["curves"] = _curves(rows)
        shown["batches_mb"] = BATCHES * 1024 * 128 * 4 / 1e6  # the batch and width of `curves`, float32
        _draw("curves", _lines(rows))
    if figures := found.get("agreement"):
        shown["agreement"] = _agreement(figures)
        _draw("losses", _loss_curves(figures))
    if rows := found.get("together"):
        shown["together"] = _together(rows)
    if rows := found.get("harvest"):
        shown["harvest"] = _training(rows, "Ontogeny")
    if rows := found.get("pace"):
        shown["pace"] = _pace(rows)
    if rows := found.get("effects"):
        shown["effects"] = _effects(rows)
    if figures := found.get("app"):
        shown["app"] = _app(figures)
    (DOCS / "performance.md").write_text(template.render(**shown).rstrip() + "\n", encoding="utf-8")


def _training(rows: Rows, ours: str) -> str:
    """A row per contender; ours first, from the first pair."""
    first = next(row for row in rows if "ratio" in row)
    lines = [[ours, f"{first['batch'] / first['ours']:,.0f}", f"{first['memory_ours']:.2f}", "", "1"]]
    for row in rows:
        if "failed" in row:
            lines.append([row["name"], f"failed: {row['failed']}", "", "", ""])
            continue
        spread = f"{row['ratio']:.2f} ({min(row['ratios']):.2f}…{max(row['ratios']):.2f})"
        l0 = "" if row["l0"] is None else f"{row['l0']:.0f}"
        lines.append([row["name"], f"{row['batch'] / row['other']:,.0f}", f"{row['memory']:.2f}", l0, spread])
    return _table(["", "tokens a second", "memory, GB", "L0", "ratio"], lines)


def _pace(rows: Rows) -> str:
    lines = [
        [
            str(row["snapshots"]), row["way"], f"{row['tokens'] / row['foretold']:,.0f}",
            f"{row['tokens'] / row['measured']:,.0f}", f"{row['measured'] / row['foretold']:.2f}",
            f"{row['waited']:.0%}",
        ]
        for row in rows
    ]  # fmt: skip
    return _table(["snapshots", "", "tokens a second, foretold", "measured", "time over foretold", "waits"], lines)


def _effects(rows: Rows) -> str:
    lines = [
        [
            f"`{row['hookpoint']}`", f"{row['forward']:.2f}", f"{row['ig'] / row['forward']:.1f}",
            f"{row['ig_ratio']:.2f}", f"{row['atp_ratio']:.2f}", f"{row['memory']:.2f}", f"{row['above']:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    head = [
        "hookpoint",
        "one pass, s",
        "ig, passes",
        "ig, passes a step",
        "atp, passes",
        "memory, GB",
        "of it effects'",
    ]
    return _table(head, lines)


def _means(rows: Rows) -> dict[str, float]:
    """Geometric mean of the ratios over the shapes."""
    names = dict.fromkeys(row["name"] for row in rows if "ratio" in row)
    return {name: geometric_mean([row["ratio"] for row in rows if row["name"] == name]) for name in names}


def _exponent(rows: Rows) -> float:
    """Slope of log seconds over log size, least squares."""
    sizes, seconds = (np.log([row[name] for row in rows]) for name in ("size", "seconds"))
    return float(np.polyfit(sizes, seconds, 1)[0])


def _curves(rows: Rows) -> str:
    lines = []
    for curve in dict.fromkeys(row["curve"] for row in rows):
        own = [row for row in rows if row["curve"] == curve]
        cells = ", ".join(f"{row['size']:,}: {row['seconds'] * 1000:.0f} ms, {row['memory']:.2f} GB" for row in own)
        slope = 1000 * np.polyfit(*([row[name] for row in own] for name in ("size", "memory")), 1)[0]
        lines.append([curve, cells, f"{_exponent(own):.2f}", f"{slope:.3g}"])
    return _table(["over", "a step, and the memory it adds", "exponent of time", "MB each"], lines)


def _agreement(figures: dict[str, Any]) -> str:
    columns = ["loss", "recovered", "births_exact", "strength_error"]
    lines = [[name, *(f"{row[column]:.4g}" for column in columns)] for name, row in figures.items()]
    usual = next(iter(figures.values()))
    for name, row in list(figures.items())[1:]:
        beside = [f"{row['loss'] / usual['loss'] - 1:+.2%}", *(f"{row[one] - usual[one]:+.4f}" for one in columns[1:])]
        lines.append([f"{name}, beside it", *beside])
    return _table(["", "loss", "plants recovered", "births exact", "strength RMSE"], lines)


def _together(rows: Rows) -> str:
    lines = [
        [row["shape"], row["name"], f"{row['batch'] / row['seconds']:,.0f}", f"{row['ratio']:.2f}"] for row in rows
    ]
    return _table(["", "", "tokens a second", "of one's"], lines)


def _app(found: dict[str, Any]) -> str:
    views = [[name, f"{seconds:.2f} s"] for name, seconds in found.items() if name.startswith("view ")]
    queries = [[f"`{name}`", f"{1000 * seconds:.0f} ms"] for name, seconds in found["queries"].items()]
    pages = f"{1000 * found['feature_page']:.0f} ms ({1000 * found['feature_page_worst']:.0f} ms)"
    others = [
        ["a feature's page at the server, median of 15 (slowest)", pages],
        ["frames a second in the Atlas, panning", f"{found['frames pan']:.0f}"],
        ["frames a second in the Atlas, zooming", f"{found['frames zoom']:.0f}"],
        ["the server's greatest memory", f"{found['server_peak_bytes'] / 1e9:.2f} GB"],
    ]
    return _table(["", ""], views + queries + others)


def _peers() -> str:
    rows = [
        [name.replace("_", " "), f"`pip install {' '.join(json.dumps(one) for one in asked)}`"]
        for name, asked in PEERS.items()
    ]
    return (
        _table(["peer", "environment"], rows)
        + f"\n\nAfterwards `{UNUSED}` is removed, which was built for another torch."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def _draw(name: str, chart: alt.Chart | alt.LayerChart | alt.HConcatChart) -> None:
    (DOCS / "images" / f"performance-{name}.svg").write_text(
        vl_convert.vegalite_to_svg(chart.to_json()), encoding="utf-8"
    )


def _bars(means: dict[str, float]) -> alt.LayerChart:
    rows = pl.DataFrame(
        [{"name": name, "ratio": ratio, "ours": name.startswith("Ontogeny")} for name, ratio in means.items()]
    )
    base = alt.Chart(rows).encode(
        y=alt.Y("name:N", sort=list(means), title=None, axis=alt.Axis(labelLimit=320)),
        x=alt.X(
            "ratio:Q", title="time of a step / ours with BatchTopK, logarithmic",
            scale=alt.Scale(type="log", domain=[0.35, 50], nice=False),
            axis=alt.Axis(values=[0.5, 1, 2, 5, 10, 20, 50]),
        ),
    )  # fmt: skip
    colour = alt.condition("datum.ours", alt.value(BLUE), alt.value(GREY))
    bars = base.mark_bar(size=3).encode(color=colour, x2=alt.datum(1)) + base.mark_point(
        filled=True, size=70, opacity=1
    ).encode(color=colour)
    number = alt.Text("ratio:Q", format=".2f")
    right = base.transform_filter("datum.ratio >= 1").mark_text(align="left", dx=8).encode(text=number)
    left = base.transform_filter("datum.ratio < 1").mark_text(align="right", dx=-8).encode(text=number)
    one = alt.Chart(pl.DataFrame({"x": [1.0]})).mark_rule(color=VERMILION, strokeDash=[4, 3]).encode(x="x:Q")
    subtitle = "means over 8 and 32 snapshots; blue: Ontogeny; dashed: its BatchTopK"
    return (bars + left + right + one).properties(
        padding={"left": 60, "right": 5, "top": 5, "bottom": 5},
        width=420,
        height=24 * len(means),
        title=alt.Title("Time of a training step beside ours", subtitle=subtitle),
    )


def _loss_curves(figures: dict[str, Any]) -> alt.Chart:
    (_, dense), *others = figures.items()
    rows = [
        {"way": name, "step": LOG_EVERY_STEPS * (place + 1), "percent": 100 * (share / usual - 1)}
        for name, row in others
        for place, (share, usual) in enumerate(zip(row["unexplained"], dense["unexplained"], strict=True))
    ]
    names = [name for name, _ in others]
    colours = [GREY, BLUE, GREEN, VERMILION, ORANGE]
    x, y = alt.X("step:Q", title="step"), alt.Y("percent:Q", title="unexplained variance beside dense, %")
    legend = alt.Legend(labelLimit=300)
    colour = alt.Color("way:N", sort=names, title=None, scale=alt.Scale(domain=names, range=colours), legend=legend)
    title = alt.Title(
        "How far trainings part that differ in rounding",
        subtitle="every twentieth step; eight snapshots of the reference suite, 2,048 features, k = 48",
    )
    lines = alt.Chart(pl.DataFrame(rows)).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=colour)
    padding = {"left": 5, "right": 50, "top": 5, "bottom": 5}
    return lines.properties(width=520, height=240, title=title, padding=padding)


def _lines(rows: Rows) -> alt.HConcatChart:
    panels = []
    for curve, others in (("snapshots", "8,192 features, k 64"), ("features", "8 snapshots, k 32")):
        own = [row for row in rows if row["curve"] == curve]
        sizes = [row["size"] for row in own]
        label = "datum.value < 1024 ? datum.label : datum.value / 1024 + 'k'"
        linear = [{"size": size, "seconds": own[-1]["seconds"] * size / sizes[-1]} for size in sizes]
        x = alt.X(
            "size:Q", scale=alt.Scale(type="log", base=2), title=curve, axis=alt.Axis(values=sizes, labelExpr=label)
        )
        y = alt.Y("seconds:Q", scale=alt.Scale(type="log"), title="seconds a step")
        measured = alt.Chart(pl.DataFrame(own)).mark_line(point=True, color=BLUE).encode(x=x, y=y)
        straight = alt.Chart(pl.DataFrame(linear)).mark_line(color=GREY, strokeDash=[4, 3]).encode(x=x, y=y)
        title = alt.Title(
            f"Over {curve}: size^{_exponent(own):.2f}",
            subtitle=[f"{others}, d_model 128, batch 1,024;", "dashed: in proportion"],
        )
        panels.append((straight + measured).properties(width=300, height=220, title=title))
    return alt.hconcat(*panels)
