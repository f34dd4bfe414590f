"""Pre-train a small causal LM and save snapshots on a schedule, as ordinary transformers folders `stepN/`."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ontogeny.config.settings import fingerprint
from ontogeny.config.suite import DEFAULT_MODEL, PretrainConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import ConfigError, SuiteError
from ontogeny.files import atomic_path, write_json
from ontogeny.loop import Checkpoint, run_loop, warmup_cosine
from ontogeny.models.load import quiet
from ontogeny.models.snapshots import save_snapshot
from ontogeny.progress import Events
from ontogeny.suites.suite import Suite, open_suite

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

IGNORED = -100
LEAST_PASSAGE = 4


class SequenceBatches:
    """Batches of token ids [batch, position], padding marked, in an order drawn anew each epoch; resumable.

    Args:
        repeat_share: of the sequences in which a passage, drawn anew each time, is said again until they end.
    """

    def __init__(self, corpus: Corpus, *, batch_size: int, seed: int, repeat_share: float = 0.0) -> None:
        self.corpus, self.batch_size, self.seed, self.repeat_share = corpus, batch_size, seed, repeat_share

    def starting_at(self, batch: int) -> Iterator[Int[Tensor, "batch position"]]:
        while True:
            numbers = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            tokens = padded(self.corpus, np.asarray([self._sequence(number) for number in numbers]))
            if self.repeat_share > 0:
                for number, row in zip(numbers, tokens, strict=True):
                    draw = np.random.default_rng([self.seed, 1, number])
                    if draw.random() < self.repeat_share:
                        repeat_passage(row, draw)
            yield tokens
            batch += 1

    def __iter__(self) -> Iterator[Int[Tensor, "batch position"]]:
        return self.starting_at(0)

    def _sequence(self, number: int) -> int:
        epoch, place = divmod(number, len(self.corpus))
        return int(self._order(epoch)[place])

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.corpus))
        return self._permutation


def repeat_passage(tokens: Int[Tensor, " position"], draw: np.random.Generator) -> None:
    """Say a passage of a sequence's first half again and again until its end; in place.

    Its place is drawn from the first quarter, its length evenly over the logarithm up to a quarter. Sequences of fewer
    than `4 · LEAST_PASSAGE` tokens stay as they are.
    """
    n = int((tokens != IGNORED).sum())
    if n < 4 * LEAST_PASSAGE:
        return
    first = int(draw.integers(1, n // 4 + 1))
    length = int(np.exp(draw.uniform(np.log(LEAST_PASSAGE), np.log(n // 4 + 1))))
    end = first + length
    tokens[end:n] = tokens[first:end].repeat(-(-(n - end) // length))[: n - end]


def padded(corpus: Corpus, sequences: np.ndarray) -> Int[Tensor, "batch position"]:
    """Token ids of some sequences, with IGNORED at and after each one's length."""
    tokens = torch.from_numpy(corpus.tokens[sequences].astype(np.int64))
    lengths = torch.from_numpy(corpus.lengths[sequences].astype(np.int64))
    beyond = torch.arange(corpus.sequence_length) >= lengths[:, None]
    return tokens.masked_fill(beyond, IGNORED)


def next_token_losses(logits: Tensor, tokens: Int[Tensor, "batch position"]) -> Tensor:
    """Cross-entropy in nats of each next token [batch, position - 1]; 0 where the next token is padding."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    ).view(len(tokens), -1)


def model_config(settings: dict[str, Any], *, vocab_size: int, sequence_length: int) -> "PreTrainedConfig":
    """A transformers configuration; what the settings leave out is as in DEFAULT_MODEL or as transformers has it.

    Raises:
        ConfigError: the model type or one of its settings is unknown or impossible.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    values = DEFAULT_MODEL | settings if settings.get("model_type", "gpt_neox") == "gpt_neox" else dict(settings)
    model_type = values.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(f"pretrain.model: transformers knows no model_type '{model_type}'")
    defaults = {"vocab_size": vocab_size, "max_position_embeddings": sequence_length, "use_cache": False}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    dropouts = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
    known = CONFIG_MAPPING[model_type]().to_dict()
    for name in values:
        if name not in known:
            raise ConfigError(f"pretrain.model: {model_type} has no setting '{name}'")
    chosen = {name: value for name, value in (defaults | special | dropouts).items() if name in known}
    options: dict[str, Any] = chosen | values
    try:
        config = CONFIG_MAPPING[model_type](**options)
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    except Exception as error:  # transformers raises many kinds for settings that do not fit each other
        raise ConfigError(f"pretrain.model: {model_type} cannot be built: {' '.join(str(error).split())}") from error
    return config


