"""What a long stage says while it runs: a bar with the time left, and a log of events.

On a terminal the bar is drawn in place; elsewhere a line appears every few seconds. Both go to standard error, so that
standard output holds results only. Nothing is drawn before two seconds have passed.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ontogeny.errors import writing

QUIET_SECONDS = 2.0
LINE_EVERY_SECONDS = 10.0


class Events:
    """Appends one JSON object a line to `events.jsonl`: time, stage, event, and whatever else is known."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def emit(self, stage: str, event: str, **fields: Any) -> None:
        if self.path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "stage": stage, "event": event, **fields})
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def started_together() -> int:
    """Processes that torchrun started together with this one; 1 where it did not start it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def speaks() -> bool:
    """Whether this process says what is done: of those that torchrun started, the first."""
    return started_together() == 1 or os.environ["RANK"] == "0"


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole lines of an events log; a line cut off by a kill is left out."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


@runtime_checkable
class Bar(Protocol):
    """What a stage does with its progress bar."""

    def advance(self, amount: int = 1, **figures: float) -> None: ...


def duration(seconds: float) -> str:
    """As 2h05m, 3m20s or 45s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


class _Nothing:
    """Progress that nobody is told."""

    def advance(self, amount: int = 1, **figures: float) -> None: ...


class _Lines:
    """Progress as lines, for logs and pipes."""

    def __init__(self, stage: str, total: int | None, done: int, unit: str) -> None:
        self.stage, self.total, self.done, self.unit = stage, total, done, unit
        self.at_start, self.started, self.last = done, time.monotonic(), time.monotonic()
        self.every = QUIET_SECONDS

    def advance(self, amount: int = 1, **figures: float) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last, self.every = now, LINE_EVERY_SECONDS
        text = f"{self.stage:>10}  {self.done:,}"
        if self.total:
            rate = max(self.done - self.at_start, 1) / (now - self.started)
            left = duration(max(self.total - self.done, 0) / rate)
            text += f"/{self.total:,} {self.unit}  {100 * self.done / self.total:3.0f}%  {left} left"
        else:
            text += f" {self.unit}"
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{text}  {shown}".rstrip(), file=sys.stderr, flush=True)


class _Drawn:
    """Progress drawn in place by rich, for terminals."""

    def __init__(self, drawing: Any, task: Any, done: int) -> None:
        self.drawing, self.task, self.started = drawing, task, time.monotonic()

    def advance(self, amount: int = 1, **figures: float) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.drawing.update(self.task, advance=amount, figures=shown)
        if not self.drawing.tasks[0].visible and time.monotonic() - self.started > QUIET_SECONDS:
            self.drawing.update(self.task, visible=True)


@contextmanager
def progress_bar(stage: str, total: int | None, *, unit: str, done: int = 0) -> Iterator[Bar]:
    """A bar for `total` units of work of which `done` were finished by an earlier call."""
    if not speaks():
        yield _Nothing()
        return
    if not sys.stderr.isatty():
        yield _Lines(stage, total, done, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawing:
        task = drawing.add_task(stage, total=total, completed=done, figures="", visible=False)
        yield _Drawn(drawing, task, done)
