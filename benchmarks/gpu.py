"""What a GPU makes of training: its kernels beside PyTorch's, then whole steps beside a plain loop and the floor.

Usage: python -m benchmarks.gpu [--out FILE] [--device cpu --small]

The floor is one dense encode in bfloat16 and Adam's pass over the weights, which no training goes without. With
`--device cpu --small` the script itself is tried where there is no GPU; its figures then mean nothing.
"""

import argparse
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries.adam import adam
from ontogeny.dictionaries.backends import backend_for, fastest, using
from ontogeny.dictionaries.kernels import Entries, above, with_radial
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.files import write_json
from ontogeny.loop import numerics

Row = dict[str, Any]
WARM, STEPS = 3, 5


class Shape(NamedTuple):
    """The sizes of a training."""

    n_snapshots: int
    d_model: int
    n_features: int
    batch: int
    k: int = 64

    def __str__(self) -> str:
        return f"{self.n_snapshots} × {self.d_model} × {self.n_features:,}, batch {self.batch:,}"


SHAPES = (Shape(8, 768, 24_576, 4096), Shape(32, 768, 24_576, 4096), Shape(32, 768, 98_304, 4096))
SMALL = (Shape(2, 16, 64, 128, 4), Shape(3, 16, 96, 64, 4))
LOW = {"encode_dtype": "bfloat16", "moments": "bfloat16"}


def check(device: torch.device) -> list[Row]:
    """Each kernel beside PyTorch's functions on random input: the greatest difference, as a share of the greatest."""
    if device.type == "cuda" and fastest(device) == "torch":
        raise SystemExit("there is nothing to check: Triton is not installed")
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    rows = []
    for size, columns, width in ((7, 9, 5), (300, 500, 777), (64, 2000, 4096)):
        pre, weight, bound = normal(size, columns), normal(columns), normal(columns)
        left, right, bias, start = normal(size, width), normal(columns, width), normal(width), normal(columns, width)
        radial, found = normal(columns, 4 if width % 4 == 0 else 1), {}
        for name in ("torch", fastest(device)):
            with using(name, device):
                places, score = above(pre, weight, bound)
                entries = Entries.at(places, (size, columns))
                error, products = entries.errors(score, right, bias, left)
                found[name] = {
                    "above": score, "sums by row": entries.sums_by_row(right, score),
                    "sums by column": entries.sums_by_column(left, score), "products": entries.products(left, right),
                    "errors": error, "products with errors": products,
                }  # fmt: skip
                for kind in MOMENTS:
                    value, moments = _adam_steps(entries, left, score, start, radial, kind)
                    found[name] |= {f"Adam, {kind} moments": value, f"mean of squares, {kind}": moments[1]}
        for kernel, slow in found["torch"].items():
            fast = found[fastest(device)][kernel]
            off = float((fast - slow).abs().max() / slow.abs().max()) if len(slow) else 0.0
            rows.append({"kernel": kernel, "shape": f"{size} × {columns} × {width}", "difference": off})
            if "bfloat16" in kernel and "squares" in kernel:  # rounded alike, but for sums in another order
                off = float((fast != slow).double().mean())
                rows[-1]["difference"] = off
            if off > (2e-2 if "bfloat16" in kernel else 1e-4):
                raise SystemExit(f"{kernel} is wrong at {rows[-1]['shape']}: it differs by {off:.2g}")
    return rows


MOMENTS = ("float32", "bfloat16")


def _adam_steps(
    entries: Entries, rows: Tensor, weight: Tensor, start: Tensor, radial: Tensor, kind: str
) -> tuple[Tensor, list[Tensor]]:
    """Weights and moments after two steps with other gradients, by the backend in use or by PyTorch's functions."""
    value, moments = start.clone(), [torch.zeros_like(start, dtype=getattr(torch, kind)) for _ in range(2)]
    for step in (1, 2):
        rows = rows if step == 1 else rows.flip(0) + 0.1
        numbers = {
            "rate": 0.01 / (1 - 0.9**step), "beta1": 0.9, "beta2": 0.999, "eps": 1e-3, "root": (1 - 0.999**step) ** 0.5,
            "seed": step, "before": 0,
        }  # fmt: skip
        if (backend := backend_for(value, rows, weight)) is not None:
            order = entries.by_column
            backend.adam(
                rows, entries.row[order], weight[order], entries.column_starts, value, *moments, radial, **numbers
            )
        elif kind == "bfloat16":
            adam(with_radial(entries.sums_by_column(rows, weight), value, radial), value, *moments, **numbers)
        else:
            grad, (mean, square) = with_radial(entries.sums_by_column(rows, weight), value, radial), moments
            mean.lerp_(grad, 0.1)
            square.mul_(0.999).addcmul_(grad, grad, value=0.001)
            value -= numbers["rate"] * mean / (square.sqrt() / numbers["root"] + numbers["eps"])
    return value, moments


