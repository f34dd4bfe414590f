"""Change points of real evaluation curves: docs/change-points.md. Usage: make change-points EVALS=FILE

The file is a table of suite, model, step, task, metric and value: the results that EleutherAI/pythia publishes in
`evals/`. First breaks are planted on the grid of its snapshots, and how often the 95 % interval of a break holds the
planted one is counted.
"""

import argparse
import lzma
from itertools import product
from pathlib import Path

import altair as alt
import jinja2
import numpy as np
import polars as pl
import vl_convert
from benchmarks.change_point import wiggles

from ontogeny.analyses.change_point import MIN_SIDE, find_break
from ontogeny.report.figures.axes import BLUE, GREEN, ORANGE, step_axis

DOCS = Path(__file__).resolve().parents[1] / "docs"
MODELS = {"70m": ORANGE, "160m": GREEN, "410m": BLUE}
TASKS = {
    "lambada_openai": "LAMBADA",
    "sciq": "SciQ",
    "piqa": "PIQA",
    "arc_easy": "ARC (easy)",
    "winogrande": "WinoGrande",
}
WIDTHS, HEIGHT = (3, 6, 9, 12), 40.0
SIZES, COEFFICIENTS, REPEATS, SAMPLES = (5.0, 10.0, 20.0), (0.0, 0.3, 0.6), 200, 399


def curves(path: Path) -> pl.DataFrame:
    """Accuracies of suite v1, whose 27 snapshots begin at step 0."""
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        table = pl.read_csv(file.read(), separator="\t")
    table = table.filter(
        pl.col("suite") == "v1", pl.col("model").is_in(list(MODELS)), pl.col("task").is_in(list(TASKS)),
        pl.col("metric") == "acc",
    )  # fmt: skip
    return table.sort("task", "model", "step")


def planted(steps: list[int]) -> pl.DataFrame:
    """Whether the interval holds the break, its width in snapshots, and whether p ≤ .05: breaks of a kind and size at
    places drawn at random, noise of unit deviation."""
    t, rows = np.log2(1 + np.asarray(steps)), []
    for kind, size, coefficient in product(("slope", "level"), SIZES, COEFFICIENTS):
        draw = np.random.default_rng(0)
        for noise in wiggles(draw, REPEATS, len(t), coefficient):
            place = int(draw.integers(MIN_SIDE, len(t) - MIN_SIDE + 1))
            bend = np.maximum(t - (t[place - 1] + t[place]) / 2, 0) / 4
            curve = size * (bend if kind == "slope" else (np.arange(len(t)) >= place))
            change = find_break(t, curve + noise, samples=SAMPLES)
            assert change is not None
            held, width, found = change.low <= place <= change.high, change.high - change.low, change.p_value <= 0.05
            rows.append((kind, size, coefficient, held, width, found))
    return pl.DataFrame(rows, schema=["kind", "size", "coefficient", "held", "width", "found"], orient="row")


def sigmoids(steps: list[int]) -> dict[float, float]:
    """Share of p ≤ .05 for curves without any break: sigmoids that go from 5 to 95 % within so many log-steps."""
    t, found = np.log2(1 + np.asarray(steps)), {}
    for width in WIDTHS:
        draw, hits = np.random.default_rng(0), []
        for noise in wiggles(draw, REPEATS, len(t), 0.3):
            centre = draw.uniform(7, 13)
            curve = HEIGHT / (1 + np.exp(-(t - centre) * 2 * np.log(19) / width))
            change = find_break(t, curve + noise, samples=SAMPLES)
            assert change is not None
            hits.append(change.p_value <= 0.05)
        found[width] = float(np.mean(hits))
    return found


def breaks(table: pl.DataFrame) -> pl.DataFrame:
    """The likeliest break of every curve."""
    rows = []
    for (task, model), curve in table.group_by("task", "model", maintain_order=True):
        steps, values = curve["step"].to_list(), curve["value"].to_numpy()
        change = find_break(np.log2(1 + np.asarray(steps)), values)
        assert change is not None
        places = {"step": change.place, "low": change.low, "high": change.high}
        rows.append(
            {"task": task, "model": model, "before": steps[change.place - 1], "p": change.p_value}
            | {name: steps[place] for name, place in places.items()}
            | {"value": values[change.place], "autocorrelation": change.autocorrelation}
        )
    return pl.DataFrame(rows)


def figure(table: pl.DataFrame, found: pl.DataFrame) -> alt.VConcatChart:
    """A panel a task: accuracies, and the likeliest break of each model's curve with its interval."""
    colour = alt.Color("model:N", title="Pythia", sort=list(MODELS),
                       scale=alt.Scale(domain=list(MODELS), range=list(MODELS.values())))  # fmt: skip
    panels = []
    for task, name in TASKS.items():
        own, here = table.filter(task=task), found.filter(task=task)
        x = step_axis(sorted(set(own["step"])), labels=8)
        lines = alt.Chart(own).mark_line(point=alt.OverlayMarkDef(size=12)).encode(
            x=x, y=alt.Y("value:Q", title="accuracy", scale=alt.Scale(zero=False)), color=colour
        )  # fmt: skip
        rules = alt.Chart(here).mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y="value:Q", color=colour)
        points = alt.Chart(here).mark_point(shape="diamond", size=110, filled=True, opacity=1, stroke="black").encode(
            x="step:Q", y="value:Q", color=colour
        )  # fmt: skip
        panels.append(alt.layer(lines, rules, points).properties(width=280, height=170, title=name))
    title = alt.Title(
        "Where evaluation curves of Pythia break",
        subtitle="diamond: first snapshot of the new trend; line: its 95 % interval",
    )
    return alt.concat(*panels, columns=2).properties(title=title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    table = curves(parser.parse_args().file)
    steps, found = sorted(set(table["step"])), breaks(table)
    (DOCS / "images").mkdir(exist_ok=True)
    svg = vl_convert.vegalite_to_svg(figure(table, found).to_json())
    (DOCS / "images" / "change-points.svg").write_text(svg, encoding="utf-8")
    counted = planted(steps)
    cells = counted.group_by("kind", "size", "coefficient", maintain_order=True).agg(
        pl.col("held").mean(), pl.col("width").mean(), pl.col("found").mean()
    )
    template = jinja2.Template(Path(__file__).with_suffix(".md.j2").read_text(encoding="utf-8"))
    page = template.render(
        steps=steps,
        names=TASKS,
        found=found.sort(
            *(
                pl.col(name).replace_strict({one: place for place, one in enumerate(order)}, return_dtype=pl.Int64)
                for name, order in (("task", TASKS), ("model", MODELS))
            )
        ).to_dicts(),
        cells=cells.to_dicts(),
        coefficients=COEFFICIENTS,
        repeats=REPEATS,
        sigmoids=sigmoids(steps),
        height=HEIGHT,
        held=np.mean(counted["held"].to_list()),
        slopes=np.mean(counted.filter(kind="slope")["held"].to_list()),
    )
    (DOCS / "change-points.md").write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
