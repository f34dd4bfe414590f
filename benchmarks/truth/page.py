"""docs/truth.md and its figures, from what was measured."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import jinja2
import polars as pl
import vl_convert
from benchmarks.measured import Measured
from benchmarks.truth.cases import (
    CHOOSING,
    OURS,
    RATES,
    RECIPES,
    RISES,
    SECONDS,
    SEEDS,
    UNSEEN,
    Case,
    choosing,
    of_recipe,
    unseen,
)
from benchmarks.truth.controls import control_key, seeds_of

from ontogeny.report.figures.axes import BLUE, GREY, VERMILION

DOCS = Path(__file__).resolve().parents[2] / "docs"
SHAPES = ["circle", "triangle-left", "square"]
FIGURES = {
    "recovered": "recovered",
    "births_exact": "births exact",
    "false_emergent": "false emergent",
    "strength_error": "strength RMSE",
    "rotations_right": "rotations within 5°",
    "false_features": "false features",
    "l0": "L0",
}


@cache
def _measured() -> Measured:
    return Measured("truth")


def result(case: Case) -> dict[str, Any]:
    """What was measured of a case."""
    return _measured()[case.key]


def control(name: str, seed: int) -> dict[str, Any]:
    """What a control found."""
    return _measured()[control_key(name, seed)]


def write_page() -> None:
    """docs/truth.md, docs/images/truth-*.svg."""
    charts = {
        "birth": _chart("by_birth", "birth", "snapshot of birth, 0-based"),
        "frequency": _chart("by_frequency", "part", "quarter of frequency, rarest first"),
        "frontier": _frontier(),
    }
    for name, chart in charts.items():
        svg = vl_convert.vegalite_to_svg(chart.to_json())
        (DOCS / "images" / f"truth-{name}.svg").write_text(svg, encoding="utf-8")
    template = jinja2.Template(Path(__file__).with_name("page.md.j2").read_text(encoding="utf-8"))
    tables = {name: make() for name, make in TABLES.items()}
    timed = _measured()[SECONDS]["machine"]
    page = template.render(seeds=len(SEEDS), machine=timed, **tables) + "\n"
    (DOCS / "truth.md").write_text(page, encoding="utf-8")


def _recipes() -> str:
    return _scores([(name, [of_recipe(name, seed) for seed in SEEDS]) for name in RECIPES])


def _unseen() -> str:
    return _scores([(name, [unseen(name, seed) for seed in SEEDS]) for name in UNSEEN], last_born=True)


def _cost() -> str:
    seconds = _measured()[SECONDS]["seconds"]
    rows = [[name, f"{seconds[name]:.0f}", f"{seconds[name] / seconds[OURS]:.2f}"] for name in RECIPES]
    return _table(["", "seconds", "of our defaults'"], rows)


def _ends() -> str:
    places = {"born last": ("by_birth", -1), "born first": ("by_birth", 0)}
    places |= {"rarest quarter": ("by_frequency", 0), "most frequent quarter": ("by_frequency", -1)}
    rows = []
    for name in RECIPES:
        found = [result(of_recipe(name, seed)) for seed in SEEDS]
        rows.append(
            [name, *(f"{fmean(one[table]['recovered'][at] for one in found):.0%}" for table, at in places.values())]
        )
    return _table(["recovered", *places], rows)


def _choosing() -> str:
    found = {(setting, rate, rise): result(case)["figures"] for setting, rate, rise, case in choosing()}
    tables, pair = [], "{recovered:.3f}, {births_exact:.3f}"
    for rise in RISES:
        rows = [
            [
                f"{rate:g}",
                *(pair.format(**found[name, rate, rise]) for name in CHOOSING),
            ]
            for rate in RATES
        ]
        tables.append(_table([f"{rise}: rate", *CHOOSING], rows))
    return "\n\n".join(tables)


def _nulls() -> str:
    tables = []
    for name in ("no change", "shuffled rows", "order"):
        found = [control(name, seed) for seed in SEEDS]
        rows = [[key, *(_number(row[key]) for row in found)] for key in found[0]]
        tables.append(_table([name, *(f"seed {seed}" for seed in SEEDS)], rows))
    return "\n\n".join(tables)


def _relations() -> str:
    found = [control("relations", seed) for seed in seeds_of("relations")]
    rows = []
    for setting in found[0]:
        for name in ("split", "absorption", "handover", "novel"):
            right, n = (sum(one[setting][name][place] for one in found) for place in (0, 1))
            rows.append([setting, name, f"{right:,}", f"{n:,}", f"{right / n:.0%}"])
        rows.append(
            [
                setting,
                "unrelated pairs said to have parted",
                "",
                str(sum(one[setting]["parted"][1] for one in found)),
                "",
            ]
        )
    return _table(["related by", "planted", "called so", "of", "share"], rows)


def _shrinkage() -> str:
    found = [control("shrinkage", seed) for seed in SEEDS]
    rows = [
        [name, *(_number((fmean if key in _MEANS else sum)([one[name][key] for one in found])) for key in columns)]
        for name, columns in found[0].items()
    ]
    return _table(["", *found[0][OURS]], rows)


def _trust() -> str:
    found = [control("trust", seed) for seed in SEEDS]
    rows = [
        [f"{name}: {kind}", *_passes([one[name][kind] for one in found])]
        for name, kinds in found[0].items()
        for kind in kinds
    ]
    return _table(["", "births", "high", "medium", "low", "pass (not low)"], rows)


_MEANS = ("L0", "recovered", "learned / true", "refitted / true")


def _passes(rows: Sequence[dict[str, int]]) -> list[str]:
    counts = [sum(row.get(level, 0) for row in rows) for level in ("high", "medium", "low")]
    total = sum(counts)
    return [f"{total:,}", *map(str, counts), f"{(total - counts[2]) / total:.1%}" if total else "none"]


def _scores(cases: Sequence[tuple[str, Sequence[Case]]], *, last_born: bool = False) -> str:
    """Means over seeds, with the worst and the best; of the last-born too where no other table tells it."""
    rows = []
    for name, of_seeds in cases:
        found = [result(case) for case in of_seeds]
        values = [[one["figures"][figure] for one in found] for figure in FIGURES]
        if last_born:
            values.insert(1, [one["by_birth"]["recovered"][-1] for one in found])
        cells = [f"{fmean(of):.3f} ({min(of):.2f}…{max(of):.2f})" for of in values[:-1]]
        explained = fmean(fmean(one["explained_variance"]) for one in found)
        rows.append([name, *cells, f"{fmean(values[-1]):.1f}", f"{explained:.3f}"])
    recovered, *others = FIGURES.values()
    columns = [recovered, *(["of the last-born"] if last_born else []), *others]
    return _table(["", *columns, "explained variance"], rows)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _chart(table: str, column: str, title: str) -> alt.FacetChart:
    """Recovered share, a panel per recipe, a line per seed and their mean."""
    rows = [
        {"recipe": name, "seed": seed, "place": place, "recovered": share}
        for name in RECIPES
        for seed in SEEDS
        for found in [result(of_recipe(name, seed))[table]]
        for place, share in zip(found[column], found["recovered"], strict=True)
    ]
    base = alt.Chart(pl.DataFrame(rows)).encode(
        x=alt.X("place:O", title=title, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("recovered:Q", title="recovered share", scale=alt.Scale(domain=[0, 1])),
    )
    seeds = base.mark_line(opacity=0.5, strokeWidth=1, color=GREY).encode(detail="seed:N")
    mean = base.mark_line(point=True, strokeWidth=2.5).encode(
        y="mean(recovered):Q",
        detail="recipe:N",
        color=alt.condition(f"datum.recipe == '{OURS}'", alt.value(VERMILION), alt.value(BLUE)),
    )
    titles = {"by_birth": "Who finds the features that are born late?", "by_frequency": "Who finds the rare features?"}
    panels = (seeds + mean).properties(width=190, height=130)
    faceted = panels.facet(alt.Facet("recipe:N", sort=list(RECIPES), title=None), columns=4)
    subtitle = "standard planted suite; grey: single seeds; line: their mean"
    return faceted.properties(title=alt.Title(titles[table], subtitle=subtitle))


def _frontier() -> alt.LayerChart:
    """All features, those born first and those born last that each recipe recovers: a row per recipe."""
    rows = []
    for name in RECIPES:
        found = [result(of_recipe(name, seed)) for seed in SEEDS]
        rows += [{"recipe": name, "of": "all", "recovered": fmean(one["figures"]["recovered"] for one in found)}]
        for of, place in (("born first", 0), ("born last", -1)):
            share = fmean(one["by_birth"]["recovered"][place] for one in found)
            rows.append({"recipe": name, "of": of, "recovered": share})
    ends = ["all", "born first", "born last"]
    order = alt.EncodingSortField("recovered", op="min", order="descending")
    base = alt.Chart(pl.DataFrame(rows)).encode(
        y=alt.Y("recipe:N", sort=order, title=None, axis=alt.Axis(labelLimit=320)),
        x=alt.X("recovered:Q", title="recovered share", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
    )
    span = base.mark_rule(color=GREY).encode(x="min(recovered):Q", x2="max(recovered):Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        color=alt.Color("of:N", title="features", scale=alt.Scale(domain=ends, range=[GREY, BLUE, VERMILION])),
        shape=alt.Shape("of:N", title="features", scale=alt.Scale(domain=ends, range=SHAPES)),
    )
    subtitle = "standard planted suite, means over seeds, sorted by the least of the three"
    title = alt.Title("Who finds all, and both ends?", subtitle=subtitle)
    return (span + points).properties(width=420, height=24 * len(RECIPES), title=title)


TABLES: dict[str, Callable[[], str]] = {
    "recipes": _recipes,
    "ends": _ends,
    "cost": _cost,
    "unseen": _unseen,
    "choosing": _choosing,
    "nulls": _nulls,
    "relations": _relations,
    "shrinkage": _shrinkage,
    "trust": _trust,
}
