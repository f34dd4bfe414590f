"""Does a training take as long as `ontogeny plan --pace` says, and does it wait for its batches?

Usage, one measurement as JSON: python -m benchmarks.speed.pace STUDY SNAPSHOTS TOKENS THREADS
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ontogeny.activations.stream import ActivationStream, stream_of
from ontogeny.config.study import load_study
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.loop import numerics
from ontogeny.plan.pace import measure_pace
from ontogeny.plan.plan import plan_study
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.suites.suite import open_suite

STUDIES = Path(__file__).resolve().parents[2] / "studies"
SHAPES = (("english-all", 21, 400_000), ("english-all", 8, 600_000))
"""Study, how many of its snapshots, tokens of a training."""
STORE_GB = 30.0


class Timed:
    """A stream, and the seconds that its reader waited."""

    def __init__(self, stream: ActivationStream) -> None:
        self.stream, self.waited = stream, 0.0

    def __iter__(self) -> Iterator[Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        batches = self.stream.starting_at(batch)
        while True:
            started = time.perf_counter()
            rows = next(batches)
            self.waited += time.perf_counter() - started
            yield rows


def pace(threads: int) -> list[dict[str, Any]]:
    """Three rows a shape, each shape in a process of its own: streamed, storing, stored."""
    rows = []
    for shape in SHAPES:
        command = [sys.executable, "-m", "benchmarks.speed.pace", *map(str, shape), str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows += json.loads(done.stdout.splitlines()[-1])
    return rows


def measure(name: str, snapshots: int, tokens: int) -> list[dict[str, Any]]:
    """Seconds foretold before anything is done, and those that trainings then take."""
    study = load_study(STUDIES / f"{name}.yaml")
    assert study.suite.folder is not None
    steps = open_suite(study.suite.folder).steps
    chosen = [steps[round(place)] for place in np.linspace(0, len(steps) - 1, snapshots)]
    changes = {
        "suite": study.suite.model_copy(update={"steps": chosen}),
        "train": study.train.model_copy(update={"tokens": tokens, "store_gb": STORE_GB}),
        "analyses": [], "attribution": None, "truth": None, "report": False,
    }  # fmt: skip
    study = study.model_copy(update=changes)
    with tempfile.TemporaryDirectory() as folder:
        run = run_study(study, out=folder, until="pretrain", say=lambda _: None)
        return [row | {"snapshots": snapshots, "tokens": tokens} for row in _trainings(run)]


def _trainings(run: Run) -> Iterator[dict[str, Any]]:
    """The same training three times: from the models, from the models into a store, from the store; each foretold
    right before it is done."""
    tokens = run.study.train.steps * run.study.train.batch_size
    for way in ("streamed", "storing", "stored"):
        pace = measure_pace(plan_study(run.study, run.folder))
        read = {"streamed": pace.harvest, "storing": pace.harvest + pace.write, "stored": pace.read}[way]
        batches = Timed(stream_of(run, stored=way != "streamed"))
        started = time.perf_counter()
        train_crosscoder(batches, run.study.crosscoder)
        seconds = time.perf_counter() - started
        foretold = tokens * (read + pace.train)
        yield {"way": way, "foretold": foretold, "measured": seconds, "waited": batches.waited / seconds}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    with numerics():
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
