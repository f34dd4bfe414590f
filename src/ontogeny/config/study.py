"""A study: its sections, and what they mean together.

It is one YAML file; `load_study` reads it, names the nearest setting for each unknown one, and returns an
immutable `StudyConfig`. Stages take their own section and nothing else.
"""

import glob
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import AfterValidator, Field, field_validator, model_validator

from ontogeny.config.analysis import AnalysesConfig
from ontogeny.config.attribution import AttributionConfig
from ontogeny.config.corpus import CorpusConfig
from ontogeny.config.learner import (
    Counts,
    CrosscoderConfig,
    DictionaryConfig,
    OptimisationConfig,
    SAESeriesConfig,
    SeriesSettings,
)
from ontogeny.config.settings import Positive, Settings, Share, parse
from ontogeny.config.suite import SuiteConfig
from ontogeny.errors import ConfigError, did_you_mean
from ontogeny.families import HOOKPOINT_KINDS


def _hookpoint(text: str) -> str:
    if not re.fullmatch(r"[a-z_]+\.\d+", text):
        raise ConfigError(f"no hookpoint '{text}': expected {', '.join(HOOKPOINT_KINDS)} and a layer: resid_post.2")
    return text


HookpointName = Annotated[str, AfterValidator(_hookpoint)]


class SeriesConfig(SeriesSettings):
    """The series section of a study, where its dictionary is one."""

    next_tokens: Counts | None = None
    """Tokens of every SAE but the first; None: a twentieth of train.tokens."""


class TrainConfig(OptimisationConfig):
    """Training of a study's dictionary from a stream of activations."""

    tokens: Positive = 5_000_000
    batch_size: Positive = 2048
    window_tokens: Positive = 32_768
    """Tokens in one window of the stream's shuffle; a resume replays at most one."""
    model_batch_size: Positive = 16
    """Sequences that a model reads at once; it changes no batch."""
    store_gb: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    """Disk for activations that were harvested once, in units of 1e9 bytes; None: nothing is stored; `auto`: all of
    them or none, what is cheaper here by a few timed steps when the dictionary is trained."""
    store_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float16"
    """How activations are rounded where `store_gb` is set, stored or not; `int8` has a scale per token and snapshot."""

    replicas: Positive = 1
    """Where torchrun starts several processes: groups of them that share out a batch's tokens; those of a group share
    the dictionary's features."""

    @property
    def steps(self) -> int:
        return max(1, self.tokens // self.batch_size)


class MeasureConfig(Settings):
    """Tables of features, trajectories and examples."""

    tokens: Positive = 1_000_000
    held_out_tokens: Positive = 200_000
    sample_tokens: Positive = 65_536
    """Held-out tokens whose codes are kept, and on which the reconstruction is spliced into the models."""
    examples: Positive = 20
    """Top examples per feature, by the code."""
    snapshot_examples: Positive = 4
    """Top examples per feature and snapshot, by the snapshot's own part of the code."""
    quantile_examples: Positive = 8
    """Examples per feature sampled from all contexts in which it fires, in order of activation."""
    context_before: Annotated[int, Field(ge=0)] = 20
    context_after: Annotated[int, Field(ge=0)] = 8
    logit_tokens: Positive = 8
    model_batch_size: Positive = 8
    alive_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    transient_below: Share = 0.6
    censored_last: Annotated[int, Field(ge=0)] = 3
    seed: int = 0


class TruthConfig(Settings):
    """Checks of a study against known answers (`ontogeny truth`)."""

    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2]
    """Seeds of further dictionaries, each trained in full on the tokens in another order."""
    null_tokens: Positive = 1_000_000
    """Tokens that the dictionary of each null is trained on."""
    planted_tokens: Positive | None = None
    """Tokens that the dictionary of the matched planted suite is trained on; None: as many as the study's."""
    seed: int = 0


