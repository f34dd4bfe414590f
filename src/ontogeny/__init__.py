"""Ontogeny: when and how the features of a language model form during pre-training.

The public names, nothing else. Each is imported when it is first used, so that `import ontogeny` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ontogeny.activations.stream import stream_activations as stream_activations
    from ontogeny.causal.effects import indirect_effects as indirect_effects
    from ontogeny.causal.relie import reldec as reldec
    from ontogeny.causal.relie import relie as relie
    from ontogeny.config.attribution import TaskConfig as TaskConfig
    from ontogeny.config.learner import CrosscoderConfig as CrosscoderConfig
    from ontogeny.config.learner import SAESeriesConfig as SAESeriesConfig
    from ontogeny.config.study import StudyConfig as StudyConfig
    from ontogeny.corpus.pack import open_corpus as open_corpus
    from ontogeny.dictionaries.crosscoder import Crosscoder as Crosscoder
    from ontogeny.dictionaries.load import load_dictionary as load_dictionary
    from ontogeny.dictionaries.losses import crosscoder_losses as crosscoder_losses
    from ontogeny.dictionaries.sae_series import SAESeries as SAESeries
    from ontogeny.dictionaries.track import train_sae_series as train_sae_series
    from ontogeny.dictionaries.train import train_crosscoder as train_crosscoder
    from ontogeny.errors import InputError as InputError
    from ontogeny.errors import OntogenyError as OntogenyError
    from ontogeny.features.counterparts import compare_runs as compare_runs
    from ontogeny.models.callback import SnapshotCallback as SnapshotCallback
    from ontogeny.models.snapshots import save_snapshot as save_snapshot
    from ontogeny.run import open_run as open_run
    from ontogeny.study import run_study as run_study
    from ontogeny.suites.audit import audit_suite as audit_suite
    from ontogeny.suites.suite import open_suite as open_suite
    from ontogeny.tasks import open_task as open_task
    from ontogeny.truth.planted import plant as plant
    from ontogeny.truth.recovery import score_recovery as score_recovery

_PLACES = {
    "audit_suite": "ontogeny.suites.audit",
    "open_suite": "ontogeny.suites.suite",
    "open_corpus": "ontogeny.corpus.pack",
    "stream_activations": "ontogeny.activations.stream",
    "Crosscoder": "ontogeny.dictionaries.crosscoder",
    "crosscoder_losses": "ontogeny.dictionaries.losses",
    "load_dictionary": "ontogeny.dictionaries.load",
    "train_crosscoder": "ontogeny.dictionaries.train",
    "CrosscoderConfig": "ontogeny.config.learner",
    "SAESeries": "ontogeny.dictionaries.sae_series",
    "train_sae_series": "ontogeny.dictionaries.track",
    "SAESeriesConfig": "ontogeny.config.learner",
    "StudyConfig": "ontogeny.config.study",
    "SnapshotCallback": "ontogeny.models.callback",
    "save_snapshot": "ontogeny.models.snapshots",
    "open_task": "ontogeny.tasks",
    "TaskConfig": "ontogeny.config.attribution",
    "indirect_effects": "ontogeny.causal.effects",
    "relie": "ontogeny.causal.relie",
    "reldec": "ontogeny.causal.relie",
    "plant": "ontogeny.truth.planted",
    "score_recovery": "ontogeny.truth.recovery",
    "run_study": "ontogeny.study",
    "compare_runs": "ontogeny.features.counterparts",
    "open_run": "ontogeny.run",
    "OntogenyError": "ontogeny.errors",
    "InputError": "ontogeny.errors",
}

__all__ = [
    "Crosscoder",
    "CrosscoderConfig",
    "InputError",
    "OntogenyError",
    "SAESeries",
    "SAESeriesConfig",
    "SnapshotCallback",
    "StudyConfig",
    "TaskConfig",
    "audit_suite",
    "compare_runs",
    "crosscoder_losses",
    "indirect_effects",
    "load_dictionary",
    "open_corpus",
    "open_run",
    "open_suite",
    "open_task",
    "plant",
    "reldec",
    "relie",
    "run_study",
    "save_snapshot",
    "score_recovery",
    "stream_activations",
    "train_crosscoder",
    "train_sae_series",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'ontogeny' has no attribute '{name}'")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(_PLACES)
