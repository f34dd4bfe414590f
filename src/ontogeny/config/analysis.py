"""Settings of the analyses of a study, and of the endpoint that some of them ask."""

import os
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ontogeny.config.settings import Positive, Settings, Share
from ontogeny.errors import ConfigError


class EndpointConfig(Settings):
    """A language model behind an OpenAI-compatible endpoint."""

    url: str
    """Up to and without `/chat/completions`; it ends in `/v1` as a rule."""
    model: str
    key_variable: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is written nowhere. None: no key."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 400}
    """What else a request says; `max_tokens` (or `max_completion_tokens`) must be there, for the budget's sake."""
    concurrency: Positive = 8
    """Requests under way at a time."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for one reply."""
    attempts: Positive = 5
    """How often a request is sent that fails or is refused for now, and how often a reply of the wrong form is asked
    for again."""
    budget_tokens: Positive = 1_000_000
    """The most tokens, of questions and replies together, that a run may ever ask for."""

    def key(self) -> str | None:
        """The key that the endpoint asks for; None where it asks for none.

        Raises:
            ConfigError: its environment variable is not set.
        """
        if self.key_variable is None:
            return None
        if not (key := os.environ.get(self.key_variable)):
            raise ConfigError(
                f"{self.url} needs a key, but the environment variable {self.key_variable} is not set: set it, or say "
                "`key_variable: null`"
            )
        return key

    @property
    def longest_reply(self) -> int:
        """Tokens of a reply at most."""
        return self.options.get("max_tokens") or self.options["max_completion_tokens"]

    @field_validator("options")
    @classmethod
    def _bounded(cls, options: dict[str, Any]) -> dict[str, Any]:
        limit = options.get("max_tokens") or options.get("max_completion_tokens")
        if not isinstance(limit, int) or limit < 1:
            raise ConfigError("options: give max_tokens (or max_completion_tokens), the most tokens of a reply")
        if options.get("n", 1) != 1:
            raise ConfigError("options: leave out n: one reply is asked for")
        return options


class AnalysesConfig(Settings):
    """Settings of the analyses."""

    phase_tokens: Positive = 131_072
    """Held-out tokens for losses and n-gram bounds."""
    kl_tokens: Positive = 16_384
    alive_thresholds: list[Annotated[float, Field(gt=0, le=1)]] = [0.3, 0.5, 0.7]
    """Births are counted at each of these and at `measure.alive_threshold`."""
    kin_threshold: Share = 0.4
    """A feature born with no earlier one of this kinship is `novel`."""
    single_sae_steps: list[Annotated[int, Field(ge=0)]] | None = None
    """Snapshots at which an SAE is trained beside the dictionary; None: the first, the middle and the last."""
    pareto_features: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Sizes of the dictionaries that are held against SAEs; None: half the study's, its own, and twice that."""
    pareto_k: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Active features of each; None: half the study's k, its own, twice and four times that."""
    pareto_tokens: Positive | None = None
    """Tokens that each is trained on; None: a fifth of the study's."""
    independent_start: bool = False
    """Whether a second dictionary, its W_dec drawn for each snapshot, is trained for the turning point."""
    formation_examples: Annotated[int, Field(ge=2)] = 25
    """Leading tokens of a feature whose activations are compared, one a sequence."""
    least_examples: Annotated[int, Field(ge=2)] = 10
    """Features with fewer leading tokens among the sampled ones have no progress and no level."""
    random_tokens: Annotated[int, Field(ge=2)] = 2000
    """Tokens of the random set that they are held against."""
    feature_space_features: Annotated[int, Field(ge=0)] = 256
    """Features whose examples are also compared by their codes."""
    same_meaning: Share = 0.7
    """Correlation of a feature's codes at two snapshots from which it means the same at both."""
    track_controls: list[Literal["reverse", "null", "order"]] = ["reverse", "null"]
    """Further series to hold an SAE series against: in the other direction, on the last snapshot again and again, on
    the snapshots in a random order."""
    language: str = "english"
    """Of the text, for stems; one that Snowball has a stemmer for."""
    endpoint: EndpointConfig | None = None
    """A language model that is asked where an analysis can do with one; None: what can be had without is."""
    scored_features: Positive = 500
    """Features whose complexity it is asked for, drawn at random."""
    scored_examples: Positive = 10
    """Examples of each that it is shown."""
    described_features: Positive = 200
    """Features that it describes, drawn at random."""
    detection_items: Annotated[int, Field(ge=2)] = 10
    """Excerpts on which a feature is active, and as many on which it is not, by which its description is scored."""
    bootstrap: Positive = 1000
    seed: int = 0
