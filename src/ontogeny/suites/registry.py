"""Published suites and what they call their snapshots. One row a suite.

Sources: the model cards of the repositories; tokens of a step of Pythia, Biderman et al. 2023, arXiv 2304.01373.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ontogeny.errors import SuiteError, did_you_mean

UNITS = {"M": 10**6, "B": 10**9, "T": 10**12}


class Revision(NamedTuple):
    """What the name of a snapshot says.

    Attributes:
        stage: of the pre-training, where it has several, such as `stage1` or `stage2-ingredient1`.
        step: as the name has it: optimiser steps as a rule, else what `PublicSuite.counts` says.
        tokens: read until then, where the name or the suite says.
    """

    stage: str | None
    step: int
    tokens: int | None


@dataclass(frozen=True)
class PublicSuite:
    """A family of published pre-training runs.

    Attributes:
        name: what we call it.
        repositories: on the hub, one a model; a regular expression with a group `step` where each step has one.
        grammar: of revision names, a regular expression with a group `step` (or `millions`, or `thousands`), and
            perhaps `stage` and `tokens`.
        tokens_per_step: where it is the same throughout.
        counts: what `step` counts.
        note: what to know.
    """

    name: str
    repositories: tuple[str, ...]
    grammar: str
    tokens_per_step: int | None = None
    counts: str = "steps"
    note: str = ""

    def parse(self, revision: str) -> Revision | None:
        """What a revision's name says; None where it is none of this suite's."""
        return parse_revision(revision, self.grammar, tokens_per_step=self.tokens_per_step)


def parse_revision(revision: str, grammar: str, *, tokens_per_step: int | None = None) -> Revision | None:
    """What a name says by a grammar; None where it does not match as a whole."""
    match = re.fullmatch(grammar, revision)
    if match is None:
        return None
    groups = match.groupdict()
    step = next(int(groups[name]) * scale for name, scale in SCALES.items() if groups.get(name) is not None)
    tokens = groups.get("tokens")
    count = None if tokens is None else int(tokens[:-1]) * UNITS[tokens[-1]]
    return Revision(groups.get("stage"), step, count if tokens_per_step is None else step * tokens_per_step)


SCALES = {"step": 1, "thousands": 10**3, "millions": 10**6}
"""Groups of a grammar that say which step it is."""


def _sizes(form: str, *sizes: str) -> list[str]:
    return [form.format(size) for size in sizes]


PYTHIA_SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
STEP = r"step(?P<step>\d+)"
TOKENS = r"tokens(?P<tokens>\d+[MBT])"
STAGE = r"(?:(?P<stage>stage\d+(?:-ingredient\d+)?)-)?"
SUITES: dict[str, PublicSuite] = {
    suite.name: suite
    for suite in (
        PublicSuite(
            "Pythia",
            (
                *_sizes("EleutherAI/pythia-{}", *PYTHIA_SIZES),
                *_sizes("EleutherAI/pythia-{}-deduped", *PYTHIA_SIZES[2:]),
            ),
            STEP,
            tokens_per_step=2_097_152,
            note="some branches of some sizes serve final weights: audit",
        ),
        PublicSuite(
            "PolyPythias",
            tuple(f"EleutherAI/pythia-{size}-seed{seed}" for size in PYTHIA_SIZES[:5] for seed in range(1, 10)),
            STEP,
            tokens_per_step=2_097_152,
            note="nine further seeds of five sizes",
        ),
        PublicSuite(
            "OLMo 1", ("allenai/OLMo-1B-0724-hf", "allenai/OLMo-7B-0724-hf", "allenai/OLMo-1B-hf"), f"{STEP}-{TOKENS}"
        ),
        PublicSuite(
            "OLMo 2",
            ("allenai/OLMo-2-0425-1B", "allenai/OLMo-2-1124-7B", "allenai/OLMo-2-1124-13B"),
            f"{STAGE}{STEP}-{TOKENS}",
            note="stage2 is the annealing, once for each ingredient",
        ),
        PublicSuite(
            "OLMo 3", ("allenai/Olmo-3-1025-7B",), f"{STAGE}{STEP}(?:-{TOKENS})?"
        ),
        PublicSuite(
            "CRFM GPT-2",
            tuple(
                f"stanford-crfm/{name}"
                for name in (
                    "alias-gpt2-small-x21", "battlestar-gpt2-small-x49", "caprica-gpt2-small-x81",
                    "darkmatter-gpt2-small-x343", "expanse-gpt2-small-x777", "arwen-gpt2-medium-x21",
                    "beren-gpt2-medium-x49", "celebrimbor-gpt2-medium-x81", "durin-gpt2-medium-x343",
                    "eowyn-gpt2-medium-x777",
                )
            ),
            r"checkpoint-(?P<step>\d+)",
        ),
        PublicSuite(
            "BLOOM",
            tuple(_sizes("bigscience/bloom-{}-intermediate", "560m", "1b1", "7b1")),
            r"global_step(?P<step>\d+)",
            note="revisions are git tags; 7b1's 100k equals its 200k",
        ),
        PublicSuite("Amber", ("LLM360/Amber",), r"ckpt_(?P<step>\d+)", counts="snapshots"),
        PublicSuite(
            "Crystal",
            ("LLM360/CrystalCoder", "LLM360/Crystal"),
            r"CrystalCoder_(?P<stage>phase\d+)_checkpoint_(?P<step>\d+)",
            note="its code is not part of transformers",
        ),
        PublicSuite(
            "SmolLM2",
            tuple(_sizes("HuggingFaceTB/SmolLM2-{}-intermediate-checkpoints", "135M", "360M", "1.7B")),
            r"step-(?P<step>\d+)",
        ),
        PublicSuite(
            "SmolLM3",
            ("HuggingFaceTB/SmolLM3-3B-checkpoints",),
            r"(?P<stage>stage\d+|lc-[\w-]+?|it-[\w-]+?)-step-(?P<step>\d+)",
            note="main has no weights",
        ),
        PublicSuite("Apertus", ("swiss-ai/Apertus-8B-2509", "swiss-ai/Apertus-70B-2509"), f"{STEP}-{TOKENS}"),
        PublicSuite(
            "MultiBERTs",
            (r"google/multiberts-seed_\d+-step_(?P<thousands>\d+)k",),
            r"google/multiberts-seed_\d+-step_(?P<thousands>\d+)k",
            note="one repository a step; encoders, which no decoder's dictionary fits",
        ),
        PublicSuite(
            "FineWeb ablations",
            (
                "HuggingFaceFW/ablation-model-fineweb-edu", "HuggingFaceFW/ablation-model-fineweb-v1",
                "HuggingFaceFW/ablation-model-c4", "HuggingFaceFW/ablation-model-refinedweb",
                "HuggingFaceFW/ablation-model-slimpajama", "HuggingFaceFW/ablation-model-the-pile",
            ),
            r"step-(?P<step>\d+)-(?P<tokens>\d+B)T",
        ),
        PublicSuite("BabyLM", (r"BabyLM-community/.+",), r"chck_(?P<millions>\d+)M", counts="words"),
    )
}  # fmt: skip
ANY = rf"{STAGE}(?:step|checkpoint|global_step|ckpt|iter)[-_]?(?P<step>\d+)(?:-{TOKENS})?"
"""Names that are understood in repositories and folders that no row knows."""


def find_suite(name: str) -> tuple[str, PublicSuite]:
    """The repository and the suite of a name: a repository, or the last part of one, such as `pythia-160m`.

    A repository that no suite knows is taken as it is, its revisions by the names in common use.

    Raises:
        SuiteError: it is neither a repository nor part of one that is known.
    """
    for suite in SUITES.values():
        for repository in suite.repositories:
            if name.casefold() in (repository.casefold(), repository.split("/")[1].casefold()):
                return repository, suite
            if ("(?P<" in repository or ".+" in repository) and re.fullmatch(repository, name):
                return name, suite
    if name.count("/") == 1 and all(name.split("/")):
        return name, PublicSuite(name, (name,), ANY)
    known = [repository.split("/")[1] for suite in SUITES.values() for repository in suite.repositories]
    raise SuiteError(
        f"no suite '{name}'{did_you_mean(name, known)}: give a folder, a repository such as EleutherAI/pythia-160m, or "
        "one of `ontogeny suites list`"
    )


def parse_all(revisions: Iterable[str], suite: PublicSuite) -> dict[str, Revision]:
    """Revisions that are snapshots, in order of stage and step."""
    found = {name: parsed for name in revisions if (parsed := suite.parse(name)) is not None}
    return dict(sorted(found.items(), key=lambda item: (item[1].stage or "", item[1].step)))
