"""The report's opening paragraphs: what a study found, every number taken from a table that the sentence names."""

from ontogeny.report.sentences.formation import formation, patterns, tracking
from ontogeny.report.sentences.lives import births, dimensions, sensitivity, turning
from ontogeny.report.sentences.models import beside_saes, dictionary, model
from ontogeny.report.sentences.reading import complexity, descriptions, kinds, proxy, senses
from ontogeny.report.sentences.sentence import Sentence as Sentence
from ontogeny.report.sentences.tasks import tasks
from ontogeny.report.sentences.truth import checks, memorisation
from ontogeny.run import Run


def summary(run: Run) -> list[Sentence]:
    """What the study found, in the order in which one would ask."""
    analyses = run.study.analyses
    return [
        *([model(run)] if "phases" in analyses else []),
        dictionary(run),
        *([beside_saes(run)] if "single_saes" in analyses else []),
        births(run),
        *(sensitivity(run) if "emergence" in analyses else []),
        *(turning(run) if "turning_point" in analyses else []),
        *([kinds(run)] if "kinds" in analyses else []),
        *(complexity(run) if "complexity" in analyses else []),
        *(descriptions(run) if "descriptions" in analyses else []),
        *(senses(run) if "senses" in analyses else []),
        *(proxy(run) if "probes" in analyses else []),
        *(memorisation(run) if "memorisation" in analyses else []),
        *([dimensions(run)] if "dimensions" in analyses else []),
        *([formation(run), patterns(run)] if "formation" in analyses else []),
        *([tracking(run)] if "tracking" in analyses and len(run.steps) > 1 else []),
        *(tasks(run) if run.study.attribution is not None else []),
        *(checks(run) if run.study.truth is not None else []),
    ]
