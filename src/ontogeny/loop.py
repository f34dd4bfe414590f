"""The one training loop. Pre-training and dictionaries are learners of it.

A learner turns a batch into a loss; the loop does the rest: schedule, gradients, checkpoints, exact resume, progress.
A killed loop that is called again with the same arguments ends in the same weights, bit for bit: batches are addressed
by their number, and a checkpoint keeps the weights, the optimiser, the random state and the number of threads.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ontogeny.errors import TrainingError
from ontogeny.files import atomic_path
from ontogeny.progress import Events, progress_bar, started_together

CHECKPOINT_SECONDS = 60.0
LOG_EVERY_STEPS = 20

Schedule = Callable[[int], float]


@runtime_checkable
class Learner(Protocol):
    """What the loop trains."""

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and the figures to show."""
        ...

    def before_step(self, step: int) -> None:
        """Called before each step's batch, and once after the last: evaluate, save a snapshot."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, apart from the optimiser and the random state."""
        ...

    def restore(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Resumable(Protocol):
    """Batches that can be taken up at any number."""

    def starting_at(self, batch: int) -> Iterator[Tensor]: ...


class Checkpoint:
    """A file for the state of work that may be interrupted, written about once a minute under a temporary name.

    With the state goes what every result depends on in its last bits: the number of threads and the precision of
    products. Reading sets both, so read inside `numerics()`.

    Args:
        path: None keeps nothing.
        key: fingerprint of everything that the work depends on; a state under another key is ignored.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        self.written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The state kept under the key, or None.

        Raises:
            TrainingError: the file is damaged.
        """
        if self.path is None:
            return None
        try:
            state = self._load()
        except Exception as error:  # torch, pickle and zipfile each raise their own
            raise TrainingError(
                f"the checkpoint {self.path} cannot be read ({error}): remove it to start again"
            ) from error
        if state is None or state["key"] != self.key:
            return None
        torch.set_num_threads(state["threads"])
        torch.set_float32_matmul_precision(state["matmul_precision"])
        return state

    def write_if_due(self, state: Callable[[], dict[str, Any]], *, now: bool = False) -> bool:
        """Write what `state` gives, if the last time is long ago, or it is to be now; whether it was.

        Raises:
            DiskFullError: there is no space left.
        """
        if self.path is None or not (self._is_due() or now):
            return False
        numbers = {"threads": torch.get_num_threads(), "matmul_precision": torch.get_float32_matmul_precision()}
        self._save({"key": self.key, **numbers, **state()})
        self.written = time.monotonic()
        return True

    def _is_due(self) -> bool:
        return time.monotonic() - self.written >= CHECKPOINT_SECONDS

    def _load(self) -> dict[str, Any] | None:
        """What is in the file, where there is one."""
        assert self.path is not None
        if not self.path.is_file():
            return None
        return torch.load(
            self.path, weights_only=True, map_location="cpu", mmap=True
        )  # large: not held beside its copy

    def _save(self, state: dict[str, Any]) -> None:
        assert self.path is not None
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:  # to a path torch hides why it fails
            torch.save(state, file)


def warmup_decay(*, total: int | None, warmup: int, decay: int) -> Schedule:
    """A factor on the learning rate: linear rise over `warmup` steps, constant, linear fall over the last `decay`."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        fall = min(1.0, (total - step) / decay) if total is not None and decay else 1.0
        return min(rise, fall)

    return factor


def warmup_cosine(*, total: int, warmup: int, final: float) -> Schedule:
    """A factor on the learning rate: linear rise over `warmup` steps, then half a cosine down to `final`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, total - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def run_loop(
    learner: Learner,
    batches: Iterable[Tensor],
    *,
    stage: str,
    steps: int | None,
    schedule: Schedule,
    clip_norm: float | None = None,
    checkpoint: Checkpoint,
    events: Events | None = None,
    tokens_per_step: int | None = None,
) -> int:
    """Train until `steps` or the end of the batches, from the checkpoint if there is one.

    Args:
        batches: a `Resumable` is taken up where a checkpoint stands; any other iterable is read past it.
        checkpoint: where the training state is kept; the caller removes it when the result is saved.
    Returns:
        The number of steps done.
    Raises:
        TrainingError: the loss is not finite.
    """
    events = events or Events()
    learning_rates = [group["lr"] for group in learner.optimizer.param_groups]
    with numerics(), _stop_asked() as stop:
        start = _restore(learner, checkpoint.read())
        if start:
            events.emit(stage, "resumed", step=start)
        step, shown = start, {}
        with progress_bar(stage, steps, unit="steps", done=start) as bar:
            for batch in islice(_from(batches, start), None if steps is None else steps - start):
                learner.before_step(step)
                for group, rate in zip(learner.optimizer.param_groups, learning_rates, strict=True):
                    group["lr"] = rate * schedule(step)
                loss, figures = learner.loss(batch, step)
                if not math.isfinite(loss.item()):
                    raise TrainingError(
                        f"{stage}: the loss is {loss.item()} at step {step}: lower the learning rate, or look for "
                        "values that are not finite in the data"
                    )
                loss.backward()
                if clip_norm is not None:
                    parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]
                    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
                learner.optimizer.step()
                learner.optimizer.zero_grad(set_to_none=True)
                step += 1
                shown = {"loss": loss.item(), **figures}
                bar.advance(1, **shown)
                if step % LOG_EVERY_STEPS == 0:
                    tokens = {} if tokens_per_step is None else {"tokens": step * tokens_per_step}
                    events.emit(stage, "step", step=step, **tokens, **shown)
                if checkpoint.write_if_due(partial(_state, learner, step), now=stop.is_set()):
                    events.emit(stage, "checkpoint", step=step)
                if stop.is_set():
                    raise KeyboardInterrupt
        learner.before_step(step)
    events.emit(stage, "trained", step=step, **shown)
    return step


