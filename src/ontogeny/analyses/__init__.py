"""Analyses: one file each, from a run to a table. ANALYSES lists them; none loads torch before it is called."""

from collections.abc import Callable

import polars as pl

from ontogeny.analyses.emergence import emergence
from ontogeny.analyses.phases import phases
from ontogeny.analyses.turning_point import turning_point
from ontogeny.run import Run

ANALYSES: dict[str, Callable[[Run], pl.DataFrame]] = {
    "emergence": emergence,
    "turning_point": turning_point,
    "phases": phases,
}
