"""Case studies of small models: `make gallery` writes docs/gallery.md. Each can be made alone.

Usage: python -m benchmarks.gallery [collapse|kinds|induction|seeds|models|published] [--runs FOLDER] [--page]
"""

import argparse
from pathlib import Path
from types import ModuleType

import jinja2
import vl_convert
from benchmarks.gallery import collapse, induction, kinds, models, published, seeds
from benchmarks.measured import Measured

from ontogeny.report.page import PADDING
from ontogeny.study import run_study

ROOT = Path(__file__).resolve().parents[2]
CASES: dict[str, ModuleType] = {
    "collapse": collapse, "kinds": kinds, "induction": induction, "seeds": seeds, "models": models,
    "published": published,
}  # fmt: skip


def measure(case: ModuleType, runs: Path) -> dict:
    """Run a case's studies as far as it needs them; what is done is not done again."""
    studies = [ROOT / "studies" / f"{name}.yaml" for name in case.STUDIES]
    return case.facts(*(run_study(study, out=runs / study.stem, until=case.STAGE) for study in studies))


def write_page(measured: Measured) -> None:
    """docs/gallery.md and docs/images/gallery-*.svg, of the cases that were measured."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
    found = {name: measured[name] for name in CASES if name in measured}
    for name, facts in found.items():
        image = ROOT / "docs" / "images" / f"gallery-{name}.svg"
        drawn = CASES[name].chart(facts).to_dict() | {"padding": PADDING}
        image.write_text(vl_convert.vegalite_to_svg(drawn), encoding="utf-8")
    text = environment.get_template("page.md.j2").render(
        **{name: CASES[name].shown(facts) for name, facts in found.items()}
    )
    (ROOT / "docs" / "gallery.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    arguments = parser.parse_args()
    measured = Measured("gallery")
    for name in () if arguments.page else arguments.cases or CASES:
        measured.add(name, measure(CASES[name], arguments.runs))
    write_page(measured)


if __name__ == "__main__":
    main()
