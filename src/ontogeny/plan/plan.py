"""What a study takes, before anything runs: parameters, memory, arithmetic, disk. Loads no torch."""

import json
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from ontogeny.config.corpus import TokenizerConfig
from ontogeny.config.study import StudyConfig
from ontogeny.config.suite import DEFAULT_MODEL
from ontogeny.corpus.pack import Corpus
from ontogeny.corpus.tokenizer import load_tokenizer
from ontogeny.errors import ConfigError
from ontogeny.machine import available_memory
from ontogeny.plan.memory import parts
from ontogeny.plan.sizes import FEATURES, FLOAT, GB, Model, Parts, dictionary_parameters, model_sizes
from ontogeny.run import Run, run_folder
from ontogeny.suites.selection import select
from ontogeny.suites.suite import study_suite

PFLOP = 1e15
ITEM_TOKENS = 16
"""Of an item of a task, of which nothing is known before it is read."""
WORK = {
    "pretrain": "3 passes of the model over its batches",
    "harvest": "all models on the tokens to train on, up to the hookpoint",
    "train": "5 dense products a step; where codes are sparse hardly more than one, with jumprelu two",
    "measure": "models and dictionary on the tokens to measure",
    "analyse": "dictionaries that the analyses train",
    "attribute": "models on tasks, forward and back for every point of a path; items taken to be of 16 tokens",
    "truth": "dictionaries that the checks train",
}
TABLE = {"item": pl.String, "amount": pl.Float64, "unit": pl.String, "note": pl.String}


