"""Figures as Vega-Lite specifications, made from a run's tables. One function a figure; FIGURES lists them in the order
of the page."""

from collections.abc import Callable

from ontogeny.report.figures.axes import Spec
from ontogeny.report.figures.formation import formed, gaps, levels, progress, track, umap
from ontogeny.report.figures.lives import births, kin, strengths, thresholds
from ontogeny.report.figures.lives import trajectory as trajectory
from ontogeny.report.figures.models import divergences, loss, quality, splices
from ontogeny.report.figures.truth import trust
from ontogeny.report.figures.turning import cosines, drift, paths, settling
from ontogeny.run import Run

ALWAYS, TRUTH = "", "truth"
BETWEEN_SNAPSHOTS = ("births", "kin", "drift", "settling", "paths", "gaps", "track")
FIGURES: dict[str, tuple[str, Callable[[Run], Spec]]] = {
    "loss": ("phases", loss),
    "divergences": ("phases", divergences),
    "quality": (ALWAYS, quality),
    "splices": (ALWAYS, splices),
    "births": (ALWAYS, births),
    "thresholds": ("emergence", thresholds),
    "kin": ("emergence", kin),
    "strengths": (ALWAYS, strengths),
    "drift": ("turning_point", drift),
    "cosines": ("turning_point", cosines),
    "settling": ("directions", settling),
    "paths": ("directions", paths),
    "progress": ("formation", progress),
    "levels": ("formation", levels),
    "formed": ("formation", formed),
    "umap": ("umap", umap),
    "gaps": ("tracking", gaps),
    "track": ("tracking", track),
    "trust": (TRUTH, trust),
}


def drawn(run: Run) -> dict[str, Callable[[Run], Spec]]:
    """The figures that a run has the tables for; some need two snapshots."""
    there = {ALWAYS, *run.study.analyses, *([TRUTH] if run.study.truth is not None else [])}
    left_out = BETWEEN_SNAPSHOTS if len(run.steps) == 1 else ()
    return {name: draw for name, (needed, draw) in FIGURES.items() if needed in there and name not in left_out}
