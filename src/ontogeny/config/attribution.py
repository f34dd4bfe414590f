"""Settings of tasks and of what features do to them. Loads no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ontogeny.config.settings import Positive, Settings, Share
from ontogeny.errors import ConfigError

METHODS, REPLACEMENTS = ("exact", "atp", "ig"), ("zero", "mean", "corrupted")


class TaskConfig(Settings):
    """One task: a family of minimal pairs, and which of them."""

    family: str
    """A row of FAMILIES in `ontogeny/tasks/`."""
    name: str | None = None
    """What tables and figures call it; None: the family, or the name of its file."""
    files: str | list[str] | None = None
    """Globs of files, for families that read some; plain, .gz, .xz or .zst."""
    items: Positive = 200
    """At most so many, drawn at random."""
    least_count: Annotated[int, Field(ge=0)] = 0
    """Items with a word that stands less often than this in the training text are left out."""
    seed: int = 0

    @property
    def patterns(self) -> list[str]:
        return [self.files] if isinstance(self.files, str) else list(self.files or [])

    @property
    def title(self) -> str:
        """What it is called."""
        stem = Path(self.patterns[0]).name.split(".")[0] if len(self.patterns) == 1 else ""
        return self.name or (f"{self.family} {stem}" if stem and "*" not in stem else self.family)


class AttributionConfig(Settings):
    """What features do for tasks (`ontogeny attribute`)."""

    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    method: Literal["exact", "atp", "ig"] = "ig"
    steps: Positive = 10
    """Points of the path of `ig`."""
    replacement: Literal["zero", "mean", "corrupted"] = "zero"
    """What a feature's code is replaced with: nothing, its mean over held-out tokens, or its code on the item's
    corrupted input."""
    comparisons: list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2)]] | None = None
    """Pairs, triplets or more of steps for RelIE; None: the proposed pair and triplet of each task."""
    normalise: bool = False
    """Whether RelIE takes effects as shares of the snapshot's total, as logits grow in training."""
    relie_of: Literal["mean", "absolute"] = "mean"
    """Whether RelIE is of |mean effect| or of mean |effect|, in which effects of both signs do not cancel."""
    leading: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 5, 10, 20, 50, 100]
    """How many leading features are removed, or kept alone."""
    control_draws: Positive = 5
    """Random sets of features, and of as frequent ones, of every size."""
    exact_features: Annotated[int, Field(ge=0)] = 40
    """Features of each task and snapshot whose exact effect is held against the predicted one."""
    learned_accuracy: Share = 0.5
    """A task counts as learned where its accuracy is above this beyond doubt, at 5 % over all snapshots together."""
    model_batch_size: Positive = 64
    seeds: list[int] = []
    """Seeds of further dictionaries, each trained in full, in which RelIE is measured again; `ontogeny truth` uses the
    same ones where it asks for the same seeds."""
    bootstrap: Annotated[int, Field(ge=20)] = 1000
    seed: int = 0

    def require_steps(self, known: list[int]) -> None:
        """Check that snapshots to be compared are among those known.

        Raises:
            ConfigError: one is not.
        """
        for step in (step for steps in self.comparisons or [] for step in steps):
            if step not in known:
                raise ConfigError(
                    f"attribution.comparisons asks for step {step}, which the study does not have: it has "
                    f"{', '.join(map(str, known))}"
                )

    @model_validator(mode="after")
    def _can_be_compared(self) -> "AttributionConfig":
        for steps in self.comparisons or []:
            if len(set(steps)) < len(steps):
                raise ConfigError(f"attribution.comparisons: {steps} names a step twice: compare different snapshots")
        if self.seeds and self.replacement == "mean":
            raise ConfigError(
                "attribution.seeds: held-out means are known of the study's own dictionary only: leave out seeds, or "
                "replacement: mean"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> "AttributionConfig":
        titles = [task.title for task in self.tasks]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ConfigError(f"attribution.tasks: two tasks are called {', '.join(twice)}: give each a `name`")
        return self
