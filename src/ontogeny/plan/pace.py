"""How fast this machine is at what a study does: a few real steps of each part of the work, timed.

Models have random weights of the study's shapes. The dictionary has as many features as a short trial allows, and twice
those, and a line through both goes on to the study's number. Where codes are dense at first (relu, jumprelu) the trial
sees that beginning and forecasts too slow a pace; where more than one in a hundred features die, it forecasts too fast
a one. A suite that loads its models again for every window (suite.memory_gb) takes longer than this says, and so does a
store that the system does not hold in memory.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from ontogeny.activations.store import ActivationStore
from ontogeny.dictionaries.start import initial_crosscoder, norm_scale_of
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.loop import numerics
from ontogeny.models.hookpoints import read_hookpoint, truncate
from ontogeny.models.load import quiet
from ontogeny.models.names import parse_hookpoint
from ontogeny.plan.plan import TABLE, Plan
from ontogeny.plan.sizes import GB
from ontogeny.progress import duration

TRIAL_SECONDS = 1.0
TRIAL_FLOP = 1e11
"""Of one product of a trial's training step."""
SPARSE = 16
"""Times k: as many features as keep the codes of a trial sparse."""
TRIAL_BYTES, WINDOW_BYTES = 64e6, 512e6
"""Of the rows that are written and read; at most, of the window that harvested rows are scattered over."""
WARM, TIMED = 2, 4
DEAD, FAR = 0.01, 100.0
"""Share of the features that are dead in a trial, as some are in a training, and how low their biases are for that."""


class Pace(NamedTuple):
    """Seconds a token, of all snapshots: to harvest it, to train on it, to write it to a store, to read it there."""

    harvest: float
    train: float
    write: float
    read: float


def training_seconds(plan: Plan, pace: Pace, *, stored: bool) -> float:
    """How long all trainings on a suite's activations take: streamed, or those of the study's own dictionary stored."""
    training = plan.tokens_read * pace.train
    if not stored:
        return training + plan.tokens_read * pace.harvest
    harvested = plan.tokens_kept + plan.tokens_missed
    again = plan.tokens_read - harvested
    return training + harvested * pace.harvest + plan.tokens_kept * pace.write + again * pace.read


def cheaper_store(plan: Plan, pace: Pace) -> float:
    """The budget of a store, in GB, where that saves a twentieth of the time and takes at most half of the disk that
    the rest of the run leaves free; else 0."""
    return math.ceil(plan.kept_bytes / GB * 10) / 10 if _saves(plan, pace) and _fits(plan) else 0.0


def _saves(plan: Plan, pace: Pace) -> bool:
    return training_seconds(plan, pace, stored=True) < 0.95 * training_seconds(plan, pace, stored=False)


def _fits(plan: Plan) -> bool:
    others = sum(size for kind, size in plan.disk().items() if kind != "activations")
    return plan.kept_bytes < (plan.disk_free() - others) / 2


def stage_seconds(plan: Plan, pace: Pace) -> dict[str, float]:
    """How long each part of the work takes, streamed: arithmetic that models do at the pace of harvesting, that of
    dictionaries at the pace of training. What analyses and tasks do beside that is not known before it is done."""
    flop = plan.flop()
    models = pace.harvest / (plan.n_snapshots * plan.model.flop(plan.study.corpus.sequence_length) * plan.positions)
    one = plan.tokens_trained * (pace.harvest + pace.train)
    measured = min(plan.study.measure.tokens, plan.corpus_tokens or plan.study.measure.tokens)
    held_out = plan.study.measure.held_out_tokens
    return {
        "pretrain": flop["pretrain"] * models,
        "train": one,
        "measure": (measured + held_out) * pace.harvest + (measured + 2 * held_out) * pace.train,
        "analyse": one * flop["analyse"] / (flop["harvest"] + flop["train"]),
        "attribute": flop["attribute"] * models,
        "truth": one * flop["truth"] / (flop["harvest"] + flop["train"]),
    }


def pace_table(plan: Plan, pace: Pace) -> pl.DataFrame:
    """Tokens a second of each part of the work, hours of all trainings and of each stage, as in the plan's table."""
    streamed, stored = (training_seconds(plan, pace, stored=stored) / 3600 for stored in (False, True))
    rate = "tokens / s"
    rows = [
        ("harvest: pace", 1 / pace.harvest, rate, f"{plan.n_snapshots} models up to {plan.study.hookpoint}"),
        ("train: pace", 1 / pace.train, rate, "the dictionary, activations at hand"),
        ("train: pace, streamed", 1 / (pace.harvest + pace.train), rate, "both"),
        ("train: pace, stored", 1 / (pace.read + pace.train), rate, "from the second reading on"),
        ("trainings, streamed", streamed, "h", f"{plan.tokens_read:,.0f} tokens read and harvested"),
        ("trainings, stored", stored, "h", f"{plan.tokens_kept + plan.tokens_missed:,.0f} of them harvested"),
        ("disk: a whole store", plan.kept_bytes / GB, "GB", f"as {plan.study.train.store_dtype}"),
    ]
    if plan.is_series:
        rows = [row for row in rows if "store" not in row[0]]
    stages = {stage: seconds for stage, seconds in stage_seconds(plan, pace).items() if seconds}
    rows += [(f"{stage}: time", seconds / 3600, "h", duration(seconds)) for stage, seconds in stages.items()]
    total = sum(stages.values())
    rows.append(("all: time", total / 3600, "h", f"{duration(total)}, streamed; tables and figures come on top"))
    return pl.DataFrame(rows, schema=TABLE, orient="row")


