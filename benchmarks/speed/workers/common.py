"""What every worker does: it is started with a task, prepares, and then makes as many steps as it is told.

A worker runs in its own process, a peer's in the peer's own environment, so this needs nothing but torch. One line of
JSON goes in as the only argument, the task; a number of steps comes in by each line of standard input, and a line of
JSON goes out for it. Memory is this process's greatest since its imports, less what it had then.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Task = dict[str, Any]
_imported = 0.0


def task() -> Task:
    """n_snapshots, d_model, n_features, batch, k; settings; batches (a file); threads. Call it after the imports."""
    global _imported
    read = json.loads(sys.argv[1])
    torch.set_num_threads(read["threads"])
    if read["settings"].get("tuned"):  # products as the product takes them here, or the fastest that there are
        torch.set_float32_matmul_precision("medium" if read["settings"].get("rounded") else read["precision"])
    Path("/proc/self/clear_refs").write_text("5")  # the greatest begins anew
    _imported = _status("VmRSS")
    return read


def batches(of: Task) -> Tensor:
    """[number, batch, snapshot, d_model], each snapshot's mean norm √d_model."""
    return torch.load(of["batches"])


def tokens(of: Task) -> Tensor:
    """[sequence, position] of whole sequences, for those who harvest."""
    return torch.load(of["tokens"])


def say(**figures: float) -> None:
    """Answer."""
    print(json.dumps({"memory_gb": _status("VmHWM") - _imported, **figures}), flush=True)


def commands() -> Iterator[int]:
    """Numbers of steps, as long as they come."""
    for line in sys.stdin:
        yield int(line)


def _status(name: str) -> float:
    """A figure of this process, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e9


def served(rows: Tensor, *, figures: Callable[[], dict[str, float]] = dict) -> Iterator[Tensor]:
    """Batches without end for a loop that takes an iterable; it stands still between commands."""
    number = 0
    say(ready=1)
    for steps in commands():
        started = time.perf_counter()
        for _ in range(steps):
            yield rows[number % len(rows)]
            number += 1
        say(seconds=time.perf_counter() - started, **figures())


def serve(rows: Tensor, step: Callable[[Tensor], None]) -> None:
    """The same for a peer whose step is a function."""
    for batch in served(rows):
        step(batch)


def serve_batches(source: Iterable[Tensor]) -> None:
    """For those who harvest: take as many batches as told."""
    stream = iter(source)
    say(ready=1)
    for number in commands():
        rows, started = 0, time.perf_counter()
        for _ in range(number):
            rows += len(next(stream))
        say(seconds=time.perf_counter() - started, rows=rows)
