"""What each stage of a study holds in memory at its peak, part by part."""

from typing import TYPE_CHECKING

from ontogeny.plan.sizes import FEATURES, FLOAT, GB, Part, Parts, training_parts
from ontogeny.progress import started_together

if TYPE_CHECKING:
    from ontogeny.plan.plan import Plan

PROCESS = 0.65e9
"""Bytes of a process that has loaded PyTorch and transformers and used them once."""


def parts(plan: "Plan", stage: str) -> Parts:
    """What a stage holds at its peak: `train`, `measure`, or `analyse` where that trains dictionaries of its own."""
    own = {"train": _training, "measure": _measuring, "analyse": _analysing}[stage](plan)
    return own | {"models": _models(plan), "process": Part(PROCESS, "", "Python, PyTorch, transformers")}


def _training(plan: "Plan") -> Parts:
    train, n, d = plan.study.train, plan.together, plan.model.width
    tokens = max(1, train.window_tokens // train.batch_size) * train.batch_size
    held, note = (1, "") if plan.store_gb is None else (4, ", four times while it is stored")
    window = Part(held * FLOAT * tokens * n * d, "train.window_tokens", f"{tokens:,} tokens, float32{note}")
    step = training_parts(
        plan.study.dictionary, n_snapshots=n, d_model=d, batch_size=train.batch_size, moments=train.moments
    )
    if plan.is_series:
        step["finished SAEs"] = Part(2 * FLOAT * plan.parameters, FEATURES, "of all snapshots, and joined")
    return _shared(step, plan) | {"window": window}


def _shared(step: Parts, plan: "Plan") -> Parts:
    """What each process holds where torchrun started several that share the features."""
    sharing = started_together() // plan.study.train.replicas
    if sharing <= 1:
        return step
    whole = {"batch"}
    return {
        name: part if name in whole else part._replace(bytes=part.bytes / sharing, note=f"{part.note}, 1/{sharing}")
        for name, part in step.items()
    }


def _analysing(plan: "Plan") -> Parts:
    """The training of the largest dictionary that is held against others."""
    largest = max(plan.study.pareto.features)
    return _training(
        plan.with_dictionary(kind="crosscoder", activation="batch_topk", gate="shared", n_features=largest)
    )


def _measuring(plan: "Plan") -> Parts:
    measure, n, d = plan.study.measure, plan.together, plan.model.width
    n_features, weights = plan.study.dictionary.n_features, FLOAT * plan.parameters
    tokens = measure.model_batch_size * plan.study.corpus.sequence_length
    ranks, places = plan.examples, measure.context_before + 1 + measure.context_after
    return {
        "weights": Part(weights, FEATURES, "float32"),
        "sums": Part(weights, FEATURES, "activations where each feature is active; a chunk's and all"),
        "examples": Part(n_features * ranks * (20 + FLOAT * places), FEATURES, f"{ranks} a feature"),
        "batch": Part(3 * FLOAT * tokens * n * d, "measure.model_batch_size", f"activations of {tokens:,} tokens"),
        "tables": Part(14.0 * plan.codes, "measure.sample_tokens", f"{plan.codes:,.0f} codes"),
        "codes, then logits": Part(
            max(6 * n_features, 3 * plan.model.vocabulary) * FLOAT * tokens,
            "measure.model_batch_size",
            "6 of [token, feature] or 3 of [token, vocabulary]",
        ),
    }


def _models(plan: "Plan") -> Part:
    suite = plan.study.suite
    size = plan.model.truncated_parameters * (4 if suite.dtype == "float32" else 2)
    loaded = plan.together
    if suite.memory_gb is not None:
        loaded = min(loaded, max(1, int(suite.memory_gb * GB // size)))
    whole = size * plan.model.parameters / plan.model.truncated_parameters
    note = f"{loaded} of {plan.n_snapshots} up to {plan.study.hookpoint}, and a whole one while it loads"
    return Part(loaded * size + whole, "suite.memory_gb", note)
