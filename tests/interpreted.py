"""Triton's programs for a GPU, interpreted on the CPU, beside PyTorch's functions: names of those that agree.

Usage: TRITON_INTERPRET=1 python tests/interpreted.py
"""

import torch

from ontogeny.dictionaries import on_gpu
from ontogeny.dictionaries.adam import adam
from ontogeny.dictionaries.kernels import Entries, above, with_radial

ROWS, COLUMNS, WIDTH = 12, 20, 300


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    pre, weight, bound = (torch.randn(*shape, generator=draw) for shape in ((ROWS, COLUMNS), (COLUMNS,), (COLUMNS,)))
    left, right = torch.randn(ROWS, WIDTH, generator=draw), torch.randn(COLUMNS, WIDTH, generator=draw)
    bias = torch.randn(WIDTH, generator=draw)
    places, score = above(pre, weight, bound)
    entries = Entries.at(places, (ROWS, COLUMNS))
    assert 0 < len(entries) < ROWS * COLUMNS
    index, starts, order = entries.column, entries.row_starts, entries.by_column
    own, usual = torch.nn.Parameter(right.clone()), torch.nn.Parameter(right.clone())
    moments, optimizer = [torch.zeros_like(right) for _ in range(2)], torch.optim.Adam([usual], lr=0.01)
    halves, plain = right.clone(), right.clone()
    kept, expected = ([torch.zeros_like(right, dtype=torch.bfloat16) for _ in range(2)] for _ in range(2))
    for step in (1, 2):
        numbers = {
            "rate": 0.01 / (1 - 0.9**step), "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "root": (1 - 0.999**step) ** 0.5,
            "seed": step, "before": 7,
        }  # fmt: skip
        radial = torch.randn(COLUMNS, 3, generator=draw)
        grad = with_radial(entries.sums_by_column(left, score), usual.detach(), radial)
        usual.grad = grad.clone()
        optimizer.step()
        given = left, entries.row[order], score[order], entries.column_starts
        on_gpu.adam(*given, own.data, *moments, radial, **numbers)
        on_gpu.adam(*given, halves, *kept, **numbers)
        adam(entries.sums_by_column(left, score), plain, *expected, **numbers)
    same = [float((one == other).double().mean()) for one, other in zip(kept, expected, strict=True)]
    for name, found, expected in (
        ("above", on_gpu.above(pre, torch.zeros_like(weight), weight, bound), (places, score)),
        ("order", on_gpu.order(index, entries.column_starts), order),
        ("sums", on_gpu.sums(right, index, score, starts), entries.sums_by_row(right, score)),
        ("products", on_gpu.products(left, right, index, starts), entries.products(left, right)),
        ("errors", on_gpu.errors(right, index, score, starts, bias, left), entries.errors(score, right, bias, left)),
        ("adam", own.data, usual.data),
        ("halves", halves, plain),
        ("moments", torch.tensor(same), torch.ones(2)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3 if name in ("halves", "moments") else 1e-3)
        print(name)


if __name__ == "__main__":
    main()
