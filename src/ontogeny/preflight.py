"""What can be known to be wrong with a study before any work is done."""

from collections.abc import Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ontogeny.analyses import ANALYSES, ASKS, EXTRAS
from ontogeny.config.study import StudyConfig
from ontogeny.corpus.pack import corpus_key
from ontogeny.corpus.readers import expand
from ontogeny.errors import ConfigError, did_you_mean
from ontogeny.families import shape_of
from ontogeny.models.names import check_hookpoint, parse_hookpoint
from ontogeny.plan.plan import plan_study
from ontogeny.run import Run, run_folder
from ontogeny.suites.audit import refuse_bad
from ontogeny.suites.selection import select
from ontogeny.suites.suite import Suite, complete_steps, is_pinned, open_suite, study_suite
from ontogeny.tasks import check_family

BEFORE_MODELS = {"pack", "pretrain"}
"""Stages that read no activations."""


def check_study(study: StudyConfig, stages: Set[str], *, out: str | Path | None = None) -> None:
    """Refuse a study whose stages cannot be done.

    Args:
        stages: names of those that are wanted.
        out: the run folder; None for `runs/NAME` below the working directory.
    Raises:
        InputError: a file, snapshot, hookpoint or analysis does not exist, models cannot read the corpus's contexts,
            tokenizers differ, or the study does not fit into this machine.
    """
    check_names(study)
    hookpoint = parse_hookpoint(study.hookpoint)
    suite = None if study.suite.pretrain is not None else _checked_suite(study, out)
    steps, config = (
        _to_pretrain(study, Run(run_folder(study, out))) if suite is None else (suite.steps, suite.model_config())
    )
    if not stages <= BEFORE_MODELS:
        check_hookpoint(config, hookpoint)
    for step in (study.analysis.single_sae_steps or []) if "single_saes" in study.analyses else []:
        if step not in steps and study.suite.drift is None:
            raise ConfigError(f"analysis.single_sae_steps: the study has no snapshot of step {step}: it has {steps}")
    if study.attribution is not None and study.suite.drift is None:
        study.attribution.require_steps(steps)
    corpus_key(study.corpus, tokenizer=None if suite is None else suite.tokenizer())
    context = shape_of(config).context
    if context is not None and study.corpus.sequence_length > context:
        raise ConfigError(
            f"corpus.sequence_length is {study.corpus.sequence_length}, but the models read {context} tokens at most"
        )
    if not stages <= BEFORE_MODELS and study.suite.drift is None:
        require_room(study, stages, out=out)


def require_room(study: StudyConfig, stages: Set[str], *, out: str | Path | None = None) -> None:
    """Refuse a study that does not fit into this machine, as far as its stages are still to be done."""
    done = Run(run_folder(study, out)).manifest["stages"]
    plan_study(study, out).require_room(stages - {"schedule"} - done.keys())


def require_shareable(study: StudyConfig) -> None:
    """Refuse what several processes cannot do together."""
    if study.dictionary.kind == "sae_series":
        raise ConfigError("the SAEs of a series follow each other: run the study by one process, without torchrun")
    if study.train.store_gb is not None:
        raise ConfigError("train.store_gb: several processes harvest while they train: leave it out")
    if study.train.batch_size % study.train.replicas:
        raise ConfigError(
            f"train.replicas: {study.train.replicas} cannot share batches of {study.train.batch_size} tokens equally: "
            "change train.batch_size"
        )


def check_names(study: StudyConfig) -> None:
    """Check what needs no suite: names of analyses and tasks, files of these and of the corpus.

    Raises:
        InputError: an analysis, a family of tasks or a file does not exist.
    """
    _check_analyses(study)
    if study.analysis.endpoint is not None and set(study.analyses) & set(ASKS):
        study.analysis.endpoint.key()
    expand([one for one in study.corpus.patterns if one != "pydocs" and not one.startswith("datasets:")])
    for task in study.attribution.tasks if study.attribution is not None else []:
        check_family(task)
        expand(task.patterns)


def _check_analyses(study: StudyConfig) -> None:
    for name in study.analyses:
        if name not in ANALYSES:
            raise ConfigError(f"no analysis '{name}'{did_you_mean(name, ANALYSES)}: there are {', '.join(ANALYSES)}")
        if name in EXTRAS and find_spec(EXTRAS[name]) is None:
            raise ConfigError(f"the analysis {name} needs an extra: pip install 'ontogeny[{name}]'")


def _checked_suite(study: StudyConfig, out: str | Path | None) -> Suite:
    """The suite that a study names; it is audited where no run has pinned it yet."""
    run = Run(run_folder(study, out))
    suite = study_suite(study, run)
    suite.width()
    if study.suite.bad_snapshots == "refuse" and not is_pinned(run, study.suite):
        refuse_bad(suite)
    return suite


def _is_pretrained(run: Run, study: StudyConfig, steps: list[int]) -> bool:
    """Whether a run has the models that a study asks for; then they need not be built to see that they can be."""
    if "pretrain" not in run.manifest["stages"]:
        return False
    try:
        before = run.study
    except ConfigError:
        return False
    same = (before.suite.pretrain, before.corpus) == (study.suite.pretrain, study.corpus)
    return same and set(steps) <= set(complete_steps(run.suite_folder))


def _to_pretrain(study: StudyConfig, run: Run) -> tuple[list[int], dict[str, Any]]:
    """Steps and configuration of models that the study pre-trains itself, or has pre-trained."""
    settings = study.suite
    assert settings.pretrain is not None
    steps = select(settings.pretrain.schedule, settings.steps, missing=settings.missing, of=study.name)
    if _is_pretrained(run, study, steps):
        return steps, open_suite(run.suite_folder).model_config()
    from ontogeny.models.pretrain import model_config

    length = study.corpus.sequence_length
    return steps, model_config(settings.pretrain.model, vocab_size=512, sequence_length=length).to_dict()
