"""Figures as Vega-Lite specifications, made from a run's tables. One function a figure; FIGURES lists them in the order
of the page."""

from collections.abc import Callable

from ontogeny.report.figures.axes import Spec
from ontogeny.report.figures.formation import formed, gaps, levels, progress, track, umap
from ontogeny.report.figures.lives import births, dimensions, kin, strengths, thresholds
from ontogeny.report.figures.lives import trajectory as trajectory
from ontogeny.report.figures.models import divergences, loss, pareto, quality, splices
from ontogeny.report.figures.reading import complexity, detection, induction, kinds, proxy, senses
from ontogeny.report.figures.tasks import (
    ablation,
    accuracy,
    effects,
    elsewhere,
    half_margin,
    prediction,
    relie,
    turnover,
)
from ontogeny.report.figures.truth import memorisation, trust
from ontogeny.report.figures.turning import cosines, drift, paths, settling
from ontogeny.run import Run

ALWAYS, TRUTH, TASKS = "", "truth", "tasks"
BETWEEN_SNAPSHOTS = ("births", "kin", "drift", "settling", "paths", "gaps", "track", "turnover", "relie")
FIGURES: dict[str, tuple[str, Callable[[Run], Spec]]] = {
    "loss": ("phases", loss),
    "divergences": ("phases", divergences),
    "quality": (ALWAYS, quality),
    "pareto": ("pareto", pareto),
    "splices": (ALWAYS, splices),
    "births": (ALWAYS, births),
    "thresholds": ("emergence", thresholds),
    "kin": ("emergence", kin),
    "strengths": (ALWAYS, strengths),
    "drift": ("turning_point", drift),
    "cosines": ("turning_point", cosines),
    "settling": ("directions", settling),
    "paths": ("directions", paths),
    "kinds": ("kinds", kinds),
    "induction": ("kinds", induction),
    "complexity": ("complexity", complexity),
    "detection": ("descriptions", detection),
    "senses": ("senses", senses),
    "proxy": ("probes", proxy),
    "memorisation": ("memorisation", memorisation),
    "dimensions": ("dimensions", dimensions),
    "progress": ("formation", progress),
    "levels": ("formation", levels),
    "formed": ("formation", formed),
    "umap": ("umap", umap),
    "gaps": ("tracking", gaps),
    "track": ("tracking", track),
    "accuracy": (TASKS, accuracy),
    "effects": (TASKS, effects),
    "ablation": (TASKS, ablation),
    "half_margin": (TASKS, half_margin),
    "elsewhere": (TASKS, elsewhere),
    "prediction": (TASKS, prediction),
    "turnover": (TASKS, turnover),
    "relie": (TASKS, relie),
    "trust": (TRUTH, trust),
}


def _rows_of(table: str) -> Callable[[Run], bool]:
    return lambda run: len(run.table(table)) > 0


def _learned(run: Run) -> bool:
    return bool(run.table("tasks")["learned"].any())


def _tried_elsewhere(run: Run) -> bool:
    return bool((run.table("ablation")["condition"] == "other task").any())


ONLY_WHERE: dict[str, Callable[[Run], bool]] = {
    "ablation": _learned,
    "half_margin": _learned,
    "elsewhere": _tried_elsewhere,
    "prediction": _rows_of("exact"),
    "senses": _rows_of("senses"),
    "detection": _rows_of("detection_snapshots"),
    "proxy": _rows_of("proxy"),
    "memorisation": lambda run: run.table("memorisation_snapshots")["gap"].is_not_null().any(),
}
"""Figures of tables that may be empty, or say that there is nothing to draw."""


def asked(run: Run) -> list[str]:
    """The figures that a run's study asks for; some need two snapshots."""
    there = {ALWAYS, *run.study.analyses}
    there |= ({TRUTH} if run.study.truth is not None else set()) | (
        {TASKS} if run.study.attribution is not None else set()
    )
    left_out = BETWEEN_SNAPSHOTS if len(run.steps) == 1 else ()
    return [name for name, (needed, _) in FIGURES.items() if needed in there and name not in left_out]


def has_rows(run: Run, name: str) -> bool:
    """Whether there is anything to draw in a figure that was asked for."""
    return name not in ONLY_WHERE or ONLY_WHERE[name](run)


def drawn(run: Run) -> dict[str, Callable[[Run], Spec]]:
    """The figures that a run has."""
    return {name: FIGURES[name][1] for name in asked(run) if has_rows(run, name)}
