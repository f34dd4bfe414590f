"""Settings of the learners: what a dictionary is, and how it is optimised. Loads no torch."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ontogeny.config.settings import Positive, Settings, Share
from ontogeny.errors import ConfigError


class DictionaryConfig(Settings):
    """What a dictionary is and what it is penalised for."""

    kind: Literal["crosscoder", "sae_series"] = "crosscoder"
    """`crosscoder`: one code for all snapshots; `sae_series`: an SAE for each, trained on from its neighbour's."""
    n_features: Positive = 4096
    activation: Literal["relu", "jumprelu", "topk", "batch_topk"] = "batch_topk"
    k: Positive | None = 32
    """Number of active features per token (topk), or its mean (batch_topk)."""
    gate: Literal["shared", "per_snapshot"] = "shared"
    score: Literal["l2", "sum", "max"] = "l2"
    """What features compete by under topk and batch_topk: z times √Σ strength², Σ strength or max strength."""
    encoder: Literal["sum", "mean"] = "sum"
    """Whether encoder outputs are a sum over snapshots or their mean."""
    sparsity: Literal["l1", "tanh", "tanh_quad", "none"] | None = None
    """None: `l1` for relu, `tanh_quad` for jumprelu, `none` for the others."""
    sparsity_weight: Annotated[float, Field(ge=0)] = 2.0
    """λ; the reconstruction it stands beside is summed over d_model and snapshots, mean over tokens."""
    apply_b_dec_to_input: bool = False

    @property
    def sparsity_loss(self) -> str:
        return self.sparsity or {"relu": "l1", "jumprelu": "tanh_quad"}.get(self.activation, "none")

    @property
    def used_k(self) -> int | None:
        """k where the activation takes one."""
        return self.k if self.activation in ("topk", "batch_topk") else None

    @model_validator(mode="after")
    def _fits(self) -> "DictionaryConfig":
        if self.activation in ("topk", "batch_topk") and (self.k is None or self.k > self.n_features):
            raise ConfigError(
                f"dictionary: {self.activation} needs k in 1..n_features = {self.n_features}, found {self.k}"
            )
        if self.gate == "per_snapshot" and self.activation != "jumprelu":
            raise ConfigError(f"dictionary: the per_snapshot gate is for jumprelu, found {self.activation}")
        if self.gate == "per_snapshot" and self.kind == "sae_series":
            raise ConfigError("dictionary: the per_snapshot gate is for a crosscoder; in a series each SAE has its own")
        return self


class OptimisationConfig(Settings):
    """How a dictionary is trained."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """None: 3 / (snapshots · d_model), at most 0.006 (docs/LOG.md)."""
    warmup: Share = 0.02
    """Share of the steps over which the learning rate rises."""
    decay: Share = 0.2
    """Share of the steps, at the end, over which it falls to zero."""
    sparsity_warmup: Share = 0.1
    """Share of the steps over which λ rises, or k falls from `k_start`."""
    k_start: Positive | None = None
    """Where k starts; None: at k itself, which explained more in short trainings (docs/LOG.md)."""
    threshold_start: Annotated[float, Field(gt=0)] = 0.1
    """Where JumpReLU's thresholds start, in units of code times strength."""
    threshold_learning_rate: Annotated[float, Field(ge=0)] = 0.1
    """Learning rate of JumpReLU's thresholds, as a share of the others'."""
    threshold_parameter: Literal["log", "direct"] = "log"
    """Whether thresholds are learned as logarithms or directly (kept at zero or above)."""
    preactivation_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that pulls dead features' encoder outputs up to their thresholds (JumpReLU)."""
    decoder_start: Literal["shared", "independent"] = "shared"
    """Whether one W_dec is drawn and copied to all snapshots, or one for each."""
    bias_start: Literal["mean", "zero"] = "mean"
    """Whether b_dec starts at the mean activation, which then is encoded as zero, or all biases at zero."""
    normalisation: Literal["mean", "robust"] = "mean"
    """`mean`: √d_model / mean norm; `robust`: √d_model / median norm of the centred activations."""
    encode_dtype: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: which features are active is found by products of that precision, faster where a processor has them;
    the codes of those that are found are float32."""
    kernels: Literal["auto", "searching", "compiled", "torch"] = "auto"
    """What makes products with few active entries: functions that this machine's C compiler builds at their first use,
    or PyTorch's; `searching`: compiled ones, and TopK's and BatchTopK's active entries are searched for by bfloat16
    products and told by exact ones; `auto`: the fastest here. Results differ in their last bits."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """Of Adam, for encoder and decoder: `bfloat16` ones take half the memory; they are rounded at random, so that small
    changes are not lost."""
    aux_k: Annotated[int, Field(ge=0)] | None = None
    """Dead features that reconstruct a token's residual (AuxK); None: k, or 256 where there is none; 0: none do."""
    aux_weight: Annotated[float, Field(ge=0)] = 1.0
    aux_reach: Share = 0.02
    """Share of the tokens on which the encoder output of a dead feature is kept positive: every tenth step, until the
    learning rate falls, its bias is raised to that. AuxK has no gradient elsewhere. 0 switches it off."""
    dead_after_tokens: Positive | None = None
    """A feature silent on this many tokens counts as dead while training; None: on a two-hundredth of the training's,
    and on 10,000 at least."""
    norm_tokens: Positive = 8192
    """Tokens from which norm_scale is measured before the first step."""
    dtype: Literal["float32"] = "float32"
    seed: int = 0


