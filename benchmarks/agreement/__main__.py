"""Do four ways to follow features agree, and what does a series cost? `make agreement` writes docs/agreement.md.

All are of one size, on one layer of the reference suite. What was measured is kept and not made again.

Usage: python -m benchmarks.agreement [STUDY] [--runs FOLDER] [--page]
"""

import argparse
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
import polars as pl
from benchmarks.agreement.cold import GAIN, beside_alone, curves, plateaus, taken
from benchmarks.agreement.methods import SAME, compared, methods
from benchmarks.agreement.planted import BATCH, KEY, NEXT_STEPS, STEPS, dated
from benchmarks.measured import Measured

from ontogeny.config.study import StudyConfig, load_study
from ontogeny.study import run_study
from ontogeny.sweep import members

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


def measure(study: StudyConfig, runs: Path, measured: Measured) -> None:
    """Run the sweep's study of its own hookpoint and train what else is not there; keep what it all shows."""
    name, member = next((name, one) for name, one in members(study).items() if one.study.hookpoint == study.hookpoint)
    series = run_study(member.study, out=runs / study.name / name)
    found = list(methods(series, runs / "agreement"))
    measured.add("agreement", [compared(a, b) for a, b in combinations(found, 2)])
    if KEY not in measured:
        measured.add(KEY, dated())
    measured.add("cost", {"series": taken(series), "snapshots": len(series.steps), "cold": curves(series)})
    measured.add("alone", beside_alone(series))
    measured.add("study", {"hookpoint": study.hookpoint, "features": study.dictionary.n_features,
                           "k": study.dictionary.used_k, "tokens": study.train.tokens})  # fmt: skip
    measured.keep_only({"agreement", KEY, "cost", "alone", "study"})


def write_page(measured: Measured) -> None:
    """docs/agreement.md."""
    cost = measured["cost"]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
    environment.filters["correlation"] = correlation
    level, budgets = plateaus(cost["cold"]), sorted({row["tokens"] for row in cost["cold"]})
    # what was tried most where even that was not level
    cold = cost["snapshots"] * fmean(budgets[-1] if tokens is None else tokens for tokens in level.values())
    pairs = {tuple(pair["methods"]): pair for pair in measured["agreement"]}
    text = environment.get_template("page.md.j2").render(
        study=measured["study"], pairs=list(pairs.values()), cost=cost, level=level, cold=cold, alone=measured["alone"],
        budgets=budgets, gain=GAIN, same=SAME,
        named=lambda *names: pairs[names], dated=_means(measured[KEY]),
        steps=STEPS, next_steps=NEXT_STEPS, batch=BATCH,
    )  # fmt: skip
    (ROOT / "docs" / "agreement.md").write_text(text, encoding="utf-8")


def _means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, a row for each way."""
    return (
        pl.DataFrame(rows)
        .group_by("way", maintain_order=True)
        .agg(pl.len().alias("seeds"), pl.exclude("seed").mean())
        .to_dicts()
    )


def correlation(pair: dict[str, Any], name: str, ends: str) -> str:
    """A correlation with its interval; a dash where there is nothing to tell it from."""
    value, low, high = (pair[key] for key in (name, f"{ends}_low", f"{ends}_high"))
    return "–" if value is None else f"{value:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, nargs="?", default=ROOT / "studies" / "english-track.yaml")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    arguments = parser.parse_args()
    measured = Measured("agreement")
    if not arguments.page:
        measure(load_study(arguments.study), arguments.runs, measured)
    write_page(measured)


if __name__ == "__main__":
    main()