def advice(plan: Plan, pace: Pace) -> str:
    """Whether to stream or to store, in a sentence."""
    if plan.is_series:
        return "a series reads each activation once: there is nothing to store"
    times = plan.tokens_read / plan.tokens_kept
    if not _saves(plan, pace):
        return f"each activation is read {times:.1f} times: streaming is as fast as storing here"
    if not _fits(plan):
        return (
            f"storing activations would save time, but {plan.kept_bytes / GB:.3g} GB is more than half of the free disk"
        )
    return (
        f"each activation is read {times:.1f} times: storing them saves time here, "
        f"train.store_gb: {cheaper_store(plan, pace):g}"
    )


def measure_pace(plan: Plan) -> Pace:
    """Time a study's work on this machine. It takes a model up to the hookpoint and a part of a training step."""
    with numerics():
        write, read = _store(plan)
        return Pace(harvest=_harvest(plan), train=_train(plan), write=write, read=read)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _seconds(work: Callable[[], Any]) -> float:
    """Of one call, by as many as fill the trial, the first left out."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < TRIAL_SECONDS:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[1:])


def _harvest(plan: Plan) -> float:
    """Seconds a token through all models and into its row."""
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet()
    study, hookpoint = plan.study, parse_hookpoint(plan.study.hookpoint)
    config = AutoConfig.for_model(**plan.config)
    config.num_hidden_layers = plan.model.blocks
    model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, study.suite.dtype))
    truncate(model, hookpoint)
    model = model.to(_device()).eval()
    shape = (study.train.model_batch_size, study.corpus.sequence_length)
    tokens = torch.randint(plan.model.vocabulary, shape, device=_device())
    window = max(tokens.numel(), study.train.window_tokens)
    snapshots = max(1, min(plan.n_snapshots, int(WINDOW_BYTES / (4 * window * plan.model.width))))
    rows = torch.empty(window, snapshots, plan.model.width, device=_device())
    target = torch.randperm(window, device=_device())[: tokens.numel()]

    @torch.no_grad()
    def work() -> None:
        rows[target, 0] = read_hookpoint(model, tokens, hookpoint).float().flatten(0, 1)

    return _seconds(work) / tokens.numel() * plan.positions * plan.n_snapshots


def _train(plan: Plan) -> float:
    """Seconds a token of a training step, by a line through two numbers of features where the study's is too many."""
    study, n, d = plan.study, plan.together, plan.model.width
    steps = plan.n_snapshots / n
    wanted, batch = study.dictionary.n_features, study.train.batch_size
    tried = max(SPARSE * (study.crosscoder.used_k or 1), int(TRIAL_FLOP / (2 * batch * n * d)))
    rows = torch.randn(batch, n, d)
    if wanted <= 2 * tried:
        return steps * _step(plan, rows, wanted) / batch
    small, large = _step(plan, rows, tried), _step(plan, rows, 2 * tried)
    return steps * (small + (large - small) * (wanted - tried) / tried) / batch


def _step(plan: Plan, rows: Tensor, n_features: int) -> float:
    """Seconds of a training step."""
    config = plan.study.crosscoder.model_copy(
        update={
            "n_features": n_features, "steps": WARM + TIMED + 1, "norm_tokens": len(rows), "learning_rate": 1e-4,
            "dead_after_tokens": 1, "aux_reach": 0.0,
        }
    )  # fmt: skip
    scale = norm_scale_of(rows)
    start = initial_crosscoder(config, rows * scale[:, None], scale)
    with torch.no_grad():
        start.b_enc[: math.ceil(DEAD * n_features)] = -FAR
    pulled: list[float] = []

    def batches() -> Iterator[Tensor]:
        while True:
            pulled.append(time.perf_counter())
            yield rows

    train_crosscoder(batches(), config, stage="trial", start=start)
    return median(b - a for a, b in pairwise(pulled[WARM:]))


def _store(plan: Plan) -> tuple[float, float]:
    """Seconds a token to write and to read."""
    n, d, length = plan.n_snapshots, plan.model.width, plan.study.corpus.sequence_length - 1
    sequences = max(1, int(TRIAL_BYTES / (4 * n * d * length)))
    tokens, rows = sequences * length, torch.randn(sequences * length, n, d)
    lengths, numbers = torch.full((sequences,), length).numpy(), torch.arange(sequences).numpy()
    target = torch.randperm(tokens).view(sequences, length)
    with tempfile.TemporaryDirectory(prefix="ontogeny-trial-") as folder:
        store = ActivationStore(
            Path(folder), key="trial", steps=range(n), width=d, dtype=plan.study.train.store_dtype,
            n_sequences=sequences, max_bytes=2 * rows.nbytes,
        )  # fmt: skip
        started = time.perf_counter()
        fresh = store.view(list(range(n))).take(numbers, lengths, rows)
        rows[target.flatten()] = fresh
        write = time.perf_counter() - started

        def read() -> None:
            for sequence in range(sequences):
                rows[target[sequence]] = store.read(sequence, slice(None))

        return write / tokens, _seconds(read) / tokens