@dataclass(frozen=True)
class Plan:
    """A study and the sizes that its arithmetic depends on.

    Attributes:
        folder: the run folder, which need not exist.
        n_snapshots: snapshots studied.
        corpus: the packed training corpus; None before it is packed.
        to_fetch: bytes of weights that are still to come from the hub.
        config: the models' transformers configuration.
    """

    study: StudyConfig
    folder: Path
    model: Model
    n_snapshots: int
    corpus: Corpus | None
    config: dict[str, Any]
    to_fetch: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the dictionary."""
        return dictionary_parameters(self.study.dictionary, n_snapshots=self.n_snapshots, d_model=self.model.width)

    @property
    def is_series(self) -> bool:
        return self.study.dictionary.kind == "sae_series"

    @property
    def together(self) -> int:
        """Snapshots that a training step, and measuring, reads at once."""
        return 1 if self.is_series else self.n_snapshots

    @property
    def corpus_tokens(self) -> int | None:
        """Tokens of the packed corpus that count: position 0 and padding left out."""
        return None if self.corpus is None else self.corpus.n_tokens - len(self.corpus)

    def flop(self) -> dict[str, float]:
        """FLOP by work: `harvest` (the models, for the training), `train` and `measure` (the models among it)."""
        study, model, length = self.study, self.model, self.study.corpus.sequence_length
        encode = 2 * self.n_snapshots * model.width * study.dictionary.n_features
        read = self.n_snapshots * model.flop(length) * self.positions
        trained = self.tokens_trained
        measured = min(study.measure.tokens, self.corpus_tokens or study.measure.tokens)
        held_out = study.measure.held_out_tokens
        return {
            "pretrain": self._pretrained(),
            "harvest": trained * read,
            "train": 5 * trained * encode,
            "measure": (measured + held_out) * (read + encode) + held_out * encode,
            "analyse": self._further() * trained * (read + 5 * encode),
            "attribute": self._attributed(),
            "truth": self._checked() * trained * (read + 5 * encode),
        }

    def _pretrained(self) -> float:
        """FLOP of pre-training the suite's own model."""
        asked, length = self.study.suite.pretrain, self.study.corpus.sequence_length
        if asked is None:
            return 0.0
        passed = self.model.flop(length) + self.model.rest_flop(length)
        return 3.0 * passed * asked.steps * asked.batch_size * length

    def _attributed(self) -> float:
        """FLOP of effects on tasks: the run's dictionary at all snapshots, other seeds' at three."""
        asked, k = self.study.attribution, self.study.dictionary.used_k or 64
        if asked is None:
            return 0.0
        tokens = ITEM_TOKENS * sum(task.items for task in asked.tasks)
        passes = {"atp": 1, "ig": asked.steps, "exact": k * ITEM_TOKENS}[asked.method]
        one = self.model.flop(ITEM_TOKENS) + 3 * passes * self.model.rest_flop(ITEM_TOKENS)
        return float(tokens) * one * (self.n_snapshots + len(asked.seeds) * min(3, self.n_snapshots))

    def _further(self) -> float:
        """Dictionaries that analyses train beside the studied one, in trainings of that."""
        train = self.study.train
        alone = self._alone * train.steps * train.batch_size / self.tokens_trained
        return self._tracks + self._independent + alone + self._beside * self.study.pareto.steps / train.steps

    @property
    def _tracks(self) -> int:
        """Series that an SAE series is held against, each of its size."""
        return len(self.study.analysis.track_controls) if "tracking" in self.study.analyses else 0

    @property
    def _independent(self) -> float:
        """Dictionaries like the studied one from another start."""
        return float("turning_point" in self.study.analyses and self.study.analysis.independent_start)

    @property
    def _alone(self) -> float:
        """SAEs of single snapshots, in sizes of the studied dictionary."""
        return self.study.compared / self.n_snapshots if "single_saes" in self.study.analyses else 0.0

    @property
    def _beside(self) -> float:
        """Dictionaries of several sizes, and SAEs beside them, in sizes of the studied one."""
        if "pareto" not in self.study.analyses:
            return 0.0
        asked = self.study.pareto
        one = 1 + self.study.compared / self.n_snapshots
        return one * len(asked.k) * sum(asked.features) / self.study.dictionary.n_features

    def _checked(self) -> float:
        """Dictionaries that checks train, in trainings of the studied one; plants count as if models made them."""
        truth, tokens = self.study.truth, self.study.train.tokens
        if truth is None:
            return 0.0
        return len(truth.seeds) + 2 * truth.null_tokens / tokens + (truth.planted_tokens or tokens) / tokens

    # stream or store

    @property
    def store_gb(self) -> float | None:
        """The budget of the store; where that is left to the plan, what was decided, or None before it is."""
        return Run(self.folder).store_gb_of(self.study)

    @property
    def positions(self) -> float:
        """Positions that models read for each token that counts."""
        length = self.study.corpus.sequence_length
        if self.corpus is None or not self.corpus_tokens:
            return length / (length - 1)
        return len(self.corpus) * length / self.corpus_tokens

    @property
    def tokens_read(self) -> float:
        """Tokens that trainings read at all snapshots: epochs, further dictionaries, seeds and nulls counted."""
        return self.tokens_trained * (1 + self._further()) + self._read_by_seeds + self._read_by_nulls

    @property
    def tokens_kept(self) -> int:
        """Tokens that a store without a budget would keep: those that the study's dictionary is trained on."""
        return round(min(self.tokens_trained, self.corpus_tokens or self.tokens_trained))

    @property
    def tokens_missed(self) -> float:
        """Tokens that such a store would lack: other seeds read the corpus in an order of their own."""
        return self._read_by_seeds * (1 - self.tokens_kept / (self.corpus_tokens or self.tokens_trained))

    @property
    def tokens_trained(self) -> float:
        """Tokens that the study's dictionary is trained on; of a series the mean over the snapshots, at most."""
        steps = float(self.study.train.steps)
        if self.is_series:
            series = self.study.sae_series
            n = self.n_snapshots
            steps = series.rounds * sum(series.steps_of(series.gap_of(place, n)) for place in range(n)) / n
        return steps * self.study.train.batch_size

    @property
    def tokens_passed(self) -> float:
        """Tokens of the corpus that it passes: a crosscoder each once, for all snapshots, a series one SAE after the
        other."""
        return self.tokens_trained * (self.n_snapshots if self.is_series else 1)

    @property
    def _read_by_seeds(self) -> float:
        return 0.0 if self.study.truth is None else len(self.study.truth.seeds) * self.tokens_trained

    @property
    def _read_by_nulls(self) -> float:
        """One null reads all snapshots, the other one of them."""
        return 0.0 if self.study.truth is None else self.study.truth.null_tokens * (1 + 1 / self.n_snapshots)

    @property
    def kept_bytes(self) -> float:
        """Bytes of a store without a budget."""
        values = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[self.study.train.store_dtype]
        scale = FLOAT if values == 1 else 0
        return 1.01 * self.tokens_kept * self.n_snapshots * (values * self.model.width + scale)

    # memory

    @property
    def heavy_stages(self) -> dict[str, str]:
        """Stages whose memory is planned, with what they do; analyses where they train larger dictionaries."""
        pareto = {"analyse": "training for the analysis pareto"} if "pareto" in self.study.analyses else {}
        return {"train": "training", "measure": "measuring", **pareto}

    def parts(self, stage: str) -> Parts:
        """What a stage of `heavy_stages` holds at its peak."""
        return parts(self, stage)

    def peak(self, stage: str) -> float:
        """Bytes that a stage takes at its peak."""
        return sum(part.bytes for part in self.parts(stage).values())

    def with_dictionary(self, **changes: Any) -> "Plan":
        """The same study with a dictionary of other settings."""
        dictionary = self.study.dictionary.model_copy(update=changes)
        return replace(self, study=self.study.model_copy(update={"dictionary": dictionary}))

    @property
    def codes(self) -> float:
        """Active features on the sampled tokens; as many as 64 a token where training does not fix that."""
        parts = self.n_snapshots if self.is_series else 1
        return float(self.study.measure.sample_tokens * parts * (self.study.dictionary.used_k or 64))

    @property
    def examples(self) -> int:
        """Examples that are kept of a feature."""
        measure = self.study.measure
        return measure.examples + measure.quantile_examples + self.n_snapshots * measure.snapshot_examples

    # disk

    def disk(self) -> dict[str, float]:
        """Bytes of what the run folder holds at its fullest, by kind."""
        study, n, n_features = self.study, self.n_snapshots, self.study.dictionary.n_features
        weights = FLOAT * self.parameters
        checked = 0 if study.truth is None else len(study.truth.seeds) + 3
        further = self._tracks + self._independent + self._alone + self._beside
        kinds = {"dictionaries": weights * (1 + further + checked), "checkpoints": 2 * 3 * weights}
        kinds["tables"] = (100.0 * n_features * (n + self.examples) + 8 * self.codes) * (2 if self.is_series else 1)
        if study.suite.pretrain is not None:
            model = FLOAT * self.model.parameters
            kinds["snapshots"] = len(study.suite.pretrain.schedule) * model
        if self.store_gb is not None:
            kinds["activations"] = min(self.store_gb * GB, self.kept_bytes)
        if self.corpus is not None:
            kinds["corpus"] = self.corpus.tokens.nbytes
        return kinds

    def disk_free(self) -> float:
        """Bytes free at the run folder, and what it holds already."""
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.is_dir())
        held = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        return float(shutil.disk_usage(there).free + held)

    # what comes of it

    def table(self) -> pl.DataFrame:
        """Everything: item, amount, unit, note."""
        return pl.DataFrame(list(self._rows()), schema=TABLE, orient="row")

    def _rows(self) -> Iterator[tuple[str, float | None, str, str]]:
        study, train = self.study, self.study.train
        yield "snapshots", self.n_snapshots, "snapshots", f"of width {self.model.width}"
        yield "dictionary", self.parameters, "parameters", f"{study.dictionary.n_features:,} features"
        of = ", for the first SAE" if self.is_series else ""
        yield "steps", train.steps, "steps", f"batches of {train.batch_size:,} tokens{of}"
        if self.corpus_tokens is None:
            yield "corpus", None, "tokens", "not packed yet"
        else:
            yield "corpus", self.corpus_tokens, "tokens", f"packed in {self.folder / 'corpus'}"
            yield "epochs", self.tokens_passed / self.corpus_tokens, "epochs", "of the corpus, in training"
        for stage in self.heavy_stages:
            for name, part in self.parts(stage).items():
                yield f"{stage}: {name}", part.bytes / GB, "GB", part.note
            yield f"{stage}: peak memory", self.peak(stage) / GB, "GB", ""
        room = available_memory()
        if room is not None:
            yield "memory available", room.bytes / GB, "GB", f"on {room.where}"
        for work, flop in self.flop().items():
            yield f"{work}: arithmetic", flop / PFLOP, "PFLOP", WORK[work]
        for kind, size in self.disk().items():
            yield f"disk: {kind}", size / GB, "GB", ""
        yield "disk: all", sum(self.disk().values()) / GB, "GB", f"in {self.folder}"
        if self.study.suite.repo is not None:
            yield "weights to fetch", self.to_fetch / GB, "GB", "from the hub, into its client's cache"
        yield "disk free", self.disk_free() / GB, "GB", "with what the run has already"

    def require_room(self, stages: Set[str] = frozenset({"train", "measure"})) -> None:
        """Check that the stages to run fit into this machine.

        Raises:
            ConfigError: memory or disk is too small; what to set is named.
        """
        room, doing = available_memory(), self.heavy_stages
        heavy = max(stages & doing.keys(), key=self.peak, default=None)
        if room is not None and heavy is not None and self.peak(heavy) > room.bytes:
            raise ConfigError(
                f"{doing[heavy]} {self.study.dictionary.n_features:,} features over {self.n_snapshots} snapshots of "
                f"width {self.model.width} takes about {self.peak(heavy) / GB:.3g} GB of memory, {room.where} has "
                f"{room.bytes / GB:.3g} GB available: {self._advice(heavy, room.bytes)}"
            )
        needed, free = sum(self.disk().values()), self.disk_free()
        if stages and needed > free:
            raise ConfigError(
                f"the run takes about {needed / GB:.3g} GB of disk, {free / GB:.3g} GB are free at {self.folder}: make "
                "room, give another --out, or set dictionary.n_features lower"
            )

    def _advice(self, stage: str, available: float) -> str:
        """What to set so that a stage fits."""

        sizes_below = range(1, self.study.dictionary.n_features)
        fit = bisect_right(sizes_below, available, key=lambda n: self.with_dictionary(n_features=n).peak(stage))
        unit = 10 ** max(0, len(str(fit)) - 2)
        sizes: dict[str, float] = {}
        for part in self.parts(stage).values():
            sizes[part.setting] = sizes.get(part.setting, 0) + part.bytes
        setting = max(sizes.keys() - {FEATURES, ""}, key=sizes.__getitem__)
        advice = [f"set {FEATURES} to {fit // unit * unit:,} or less"] if fit else []
        if not fit or sizes[setting] > self.peak(stage) / 4:
            advice.append(f"lower {setting} ({sizes[setting] / GB:.3g} GB of it)")
        return ", or ".join(advice)


