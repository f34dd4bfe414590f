"""What makes products with codes of few active entries: compiled functions, where they can be had, or PyTorch's.

A backend is the compiled functions for one kind of device: compiled.py (kernels.c) for the CPU, on_gpu.py (Triton) for
a GPU. One is in use at a time; kernels.py asks for it and has PyTorch's way beside.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ontogeny.dictionaries import compiled, on_gpu
from ontogeny.errors import TrainingError

KERNELS = ("searching", "compiled", "torch")
SEARCH_PAYS = 3.0
"""Times as long as products in bfloat16 those in float32 have to take, for rounded outputs to be worth it."""


@runtime_checkable
class Backend(Protocol):
    """What a compiled backend gives; `starts` says where each row's entries begin and where the last ones end, `index`
    which row of the other matrix each entry means."""

    def is_there(self) -> bool: ...

    def sums(self, rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
        """Σ weight · rows[index] of each row's entries: [row, width]."""
        ...

    def products(self, left: Tensor, right: Tensor, index: Tensor, starts: Tensor) -> Tensor:
        """⟨left[row], right[index]⟩ of each entry."""
        ...

    def errors(
        self, rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor, bias: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """error = sums + bias - x, and ⟨error[row], rows[index]⟩ of each entry."""
        ...

    def adam(
        self, rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor, value: Tensor, mean: Tensor, square: Tensor,
        radial: Tensor | None = None, *, rate: float, beta1: float, beta2: float, eps: float, root: float, seed: int,
        before: int,
    ) -> None:  # fmt: skip
        """A step of Adam on `value` with `sums` as the gradient, which is never in memory, and radial · value beside,
        where a row's columns are groups of equal size and `radial` [row, group] has a factor for each.

        rate = lr / (1 - beta1^t), root = √(1 - beta2^t). `mean` and `square` are float32, or bfloat16 rounded at
        random, by the seed and each value's place in a matrix that has `before` values before these.
        """
        ...

    def above(self, values: Tensor, bias: Tensor, weight: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Ascending places in the flattened matrix where (value + bias) · weight > bound, and these products. `values`
        are float32 or bfloat16."""
        ...

    def order(self, column: Tensor, starts: Tensor) -> Tensor:
        """Entries in order of their columns, which begin at `starts`; those of one column in their own."""
        ...


BACKENDS: dict[str, Backend] = {"cpu": compiled, "cuda": on_gpu}
"""By the kind of device."""
_in_use: Backend | None = None


def fastest(device: torch.device) -> str:
    """The fastest of KERNELS there."""
    if _compiled_for(device) is None:
        return "torch"
    return "searching" if device.type == "cpu" and _rounding_pays() else "compiled"


def settled(device: torch.device, before: str | None) -> str:
    """What was the fastest before, where it can be had here as well, so that a chain of trainings ends in the same bits
    wherever it was interrupted; else the fastest now."""
    now = fastest(device)
    if before is None or now == "torch":
        return now
    return now if before == "searching" and not torch.cpu._is_avx512_bf16_supported() else before


@cache
def _rounding_pays() -> bool:
    """Whether products in bfloat16 take so much less time here than those in float32, both as `numerics` has them."""
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    a, b = torch.rand(512, 2048), torch.rand(1024, 2048)
    low_a, low_b = a.bfloat16(), b.bfloat16()
    return min(_seconds(a, b) for _ in range(5)) > SEARCH_PAYS * min(_seconds(low_a, low_b) for _ in range(5))


def _seconds(a: Tensor, b: Tensor) -> float:
    started = time.perf_counter()
    torch.mm(a, b.T)
    return time.perf_counter() - started


def _compiled_for(device: torch.device) -> Backend | None:
    backend = BACKENDS.get(device.type)
    return backend if backend is not None and backend.is_there() else None


@contextmanager
def using(name: str, device: torch.device) -> Iterator[None]:
    """Make products by these of KERNELS; compiled ones are for float32, all others stay with PyTorch.

    Raises:
        TrainingError: nothing can be compiled here.
    """
    global _in_use
    wanted = None if name == "torch" else _compiled_for(device)
    if name != "torch" and wanted is None:
        lacking = "Triton" if device.type == "cuda" else "a C compiler"
        raise TrainingError(f"train.kernels: {name} ones are asked for, which need {lacking}: install it")
    before, _in_use = _in_use, wanted
    try:
        yield
    finally:
        _in_use = before


def backend_on(device: torch.device) -> Backend | None:
    """The backend in use, if it is for this kind of device."""
    return _in_use if BACKENDS.get(device.type) is _in_use else None


def backend_for(*tensors: Tensor) -> Backend | None:
    """The backend in use, if it is for these tensors."""
    fit = all(one.dtype == torch.float32 and backend_on(one.device) and one.is_contiguous() for one in tensors)
    return _in_use if fit else None