class SweepConfig(Settings):
    """Settings of which each combination is a study of its own (`ontogeny run`, `ontogeny merge`)."""

    hookpoints: Annotated[list[HookpointName], Field(min_length=1)] | None = None
    seeds: Annotated[list[int], Field(min_length=1)] | None = None
    """Of the dictionary (`train.seed`)."""
    steps: Annotated[list[list[Annotated[int, Field(ge=0)]] | str], Field(min_length=1)] | None = None
    """Selections of snapshots, each as `suite.steps`."""

    @model_validator(mode="after")
    def _names_an_axis(self) -> "SweepConfig":
        if self.hookpoints is None and self.seeds is None and self.steps is None:
            raise ConfigError("sweep: give hookpoints, seeds or steps to go through")
        return self


class Pareto(NamedTuple):
    """Sizes and numbers of active features, each with each, and the steps that every dictionary is trained for."""

    features: list[int]
    k: list[int]
    steps: int


class StudyConfig(Settings):
    """A study: one YAML file, from a suite to a report."""

    name: str
    """Letters, digits, `.`, `_` and `-`: the run folder's name."""
    suite: SuiteConfig
    corpus: CorpusConfig
    hookpoint: HookpointName
    dictionary: DictionaryConfig = DictionaryConfig()
    train: TrainConfig = TrainConfig()
    series: SeriesConfig = SeriesConfig()
    measure: MeasureConfig = MeasureConfig()
    analyses: list[str] = ["emergence", "turning_point", "phases"]
    analysis: AnalysesConfig = AnalysesConfig()
    attribution: AttributionConfig | None = None
    """Tasks and what features do for them; None leaves them out."""
    truth: TruthConfig | None = None
    """Nulls, seeds and matched plants; None leaves them out, `ontogeny truth` asks for them."""
    report: bool = True
    sweep: SweepConfig | None = None
    """Settings to go through, a run for each combination; None for one run."""

    @model_validator(mode="after")
    def _for_a_series(self) -> "StudyConfig":
        if self.dictionary.kind == "sae_series":
            for asked, name in (
                (self.train.store_gb, "train.store_gb: a series reads no activation twice"),
                (self.analysis.independent_start, "analysis.independent_start: a series' directions start from others"),
                (self.truth, "truth: these checks are for a crosscoder"),
                (self.attribution and self.attribution.seeds, "attribution.seeds: they are for a crosscoder"),
                ("pareto" in self.analyses, "the analysis pareto: it is for a crosscoder"),
            ):
                if asked:
                    raise ConfigError(f"leave out {name}")
        elif self.series != SeriesConfig():
            raise ConfigError("leave out series: it is for an SAE series (dictionary.kind: sae_series)")
        elif self.attribution is not None and self.train.seed in self.attribution.seeds:
            raise ConfigError(f"attribution.seeds: {self.train.seed} is the study's own seed: give others")
        elif self.truth is not None and self.train.seed in self.truth.seeds:
            raise ConfigError(f"truth.seeds: {self.train.seed} is the study's own seed: give others")
        elif "tracking" in self.analyses:
            raise ConfigError("leave out the analysis tracking: it is for an SAE series (dictionary.kind: sae_series)")
        return self

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise ConfigError(f"name: '{name}' is to name a folder: letters, digits, '.', '_' and '-', no '.' first")
        return name

    @model_validator(mode="after")
    def _can_be_trained(self) -> "StudyConfig":
        if self.train.batch_size > self.train.tokens:
            raise ConfigError(
                f"train.batch_size: {self.train.batch_size:,} is more than train.tokens, {self.train.tokens:,}"
            )
        few = [tokens for tokens in self.series.next_tokens or () if tokens < self.train.batch_size]
        if few:
            raise ConfigError(
                f"series.next_tokens: {min(few):,} is less than a batch, train.batch_size {self.train.batch_size:,}"
            )
        _ = self.sae_series if self.dictionary.kind == "sae_series" else self.crosscoder
        if "pareto" in self.analyses and max(self.pareto.k) > min(self.pareto.features):
            raise ConfigError(
                f"analysis.pareto_k: {max(self.pareto.k)} are more than the features of a dictionary, "
                f"{min(self.pareto.features)} (analysis.pareto_features)"
            )
        return self

    @field_validator("analyses")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(names))

    @property
    def crosscoder(self) -> CrosscoderConfig:
        """The dictionary and train sections as what `train_crosscoder` takes."""
        return CrosscoderConfig(**self._dictionary(), kind="crosscoder", steps=self.train.steps)

    @property
    def sae_series(self) -> SAESeriesConfig:
        """The dictionary, train and series sections as what `train_sae_series` takes."""
        series = self.series.model_dump()
        tokens = series.pop("next_tokens") or [max(1, self.train.tokens // 20)]
        steps = [self.train.steps, *(max(1, one // self.train.batch_size) for one in tokens)]
        return SAESeriesConfig(**self._dictionary(), **series, kind="sae_series", steps=steps)

    @property
    def compared(self) -> int:
        """Snapshots at which the dictionary is held against SAEs, at most."""
        steps = self.analysis.single_sae_steps
        return 3 if steps is None else len(steps)

    @property
    def pareto(self) -> Pareto:
        """The dictionaries of the analysis `pareto`."""
        own, asked = self.dictionary, self.analysis
        k = own.used_k or 32
        return Pareto(
            asked.pareto_features or [max(1, own.n_features // 2), own.n_features, 2 * own.n_features],
            asked.pareto_k or [max(1, k // 2), k, 2 * k, 4 * k],
            max(1, (asked.pareto_tokens or max(1, self.train.tokens // 5)) // self.train.batch_size),
        )

    def _dictionary(self) -> dict[str, Any]:
        optimisation = {name: getattr(self.train, name) for name in OptimisationConfig.model_fields}
        return self.dictionary.model_dump(exclude={"kind"}) | optimisation


class _StudyLoader(yaml.SafeLoader):
    """YAML in which a key may stand once, and 1e6 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if (first := lines.setdefault(key.value, line)) != line or key.value in seen:
                raise yaml.YAMLError(f"'{key.value}' is given twice, in lines {first} and {line}: merge them")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_StudyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_study(path: str | Path) -> StudyConfig:
    """Read a study file. Relative paths in it are looked up from the working directory, then from the file's folder.

    Args:
        path: a YAML file as in the documentation's first study.
    Raises:
        ConfigError: the file is missing, is no YAML, or holds an unknown or impossible setting.
    """
    path = Path(path)
    if not path.is_file():
        from ontogeny.config.presets import presets

        names = presets()
        raise ConfigError(
            f"no study file {path}{did_you_mean(path.name, names)}: give the path of a YAML file, a run's folder, or a "
            f"preset ({', '.join(names)})"
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_StudyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    study: StudyConfig = parse(StudyConfig, values, where=str(path))
    return _absolute_paths(study, beside=path.resolve().parent)


def _absolute_paths(study: StudyConfig, *, beside: Path) -> StudyConfig:
    """The same study with every path made absolute, so that any stage can run from anywhere."""

    def resolve(text: str | Path) -> str:
        text = os.path.expandvars(str(text))
        if text == "pydocs" or text.startswith("datasets:"):
            return text
        given = Path(text).expanduser()
        if given.is_absolute():
            return str(given)
        here, there = (os.path.normpath(base / given) for base in (Path.cwd(), beside))
        return there if not _exists(here) and _exists(there) else here

    corpus = study.corpus.model_copy(
        update={
            "files": [resolve(pattern) for pattern in study.corpus.patterns],
            "held_out": [resolve(pattern) for pattern in study.corpus.held_out_patterns] or None,
            "tokenizer": Path(resolve(study.corpus.tokenizer))
            if isinstance(study.corpus.tokenizer, Path)
            else study.corpus.tokenizer,
        }
    )
    suite = study.suite
    if suite.folder is not None:
        suite = suite.model_copy(update={"folder": Path(resolve(suite.folder))})
    attribution = study.attribution
    if attribution is not None:
        tasks = [
            task.model_copy(update={"files": [resolve(pattern) for pattern in task.patterns] or None})
            for task in attribution.tasks
        ]
        attribution = attribution.model_copy(update={"tasks": tasks})
    return study.model_copy(update={"corpus": corpus, "suite": suite, "attribution": attribution})


def _exists(pattern: str) -> bool:
    return next(glob.iglob(pattern, recursive=True), None) is not None  # noqa: PTH207


def dump_study(study: StudyConfig) -> str:
    """The resolved study as YAML, every default written out."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
