"""Settings of the snapshots of a study: where they come from, and a pre-training of our own."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ontogeny.config.schedules import SCHEDULES, check_selection
from ontogeny.config.settings import Positive, Settings, Share
from ontogeny.errors import ConfigError

DEFAULT_MODEL = {
    "model_type": "gpt_neox",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
"""The model that a study pre-trains, where `pretrain.model` does not say otherwise."""


class PretrainConfig(Settings):
    """Pre-training of a small causal LM that saves snapshots on a schedule."""

    model: dict[str, Any] = {}
    """Settings of any transformers decoder configuration; `model_type` defaults to gpt_neox (Pythia's)."""
    steps: Positive = 1000
    batch_size: Positive = 32
    """Sequences a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    final_learning_rate: Share = 0.1
    """Where the cosine ends, as a share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast where the processor computes in it."""
    snapshots: list[Annotated[int, Field(ge=0)]] | Literal["log"] = "log"
    """Steps to save; `log`: 0, the powers of two, and the last."""
    held_out_sequences: Positive = 64
    repeat_share: Share = 0.0
    """Of the contexts in which a passage is said again and again until their end: what induction is learned from."""
    seed: int = 0

    @property
    def schedule(self) -> list[int]:
        """The steps at which a snapshot is saved, ascending, the last step always among them."""
        if self.snapshots == "log":
            wanted = {0} | {2**n for n in range(self.steps.bit_length()) if 2**n <= self.steps}
        else:
            wanted = set(self.snapshots)
        return sorted(wanted | {self.steps})

    @model_validator(mode="after")
    def _snapshots_within(self) -> "PretrainConfig":
        if max(self.schedule) > self.steps:
            raise ConfigError(f"snapshots: step {max(self.schedule)} lies after the last step, {self.steps}")
        return self


class SuiteConfig(Settings):
    """Where the snapshots come from: a folder of saved checkpoints, the hub, or a pre-training of our own."""

    folder: Path | None = None
    repo: str | Annotated[list[str], Field(min_length=1)] | None = None
    """A repository on the hub, `EleutherAI/pythia-160m`; the last part of a published suite's, `pythia-160m`; or
    repositories of one snapshot each, with the steps in their names."""
    pretrain: PretrainConfig | None = None
    steps: list[Annotated[int, Field(ge=0)]] | str = "all"
    """The snapshots to study: their steps; `all` that are there; `log` (the nearest to the powers of two), `every=2`,
    `n=32` (spread evenly over log-steps); or a schedule by its name, such as `pythia`."""
    revisions: str | None = None
    """A regular expression for names of snapshots that are not understood otherwise, with a group `step` and perhaps
    `stage` and `tokens`: `run-(?P<step>\\d+)`."""
    tokens_per_step: Positive | None = None
    """Tokens of one optimiser step, where the suite does not say."""
    stage: str | None = None
    """Of a pre-training that has several, such as `stage2-ingredient1`; None: the first."""
    disk_gb: Annotated[float, Field(gt=0)] | None = None
    """Disk for weights fetched from the hub, in 1e9 bytes: they are dropped when others need the room. None: they are
    kept in the hub client's cache."""
    bad_snapshots: Literal["refuse", "accept"] = "refuse"
    """What to do about snapshots that `ontogeny suites audit` finds fault with."""
    missing: Literal["refuse", "skip"] = "refuse"
    """What to do where a step asked for has no snapshot."""
    drift: Annotated[float, Field(gt=0)] | None = None
    """Of those snapshots, study the first, the last, and each at which activations have moved by this share of their
    norm since the one studied before; None: all."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype that weights are loaded in, whatever the files hold."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory for models that stay loaded, in 1e9 bytes; the others are loaded for each window. None: all stay."""

    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Where the learning-rate warm-up of a folder suite's pre-training ended, where known; drawn in the report."""

    @property
    def warmup_end(self) -> int | None:
        """Step at which the models' learning rate stopped rising, where known."""
        return self.warmup_steps if self.pretrain is None else self.pretrain.warmup_steps

    @property
    def asked_steps(self) -> list[int] | None:
        """The steps asked for; None where that depends on those that are there."""
        if isinstance(self.steps, str):
            return SCHEDULES.get(self.steps)
        return self.steps

    @field_validator("steps")
    @classmethod
    def _known_schedule(cls, steps: list[int] | str) -> list[int] | str:
        if not steps:
            raise ConfigError("steps: an empty list studies no snapshot: give steps, or all")
        return check_selection(steps) if isinstance(steps, str) else steps

    @field_validator("revisions")
    @classmethod
    def _a_grammar(cls, grammar: str | None) -> str | None:
        if grammar is None:
            return None
        try:
            groups = re.compile(grammar).groupindex
        except re.error as error:
            raise ConfigError(f"revisions: '{grammar}' is no regular expression: {error}") from None
        if not {"step", "thousands", "millions"} & groups.keys():
            raise ConfigError(f"revisions: '{grammar}' has no group for the step: write (?P<step>\\d+) where it stands")
        return grammar

    @model_validator(mode="after")
    def _one_source(self) -> "SuiteConfig":
        if sum(one is not None for one in (self.folder, self.repo, self.pretrain)) != 1:
            raise ConfigError("suite: give one of `folder`, `repo` and `pretrain`")
        return self