def build_model(settings: dict[str, Any], *, vocab_size: int, sequence_length: int, seed: int) -> "PreTrainedModel":
    """A randomly initialised causal LM of any transformers decoder configuration.

    Raises:
        ConfigError: the model type or one of its settings is unknown or impossible.
    """
    from transformers import AutoModelForCausalLM

    config = model_config(settings, vocab_size=vocab_size, sequence_length=sequence_length)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def bfloat16_pays(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run in hardware on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class _LanguageModel:
    """The learner: next-token cross-entropy, snapshots saved on the way."""

    def __init__(
        self, config: PretrainConfig, corpus: Corpus, held_out: Corpus, folder: Path, device: torch.device
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.corpus, self.held_out = corpus, held_out
        model: Any = build_model(
            config.model,
            vocab_size=corpus.manifest["vocab_size"],
            sequence_length=corpus.sequence_length,
            seed=config.seed,
        )
        self.model = model.to(device)
        self.bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and bfloat16_pays(device))
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True
        )
        self.log: list[dict[str, float]] = []

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batch.to(self.device)
        losses = next_token_losses(self._logits(batch), batch)
        return losses.sum() / (batch[:, 1:] != IGNORED).sum(), {}

    def _logits(self, batch: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model(input_ids=batch.clamp_min(0)).logits

    def before_step(self, step: int) -> None:
        if step not in self.config.schedule or any(entry["step"] == step for entry in self.log):
            return
        self.log.append({"step": step, "held_out_loss": self.held_out_loss()})
        save_snapshot(self.model, self.folder, step=step, tokenizer=self.corpus.tokenizer)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Nats a token on the first held-out sequences."""
        total, count = 0.0, 0
        self.model.eval()
        for first in range(0, min(self.config.held_out_sequences, len(self.held_out)), 16):
            last = min(first + 16, self.config.held_out_sequences, len(self.held_out))
            batch = padded(self.held_out, np.arange(first, last)).to(self.device)
            total += float(next_token_losses(self._logits(batch), batch).sum())
            count += int((batch[:, 1:] != IGNORED).sum())
        self.model.train()
        return total / count

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "log": self.log, "bfloat16": self.bfloat16}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.log, self.bfloat16 = state["log"], state["bfloat16"]


def pretrain(
    config: PretrainConfig,
    corpus: Corpus,
    held_out: Corpus,
    folder: str | Path,
    *,
    checkpoint: Path | None = None,
    events: Events | None = None,
    device: torch.device | str | None = None,
) -> Suite:
    """Pre-train a causal LM and save its snapshots.

    Args:
        corpus: packed text to train on.
        held_out: packed text for the loss written to the folder's `pretraining-log.jsonl`, nats a token.
        folder: where `stepN/` folders go.
        checkpoint: file for the state of a training that may be interrupted.
    Returns:
        The suite of all saved snapshots.
    Raises:
        ConfigError: the model's settings are unknown to transformers.
        SuiteError: the folder holds other things.
        TrainingError: the loss is not finite.
    """
    quiet()
    folder = Path(folder)
    key = fingerprint(config, corpus.fingerprint, held_out.fingerprint)
    tokens_per_step = round(config.batch_size * corpus.n_tokens / len(corpus))
    _make_room(folder, key, config, tokens_per_step=tokens_per_step)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    learner = _LanguageModel(config, corpus, held_out, folder, device)
    steps_done = run_loop(
        learner,
        SequenceBatches(corpus, batch_size=config.batch_size, seed=config.seed, repeat_share=config.repeat_share),
        stage="pretrain",
        steps=config.steps,
        schedule=warmup_cosine(total=config.steps, warmup=config.warmup_steps, final=config.final_learning_rate),
        clip_norm=config.clip_norm,
        checkpoint=Checkpoint(checkpoint, key),
        events=events,
        tokens_per_step=config.batch_size * corpus.sequence_length,
    )
    assert steps_done == config.steps
    with atomic_path(folder / "pretraining-log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in learner.log), encoding="utf-8")
    return open_suite(folder, steps=config.schedule)


def _make_room(folder: Path, key: str, config: PretrainConfig, *, tokens_per_step: int) -> None:
    """Say in `suite.json` whose snapshots the folder holds; remove those of an earlier training of ours.

    Raises:
        SuiteError: the folder holds something that is not ours to remove.
    """
    notes = folder / "suite.json"
    earlier = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else None
    if earlier is None and folder.is_dir() and any(folder.iterdir()):
        raise SuiteError(f"{folder} is not empty: pre-train into a new folder")
    if earlier is not None and earlier["key"] != key:
        for step in PretrainConfig(**earlier["pretrain"]).schedule:
            shutil.rmtree(folder / f"step{step}", ignore_errors=True)
    write_json(notes, {"key": key, "tokens_per_step": tokens_per_step, "pretrain": config.model_dump(mode="json")})
