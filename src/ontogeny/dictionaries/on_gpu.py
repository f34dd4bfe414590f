"""The functions of kernels.py on float32 tensors of a GPU, written in Triton, which PyTorch's GPU builds bring along.

A program makes a block of columns of one row, so that every sum is made in the order of its entries. What has no sum is
left to PyTorch.
"""

from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

BLOCK = 256
"""Columns of a program."""


def is_there() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def sums(rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    out = rows.new_empty(len(starts) - 1, rows.shape[1])
    _run("sums", out, rows, index, weight, starts, out)
    return out


def products(left: Tensor, right: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    out = left.new_empty(len(index))
    _programs().products[(len(left),)](left, right, index, starts, out, left.shape[1], BLOCK=BLOCK)
    return out


def errors(
    rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor, bias: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    error = torch.empty_like(x)
    _run("errors", error, rows, index, weight, starts, bias, x, error)
    return error, products(error, rows, index, starts)


def adam(
    rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor, value: Tensor, mean: Tensor, square: Tensor,
    radial: Tensor | None = None, *, rate: float, beta1: float, beta2: float, eps: float, root: float, seed: int,
    before: int,
) -> None:  # fmt: skip
    halves = mean.dtype == torch.bfloat16
    moments = [one.view(torch.int16) if halves else one for one in (mean, square)]
    beside = (value, 1) if radial is None else (radial, radial.shape[1])
    numbers = rate, 1 - beta1, beta2, 1 - beta2, eps, root, seed, before
    given = rows, index, weight, starts, value, *moments, *beside, *numbers
    _run("adam", value, *given, HALVES=halves, RADIAL=radial is not None)


def above(values: Tensor, bias: Tensor, weight: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    score = (values + bias) * weight
    places = (score > bound).flatten().nonzero()[:, 0]
    return places, score.flatten()[places]


def order(column: Tensor, starts: Tensor) -> Tensor:
    return column.argsort(stable=True)


def _run(name: str, over: Tensor, *arguments: Any, **constants: Any) -> None:
    """A program for each row of a matrix and block of its columns."""
    rows, width = over.shape
    getattr(_programs(), name)[(rows, -(-width // BLOCK))](*arguments, width, BLOCK=BLOCK, **constants)


def _programs() -> ModuleType:
    """The programs, loaded when they are first needed: Triton need not be there."""
    from ontogeny.dictionaries import triton_programs

    return triton_programs