def _from(batches: Iterable[Tensor], start: int) -> Iterator[Tensor]:
    if isinstance(batches, Resumable):
        yield from batches.starting_at(start)
        return
    for number, batch in enumerate(batches):
        if number >= start:
            yield batch


@contextmanager
def numerics() -> Iterator[None]:
    """Deterministic algorithms, so that a resume repeats every bit, and the fastest float32 products that are exact.

    On a GPU an operation without a deterministic form warns instead of failing. New memory is not filled with nan, as
    PyTorch would do beside: no operation here reads what it has not written, and the filling made a step of
    pre-training a fifth slower.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    memory.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.set_float32_matmul_precision(matmul_precision())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_float32_matmul_precision(precision)
        memory.fill_uninitialized_memory = filling


@cache
def matmul_precision() -> str:
    """`medium` where that leaves float32 products exact to 1e-5 on this machine, else `highest`.

    The flag lets PyTorch take another library for products. On processors without matrix units for bfloat16 the result
    is as good and comes sooner; elsewhere factors are rounded to bfloat16, which the probe sees.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(512, 512, generator=torch.Generator().manual_seed(seed)).to(device) for seed in (0, 1))
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    error = float(((a @ b) - exact).abs().max() / exact.abs().max())
    torch.set_float32_matmul_precision(before)
    return "medium" if error < 1e-5 else "highest"


@contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """Set by Ctrl-C, or by the signal that a cluster sends when time is over: the step in work is done first.

    A second one stops at once. Nothing changes in a thread other than the first, which hears no signals, and where
    several processes train together, which would hear them at different steps.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread() or started_together() > 1:
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _state(learner: Learner, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "optimizer": learner.optimizer.state_dict(),
        "learner": learner.state(),
    }


def _restore(learner: Learner, state: dict[str, Any] | None) -> int:
    if state is None:
        return 0
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available() and state["random_cuda"] is not None:
        torch.cuda.set_rng_state(state["random_cuda"])
    learner.restore(state["learner"])
    learner.optimizer.load_state_dict(state["optimizer"])
    return state["step"]
