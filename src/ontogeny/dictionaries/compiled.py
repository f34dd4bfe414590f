"""The compiled functions of kernels.c: built once with the machine's C compiler, called on tensors, a thread a share.

Where there is no compiler, nothing is compiled and PyTorch's own functions are used.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ontogeny.run import atomic_path, default_cache

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math",
         "-shared", "-fPIC")  # fmt: skip
FUNCTIONS = ("sums", "adam", "products", "errors", "above", "order")
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
    for name in FUNCTIONS:
        getattr(loaded, name).restype = ctypes.c_int64
    return loaded


def _processor() -> str:
    """What the compiled functions are for: they hold instructions that other processors lack."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


@cache
def _others(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="ontogeny-kernels")


def over(function: Callable[..., Any], ends: list[int], *arguments: Any) -> list[Any]:
    """Call a function for the shares between `ends`, each in a thread of its own; what they return."""
    given = [_passed(one) for one in arguments]
    own, *others = [(ctypes.c_int64(first), ctypes.c_int64(last)) for first, last in pairwise(ends)]
    waiting = [_others(len(others)).submit(function, *share, *given) for share in others]
    found = [function(*own, *given), *(one.result() for one in waiting)]
    if -1 in found:
        raise MemoryError(f"no memory for {function.__name__}")
    return found


def shares(size: int) -> list[int]:
    """Where as many equal shares of a range begin and end as there are threads."""
    threads = max(1, min(torch.get_num_threads(), size))
    return [size * number // threads for number in range(threads + 1)]


def shares_of(starts: Tensor) -> list[int]:
    """The same of rows whose entries begin at `starts` (the end among them), with about as many entries each."""
    threads = max(1, min(torch.get_num_threads(), len(starts) - 1))
    wanted = starts.new_tensor([int(starts[-1]) * number // threads for number in range(1, threads)])
    return [0, *torch.searchsorted(starts[:-1], wanted).tolist(), len(starts) - 1]


def _passed(value: Any) -> Any:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        assert value.dtype in (torch.float32, torch.int64)
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)
