"""The functions of kernels.c on float32 tensors of the CPU: built once with the machine's C compiler, a thread a share.

They are a `Backend` of kernels.py, which says what each of them gives.
"""

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ontogeny.files import atomic_path, default_cache

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math",
         "-shared", "-fPIC")  # fmt: skip
ROOM = 512
"""Entries a row that `above` begins with room for."""
SECONDS = 120
"""That compiling may take."""


@cache
def library() -> ctypes.CDLL | None:
    """The functions, compiled if they were not before; None where that cannot be."""
    compiler = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CC"), *COMPILERS)))), None)
    if compiler is None:
        return None
    made_of = [SOURCE.read_text(encoding="utf-8"), compiler, *FLAGS, _processor()]
    path = default_cache() / "kernels" / f"{sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
    try:
        if not path.is_file():
            with atomic_path(path) as temporary:
                command = [compiler, *FLAGS, str(SOURCE), "-o", str(temporary), "-lm"]
                subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None
    for name in ("sums", "adam", "products", "errors", "above", "order"):
        getattr(loaded, name).restype = ctypes.c_int64
    return loaded


def _processor() -> str:
    """What the compiled functions are for: they hold instructions that other processors lack."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def is_there() -> bool:
    """Whether there is a compiler, and what it makes can be loaded."""
    return library() is not None


def sums(rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    out = rows.new_empty(len(starts) - 1, rows.shape[1])
    _call("sums", _shares_of(starts), rows, len(rows), rows.shape[1], index, weight, starts, out)
    return out


def products(left: Tensor, right: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    out = left.new_zeros(len(index))
    _call("products", _shares_of(starts), left, right, len(right), right.shape[1], index, starts, out)
    return out


def errors(
    rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor, bias: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    error, out = torch.empty_like(x), x.new_zeros(len(index))
    matrix = rows, len(rows), rows.shape[1]
    _call("errors", _shares_of(starts), *matrix, index, weight, starts, bias, x, error, out)
    return error, out


def adam(
    rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor, value: Tensor, mean: Tensor, square: Tensor,
    radial: Tensor | None = None, *, rate: float, beta1: float, beta2: float, eps: float, root: float, seed: int,
    before: int,
) -> None:  # fmt: skip
    given = rows, len(rows), rows.shape[1], index, weight, starts
    halves = int(mean.dtype == torch.bfloat16)
    beside = (value, 0) if radial is None else (radial, radial.shape[1])
    numbers = halves, seed, before, rate, beta1, beta2, eps, root
    _call("adam", _shares_of(starts), *given, value, mean, square, *beside, *numbers)


def above(values: Tensor, bias: Tensor, weight: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    (rows, columns), halves = values.shape, int(values.dtype == torch.bfloat16)
    ends, room = _shares(rows), min(columns, ROOM)
    while True:
        place, score = torch.empty(rows * room, dtype=torch.int64), weight.new_empty(rows * room)
        counts = _call("above", ends, values, halves, columns, bias, weight, bound, room, place, score)
        if min(counts) >= 0:
            break
        room = min(columns, 4 * room)
    found = [slice(first * room, first * room + count) for first, count in zip(ends[:-1], counts, strict=True)]
    return torch.cat([place[one] for one in found]), torch.cat([score[one] for one in found])


def order(column: Tensor, starts: Tensor) -> Tensor:
    out, following = torch.empty_like(column), starts.clone()
    _call("order", [0, len(column)], column, following, out)
    return out


def _call(name: str, ends: list[int], *arguments: Tensor | int | float) -> list[int]:
    """Call a function for the shares between `ends`, each in a thread of its own; what they return."""
    function, given = getattr(library(), name), [_passed(one) for one in arguments]
    own, *others = [(ctypes.c_int64(first), ctypes.c_int64(last)) for first, last in pairwise(ends)]
    waiting = [_threads(len(others)).submit(function, *share, *given) for share in others]
    found = [function(*own, *given), *(one.result() for one in waiting)]
    if -1 in found:
        raise MemoryError(f"no memory for {name}")
    return found


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="ontogeny-kernels")


def _shares(size: int) -> list[int]:
    """Where as many equal shares of a range begin and end as there are threads."""
    threads = max(1, min(torch.get_num_threads(), size))
    return [size * number // threads for number in range(threads + 1)]


def _shares_of(starts: Tensor) -> list[int]:
    """The same of rows whose entries begin at `starts` (the end among them), with about as many entries each."""
    threads = max(1, min(torch.get_num_threads(), len(starts) - 1))
    wanted = starts.new_tensor([int(starts[-1]) * number // threads for number in range(1, threads)])
    return [0, *torch.searchsorted(starts[:-1], wanted).tolist(), len(starts) - 1]


def _passed(value: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        assert value.dtype in (torch.float32, torch.int64, torch.bfloat16)
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)