def steps_of(shape: Shape, device: torch.device) -> list[Row]:
    """Seconds a step and greatest memory: ours as it is, ours in low precision, a plain loop, the floor."""
    rows = torch.randn(4, shape.batch, shape.n_snapshots, shape.d_model, device=device)
    runs = {
        "the floor": lambda: _floor(shape, device),
        "plain loop, bfloat16": lambda: _plain(rows, shape),
        "Ontogeny, float32": lambda: _ours(rows, shape, device),
        "Ontogeny, bfloat16 encode and moments": lambda: _ours(rows, shape, device, **LOW),
    }
    found = []
    for name, run in runs.items():
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = run()
        except torch.cuda.OutOfMemoryError:
            found.append({"name": name, "shape": str(shape), "failed": "out of memory"})
            continue
        peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
        found.append(
            {"name": name, "shape": str(shape), "seconds": seconds, "tokens": shape.batch / seconds, "memory": peak}
        )
    floor = found[0].get("seconds")
    return [row | {"share": floor / row["seconds"]} if floor and "seconds" in row else row for row in found]


def _ours(rows: Tensor, shape: Shape, device: torch.device, **settings: Any) -> float:
    """The training as it is, fed with given batches."""
    times: list[float] = []

    def batches() -> Iterator[Tensor]:
        for number in range(WARM + STEPS + 1):
            if number == WARM and device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()  # of steps, not of the start
            _wait(device)
            times.append(time.perf_counter())
            yield rows[number % len(rows)]

    config = CrosscoderConfig(
        n_features=shape.n_features, k=shape.k, steps=WARM + STEPS, warmup=0.0, norm_tokens=1, aux_k=0, **settings
    )
    train_crosscoder(batches(), config, device=device)
    return (times[WARM + STEPS - 1] - times[WARM - 1]) / STEPS


def _plain(rows: Tensor, shape: Shape) -> float:
    """The loop that anyone would write first, by autocast."""
    width, device = shape.n_snapshots * shape.d_model, rows.device
    W_dec = torch.nn.functional.normalize(torch.randn(shape.n_features, width, device=device), dim=1).requires_grad_()
    W_enc = W_dec.detach().T.clone().requires_grad_()
    b_enc, b_dec = (torch.zeros(size, device=device, requires_grad=True) for size in (shape.n_features, width))
    optimizer = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=1e-4, fused=True)

    def step(batch: Tensor) -> None:
        x = batch.flatten(1)
        with torch.autocast(device.type, torch.bfloat16):
            code = torch.relu(x @ W_enc + b_enc)
            score = code * W_dec.view(shape.n_features, shape.n_snapshots, -1).norm(dim=2).sum(1)
            least = score.detach().flatten().topk(shape.k * len(x), sorted=False).values.min()
            loss = (x - ((code * (score.detach() >= least)) @ W_dec + b_dec)).square().sum(1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _timed(lambda number: step(rows[number % len(rows)]), device)


def _floor(shape: Shape, device: torch.device) -> float:
    """One dense encode in bfloat16, and Adam with bfloat16 moments read and written once."""
    width = shape.n_snapshots * shape.d_model
    x = torch.randn(shape.batch, width, device=device, dtype=torch.bfloat16)
    W_enc = torch.randn(shape.n_features, width, device=device, dtype=torch.bfloat16)
    encode = _timed(lambda _, x=x, W_enc=W_enc: x @ W_enc.T, device)
    del x, W_enc
    value = torch.randn(shape.n_features, width, device=device)
    moments = torch.zeros(2, shape.n_features, width, device=device, dtype=torch.bfloat16)

    def touch(_: int) -> None:
        value.mul_(1.0)
        moments.mul_(1.0)

    return encode + 2 * _timed(touch, device)


def _timed(step: Any, device: torch.device) -> float:
    """Seconds a call."""
    for number in range(WARM):
        step(number)
    _wait(device)
    started = time.perf_counter()
    for number in range(STEPS):
        step(number)
    _wait(device)
    return (time.perf_counter() - started) / STEPS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: --device cpu --small tries the script without one")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "steps": []}
    with numerics():
        found["kernels"] = check(device)
        for row in found["kernels"]:
            print(f"{row['kernel']:28} {row['shape']:20} {row['difference']:.1e}")
        for shape in SMALL if asked.small else SHAPES:
            found["steps"] += steps_of(shape, device)
            for row in found["steps"][-4:]:
                print(json.dumps(row, ensure_ascii=False), flush=True)
            if asked.out is not None:
                write_json(asked.out, found)


if __name__ == "__main__":
    main()