class LearnerConfig(OptimisationConfig, DictionaryConfig):
    """What a dictionary is, and how it is trained."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> "LearnerConfig":
        if self.warmup + self.decay > 1:
            raise ConfigError(f"train: warmup {self.warmup:g} and decay {self.decay:g} are more than all the steps")
        return self

    @model_validator(mode="after")
    def _starts(self) -> "LearnerConfig":
        if (self.k_start or 1) > self.n_features:
            raise ConfigError(f"train: k_start needs to lie in 1..n_features = {self.n_features}, found {self.k_start}")
        return self


class CrosscoderConfig(LearnerConfig):
    """Settings of `train_crosscoder`."""

    steps: Positive | None = None
    """None: until the batches end; the learning rate then falls only if their number is known."""


def _listed(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
# one value for every gap of a series, or a list
Rates = Annotated[list[Rate], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Rate | list[Rate])]
Weights = Annotated[
    list[Weight], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Weight | list[Weight])
]
Shares = Annotated[
    list[Share], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Share | list[Share])
]
Counts = Annotated[
    list[Positive], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Positive | list[Positive])
]


class SeriesSettings(Settings):
    """How the SAEs of a series follow each other."""

    next_learning_rate: Rates = [0.1]
    """Learning rate of every SAE but the first, as a share of the first's. This setting and the others whose name
    begins with `next_` take one number, or one for each gap between neighbouring snapshots, the last for all that
    follow."""
    next_aux_weight: Weights | None = None
    """`aux_weight` of every SAE but the first; None: the first's. More of it, and of reach, leaves fewer features dead
    where activations change fast, and explains less there (docs/LOG.md)."""
    next_aux_reach: Shares | None = None
    """`aux_reach` of every SAE but the first; None: the first's."""
    rounds: Positive = 1
    """How often a snapshot may take its tokens: again until they raise explained variance by less than `gain`."""
    gain: Annotated[float, Field(gt=0)] = 0.005
    """Rise of explained variance over a round below which it counts as level; on the snapshot's first tokens, 65,536
    at most."""
    direction: Literal["forward", "reverse"] = "forward"
    """Whether the first snapshot's SAE is trained from scratch, or the last one's."""


class SAESeriesConfig(LearnerConfig, SeriesSettings):
    """Settings of `train_sae_series`."""

    kind: Literal["sae_series"] = "sae_series"  # type: ignore[assignment]
    steps: Annotated[list[Positive], Field(min_length=1)] = [2000, 100]
    """Of the SAE that is trained from scratch, and of the one over each gap between neighbouring snapshots; the last
    holds for all that follow."""

    def gap_of(self, place: int, n_snapshots: int) -> int | None:
        """The gap between snapshots over which an SAE takes its neighbour's weights, 0 between the first two; None for
        the SAE that is trained from scratch."""
        gap = place - 1 if self.direction == "forward" else place
        return gap if 0 <= gap < n_snapshots - 1 else None

    def of_sae(self, gap: int | None) -> CrosscoderConfig:
        """What `train_crosscoder` takes for one SAE, by its gap."""
        own = {name: getattr(self, name) for name in CrosscoderConfig.model_fields if name not in ("kind", "steps")}
        others = {} if gap is None else {"aux_weight": self.next_aux_weight, "aux_reach": self.next_aux_reach}
        own |= {name: _at(values, gap or 0) for name, values in others.items() if values is not None}
        return CrosscoderConfig(**own, steps=self.steps_of(gap))

    def steps_of(self, gap: int | None) -> int:
        """Steps of one SAE, by its gap."""
        return _at(self.steps, 0 if gap is None else gap + 1)

    def rate_over(self, gap: int) -> float:
        """Learning rate of the SAE over a gap, as a share of the first's."""
        return _at(self.next_learning_rate, gap)


def _at(values: list[Any], place: int) -> Any:
    """The value at a place; the last one after the end."""
    return values[min(place, len(values) - 1)]