def plan_study(study: StudyConfig, out: str | Path | None = None) -> Plan:
    """Work out what a study takes from its settings, its suite's configuration, and its corpus where that is packed.

    Args:
        out: the run folder; None for `runs/NAME` below the working directory.
    Raises:
        InputError: the suite or the hookpoint does not exist, or the folder is not a run.
    """
    run, pretrain, to_fetch = Run(run_folder(study, out)), study.suite.pretrain, 0
    run.require_own_folder(study)
    packed = run.corpus_folder / "train"
    corpus = Corpus(packed) if packed.is_dir() else None
    if pretrain is None:
        suite = study_suite(study, run)
        config, n_snapshots = suite.model_config(), len(suite.snapshots)
        to_fetch = sum(snapshot.source.bytes_to_fetch(snapshot) for snapshot in suite.snapshots)
        if study.suite.drift is not None and run.schedule_path.is_file():
            n_snapshots = len(json.loads(run.schedule_path.read_text(encoding="utf-8"))["steps"])
    else:
        config = DEFAULT_MODEL | {"vocab_size": _vocabulary(study, corpus)} | pretrain.model
        options = {"missing": study.suite.missing, "of": study.name}
        n_snapshots = len(select(pretrain.schedule, study.suite.steps, **options))
    return Plan(study, run.folder, model_sizes(config, study.hookpoint), n_snapshots, corpus, config, to_fetch)


def _vocabulary(study: StudyConfig, corpus: Corpus | None) -> int:
    """Tokens of a tokenizer that the study names or trains."""
    if corpus is not None:
        return corpus.manifest["vocab_size"]
    if isinstance(study.corpus.tokenizer, Path):
        return len(load_tokenizer(study.corpus.tokenizer))
    return (study.corpus.tokenizer or TokenizerConfig()).vocab_size
