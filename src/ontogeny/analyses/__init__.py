"""Analyses: functions from a run to a table. ANALYSES lists them; none loads torch before it is called.

A study asks for an analysis by its name and gets all its tables. They run in the order of the list; READS names those
whose tables another one reads where the study asks for them too.
"""

from collections.abc import Callable

import polars as pl

from ontogeny.analyses.complexity import complexity, complexity_agreement, complexity_births
from ontogeny.analyses.descriptions import descriptions, detection, detection_snapshots
from ontogeny.analyses.dimensions import dimensions
from ontogeny.analyses.directions import direction_components, directions
from ontogeny.analyses.embedding import umap, umap_directions
from ontogeny.analyses.emergence import births, emergence
from ontogeny.analyses.formation import formation, progress, similarity
from ontogeny.analyses.formed import formed, patterns
from ontogeny.analyses.gate import gate
from ontogeny.analyses.kinds import induction_scores, kind_births, kinds
from ontogeny.analyses.levels import levels
from ontogeny.analyses.lineage import lineage, partings
from ontogeny.analyses.memorisation import memorisation, memorisation_snapshots
from ontogeny.analyses.pareto import pareto
from ontogeny.analyses.phases import phases
from ontogeny.analyses.probes import probes
from ontogeny.analyses.proxy import proxies, proxy
from ontogeny.analyses.senses import senses, token_senses
from ontogeny.analyses.single_saes import single_saes
from ontogeny.analyses.tracking import gaps, identity, track_drift, track_matches
from ontogeny.analyses.turning_point import cosines, drift, turning_point
from ontogeny.run import Run

ANALYSES: dict[str, dict[str, Callable[[Run], pl.DataFrame]]] = {
    "emergence": {"emergence": emergence, "births": births, "lineage": lineage, "partings": partings},
    "turning_point": {"cosines": cosines, "drift": drift, "turning_point": turning_point},
    "phases": {"phases": phases},
    "probes": {"probes": probes, "proxies": proxies, "proxy": proxy},
    "memorisation": {"memorisation": memorisation, "memorisation_snapshots": memorisation_snapshots},
    "single_saes": {"single_saes": single_saes},
    "pareto": {"pareto": pareto},
    "directions": {"directions": directions, "direction_components": direction_components},
    "dimensions": {"dimensions": dimensions},
    "kinds": {"kinds": kinds, "kind_births": kind_births, "induction_scores": induction_scores},
    "complexity": {
        "complexity": complexity,
        "complexity_births": complexity_births,
        "complexity_agreement": complexity_agreement,
    },
    "descriptions": {
        "descriptions": descriptions,
        "detection": detection,
        "detection_snapshots": detection_snapshots,
    },
    "senses": {"token_senses": token_senses, "senses": senses},
    "tracking": {
        "gate": gate,
        "gaps": gaps,
        "track_drift": track_drift,
        "identity": identity,
        "track_matches": track_matches,
    },
    "formation": {
        "similarity": similarity,
        "formation": formation,
        "progress": progress,
        "levels": levels,
        "formed": formed,
        "patterns": patterns,
    },
    "umap": {"umap": umap, "umap_directions": umap_directions},
}
READS: dict[str, tuple[str, ...]] = {
    "tracking": ("single_saes",),
    "formation": ("tracking",),
    "umap": ("formation",),
}
EXTRAS = {"umap": "umap"}
"""Analyses that need an extra of the same name, and the module that it brings."""
ASKS = ("complexity", "descriptions")
"""Analyses that ask the endpoint where the study names one."""
