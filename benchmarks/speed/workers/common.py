"""What every worker does: it is started with a task, prepares, and then makes as many steps as it is told.

A worker runs in its own process, a peer's in the peer's own environment, so this needs nothing but torch. One line of
JSON goes in as the only argument, the task; a number of steps comes in by each line of standard input, and a line of
JSON goes out for it.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Task = dict[str, Any]


def task() -> Task:
    """shape (snapshots, d_model, n_features, batch, k), settings, batches (a file), threads."""
    read = json.loads(sys.argv[1])
    torch.set_num_threads(read["threads"])
    return read


def batches(of: Task) -> Tensor:
    """[number, batch, snapshot, d_model], each snapshot's mean norm √d_model; mapped from a file."""
    return torch.load(of["batches"], mmap=True)


def tokens(of: Task) -> Tensor:
    """[sequence, position] of whole sequences, for those who harvest."""
    return torch.load(of["tokens"])


def say(**figures: float) -> None:
    """Answer."""
    print(json.dumps(figures), flush=True)


def commands() -> Iterator[int]:
    """Numbers of steps, as long as they come."""
    for line in sys.stdin:
        yield int(line)


def peak_gb() -> float:
    """Memory of this process at its peak, what it maps from files left out as far as the system tells."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def served(rows: Tensor, *, figures: Callable[[], dict[str, float]]) -> Iterator[Tensor]:
    """Batches without end for a loop that takes an iterable; it stands still between commands."""
    number = 0
    say(ready=1, memory_gb=peak_gb())
    for steps in commands():
        started = time.perf_counter()
        for _ in range(steps):
            yield rows[number % len(rows)]
            number += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        say(seconds=time.perf_counter() - started, memory_gb=peak_gb(), **figures())


def serve(rows: Tensor, step: Callable[[Tensor], dict[str, float]]) -> None:
    """The same for a peer whose step is a function."""
    last: dict[str, float] = {}
    for batch in served(rows, figures=last.copy):
        last |= step(batch)


def serve_batches(source: Iterable[Tensor]) -> None:
    """For those who harvest: take as many batches as told."""
    stream = iter(source)
    next(stream)
    say(ready=1, memory_gb=peak_gb())
    for number in commands():
        rows, started = 0, time.perf_counter()
        for _ in range(number):
            rows += len(next(stream))
        say(seconds=time.perf_counter() - started, rows=rows, memory_gb=peak_gb())
