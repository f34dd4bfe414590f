"""Figures as Vega-Lite specifications, made from a run's tables. One function a figure; FIGURES lists them in the order
of the page."""

from collections.abc import Callable

from ontogeny.config import StudyConfig
from ontogeny.report.figures.axes import Spec
from ontogeny.report.figures.lives import births, kin, strengths, thresholds
from ontogeny.report.figures.lives import trajectory as trajectory
from ontogeny.report.figures.models import divergences, loss, quality, splices
from ontogeny.report.figures.truth import trust
from ontogeny.report.figures.turning import cosines, drift
from ontogeny.run import Run

ALWAYS, TRUTH = "", "truth"
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
    "trust": (TRUTH, trust),
}


def drawn(study: StudyConfig) -> dict[str, Callable[[Run], Spec]]:
    """The figures that a study has the tables for."""
    there = {ALWAYS, *study.analyses, *([TRUTH] if study.truth is not None else [])}
    return {name: draw for name, (needed, draw) in FIGURES.items() if needed in there}
