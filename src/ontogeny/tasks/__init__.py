"""Tasks: sets of minimal pairs. FAMILIES lists what they can be made from; none loads torch."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.config.attribution import TaskConfig
from ontogeny.corpus.readers import expand
from ontogeny.errors import TaskError, did_you_mean
from ontogeny.tasks.agreement import CONSTRUCTIONS, agreement
from ontogeny.tasks.files import READERS
from ontogeny.tasks.induction import induction
from ontogeny.tasks.ioi import ioi
from ontogeny.tasks.task import Item, Pair, Task, prepare

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPARE = 20
"""Pairs generated for each item that is asked for, as some cannot be used."""
Pairs = Iterator[Pair] | Iterator[Item]


def _from_files(family: str) -> Callable[[TaskConfig, "PreTrainedTokenizerFast"], Pairs]:
    def read(config: TaskConfig, _tokenizer: "PreTrainedTokenizerFast") -> Iterator[Pair]:
        pairs = [pair for path in expand(config.patterns) for pair in READERS[family](path)]
        return (pairs[place] for place in np.random.default_rng(config.seed).permutation(len(pairs)).tolist())

    return read


def _agreement(construction: str) -> Callable[[TaskConfig, "PreTrainedTokenizerFast"], Pairs]:
    return lambda config, _: agreement(construction, seed=config.seed)


FAMILIES: dict[str, Callable[[TaskConfig, "PreTrainedTokenizerFast"], Pairs]] = {
    **{name: _from_files(name) for name in READERS},
    **{f"agreement_{name}": _agreement(name) for name in CONSTRUCTIONS},
    "ioi": lambda config, tokenizer: ioi(SPARE * config.items, tokenizer, seed=config.seed),
    "induction": lambda config, tokenizer: induction(config.items, tokenizer, seed=config.seed),
}


def open_task(
    task: str | TaskConfig,
    *,
    tokenizer: "PreTrainedTokenizerFast",
    context: int | None = None,
    words: Counter[str] | None = None,
    aligned: bool = False,
) -> Task:
    """Read or generate a task.

    Args:
        task: the name of a family that needs no more settings, such as `ioi`, or settings.
        tokenizer: of the suite.
        context: tokens that the models read.
        words: how often each case-folded word stands in the training text, where `least_count` is asked for.
        aligned: only items with a corrupted input.
    Raises:
        TaskError: no such family, a file is of another kind, or no item is left; says what was dropped and why.
    """
    config = TaskConfig(family=task) if isinstance(task, str) else task
    check_family(config)
    if config.least_count and words is None:
        raise TaskError(f"task {config.title}: least_count needs the training text's words (count_words(corpus))")
    prepared = prepare(
        config.title,
        FAMILIES[config.family](config, tokenizer),
        tokenizer,
        items=config.items,
        context=context,
        words=words,
        least_count=config.least_count,
        aligned=aligned,
    )
    if len(prepared) == 0:
        why = ", ".join(f"{count:,}: {reason}" for reason, count in prepared.dropped.items()) or "it has no pairs"
        raise TaskError(f"task {config.title}: no item is left ({why}): ask for less, or for another task")
    return prepared


def check_family(config: TaskConfig) -> None:
    """Check what can be known to be wrong with a task before it is read.

    Raises:
        TaskError: there is no such family, or it reads files and none are given.
    """
    if config.family not in FAMILIES:
        near = did_you_mean(config.family, FAMILIES)
        raise TaskError(f"no task family '{config.family}'{near}: there are {', '.join(FAMILIES)}")
    if config.family in READERS and not config.patterns:
        raise TaskError(f"task {config.title}: the family {config.family} reads files: give `files`")
