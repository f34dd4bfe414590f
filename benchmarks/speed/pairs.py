"""Interleaved runs: workers stand beside each other and are asked in turn for the same number of steps."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import torch
from benchmarks.speed.peers import python_of

from ontogeny.config.settings import fingerprint
from ontogeny.files import atomic_path, default_cache
from ontogeny.loop import matmul_precision
from ontogeny.truth.planted import plant

WORKERS = Path(__file__).with_name("workers")
BATCHES = 8


@dataclass(frozen=True)
class Shape:
    """The sizes of a training."""

    n_snapshots: int
    d_model: int
    n_features: int
    batch: int
    k: int = 64

    def __str__(self) -> str:
        return f"{self.n_snapshots} × {self.d_model}, {self.n_features:,} features, batch {self.batch:,}, k {self.k}"


@dataclass(frozen=True)
class Contender:
    """Something that trains: its name, its worker, its settings, and what its environment has beside."""

    name: str
    worker: str
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


class WorkerError(Exception):
    """A worker ended by itself."""


class Worker:
    """A process that makes steps on command."""

    def __init__(self, contender: Contender, task_of: dict[str, Any], *, threads: int) -> None:
        task = task_of | {"settings": contender.settings, "threads": threads, "precision": matmul_precision()}
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled"}
        environment |= contender.environment
        command = [str(python_of(contender.worker)), str(WORKERS / f"{contender.worker}.py"), json.dumps(task)]
        self.name, self.errors = contender.name, tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, steps: int) -> dict[str, float]:
        """Make some steps: seconds, memory_gb, l0 where the worker tells it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.errors.seek(0)
        raise WorkerError(f"{self.name} ended: {(self.errors.read().strip().splitlines() or ['without a word'])[-1]}")


def training_task(shape: Shape) -> dict[str, Any]:
    """What a worker that trains is told."""
    return {**vars(shape), "batches": str(batches_of(shape))}


def batches_of(shape: Shape) -> Path:
    """A file of batches of planted features, each snapshot scaled to a mean norm of √d_model."""
    path = default_cache() / "benchmarks" / "speed" / f"batches-{fingerprint(1, vars(shape))}.pt"
    if not path.is_file():
        planted = plant(
            n_snapshots=shape.n_snapshots, d_model=shape.d_model, n_features=shape.n_features // 2,
            active=shape.k / 2, noise=0.3,
        )  # fmt: skip
        stream = iter(planted.batches(shape.batch, seed=0))
        rows = torch.stack([next(stream) for _ in range(BATCHES)])
        rows *= shape.d_model**0.5 / rows.norm(dim=-1).mean((0, 1))[:, None]
        with atomic_path(path) as temporary:
            torch.save(rows, temporary)
    return path


def paired(
    ours: Contender, other: Contender, task: dict[str, Any], *, threads: int, rounds: int, warm: int, steps: int
) -> dict[str, Any]:
    """Both in turn, `rounds` times: medians of seconds a step, and of the ratio within a round."""
    with Worker(ours, task, threads=threads) as one, Worker(other, task, threads=threads) as two:
        one.run(warm)
        two.run(warm)
        found = []
        for number in range(rounds):  # neither is always the first
            if number % 2:
                b, a = two.run(steps), one.run(steps)
            else:
                a, b = one.run(steps), two.run(steps)
            found.append((a, b))
    ratios = [b["seconds"] / a["seconds"] for a, b in found]
    return {
        "name": other.name,
        "ours": median(a["seconds"] for a, _ in found) / steps,
        "other": median(b["seconds"] for _, b in found) / steps,
        "ratio": median(ratios),
        "ratios": ratios,
        "memory": found[-1][1]["memory_gb"],
        "memory_ours": found[-1][0]["memory_gb"],
        "l0": found[-1][1].get("l0"),
    }


def alone(
    contender: Contender, task: dict[str, Any], *, threads: int, rounds: int, warm: int, steps: int
) -> dict[str, Any]:
    """One contender: seconds a step, memory, L0."""
    with Worker(contender, task, threads=threads) as worker:
        worker.run(warm)
        found = [worker.run(steps) for _ in range(rounds)]
    seconds = median(one["seconds"] for one in found) / steps
    return {"seconds": seconds, "memory": found[-1]["memory_gb"], "l0": found[-1].get("l0")}


def tried(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured of a contender, or why it was not."""
    try:
        row = measure()
    except (WorkerError, subprocess.CalledProcessError) as error:
        row = {"failed": str(error)}
    row = {"name": name} | row
    print(row, flush=True)
    return row
