"""One process beside two that share the features, or the tokens, of the same training; each process has one thread.

Usage, by torchrun: python -m torch.distributed.run --nproc-per-node N -m benchmarks.speed.together SHAPE REPLICAS STEPS
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from benchmarks.speed.pairs import Shape, batches_of
from benchmarks.speed.training import SHAPES
from torch import Tensor

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.progress import speaks
from ontogeny.ranks import joined

WAYS = {"one process": (1, 1), "two share the features": (2, 1), "two share the tokens": (2, 2)}
ROUNDS, WARM, STEPS = 3, 3, 10


def together(threads: int) -> list[dict[str, Any]]:
    """A row per shape and way: median seconds a step; ways take turns."""
    del threads
    found = []
    for number, shape in enumerate(SHAPES):
        batches_of(shape)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(ROUNDS):
            for name, (processes, replicas) in WAYS.items():
                launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
                own = ["-m", "benchmarks.speed.together", str(number), str(replicas), str(STEPS)]
                done = subprocess.run(
                    [sys.executable, *launcher, *own],
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seconds[name].append(json.loads(done.stdout.splitlines()[-1])["seconds"])
        one = seconds["one process"]
        for name, own in seconds.items():
            ratio = median(alone / other for alone, other in zip(one, own, strict=True))
            row = {"shape": str(shape), "name": name, "seconds": median(own), "ratio": ratio, "batch": shape.batch}
            found.append(row)
            print(row, flush=True)
    return found


def measure(shape: Shape, replicas: int, steps: int) -> None:
    """Print seconds a step, of a process that torchrun started."""
    torch.set_num_threads(1)
    rows, times = torch.load(batches_of(shape)), []

    def batches() -> Iterator[Tensor]:
        for number in range(WARM + steps + 1):
            times.append(time.perf_counter())
            yield rows[number % len(rows)]

    config = CrosscoderConfig(n_features=shape.n_features, k=shape.k, steps=WARM + steps, norm_tokens=1, aux_k=0)
    with joined(replicas) as ranks:
        train_crosscoder(batches(), config, ranks=ranks)
    if speaks():
        print(json.dumps({"seconds": (times[WARM + steps - 1] - times[WARM - 1]) / steps}))


if __name__ == "__main__":
    measure(SHAPES[int(sys.argv[1])], int(sys.argv[2]), int(sys.argv[3]))
