"""Products with codes of few active entries: the dense encode is left, all else here goes over the entries.

With pre = x W_encᵀ + b_enc known, a step needs the encoder outputs at some entries, their decoding, and the gradients
of both. All are sums of a few weighted rows, which `embedding_bag` does without a [batch, feature] product; gradients
of weights are the same sums over the entries in order of features. Compiled kernels would take this module's place.
"""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


class Entries:
    """Places in a [row, column] matrix, in order of rows.

    Attributes:
        row, column: of each entry [entry].
        shape: of the matrix.
    """

    def __init__(self, row: Int[Tensor, " entry"], column: Int[Tensor, " entry"], shape: tuple[int, int]) -> None:
        self.row, self.column, self.shape = row, column, shape

    @classmethod
    def at(cls, places: Int[Tensor, " entry"], shape: tuple[int, int]) -> "Entries":
        """From ascending places in the flattened matrix."""
        row = places.div(shape[1], rounding_mode="floor")
        return cls(row, places - row * shape[1], shape)

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def row_starts(self) -> Int[Tensor, " row"]:
        return _starts(self.row, self.shape[0])

    def of_rows(self, first: int, last: int) -> slice:
        """The entries of rows `first` … `last` - 1."""
        return slice(int(self.row_starts[first]), int(self.row_starts[last]) if last < self.shape[0] else len(self))

    @cached_property
    def column_starts(self) -> Int[Tensor, " column"]:
        return _starts(self.column, self.shape[1])

    @cached_property
    def by_column(self) -> Int[Tensor, " entry"]:
        """The entries in order of columns."""
        return self.column.argsort(stable=True)

    def sums_by_row(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Σ over each row's entries of weight · rows[column]: [row, …]."""
        return _weighted_sums(rows, self.column, weight, self.row_starts)

    def sums_by_column(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Σ over each column's entries of weight · rows[row]: [column, …]."""
        return _weighted_sums(rows, self.row[self.by_column], weight[self.by_column], self.column_starts)

    def products(self, left: Tensor, right: Tensor) -> Float[Tensor, " entry"]:
        """⟨left[row], right[column]⟩ of each entry."""
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            left.contiguous(), right, self.column, self.row_starts, self.row, 0
        )


def _starts(index: Tensor, size: int) -> Tensor:
    """Where each index begins in a sorted list of them, by their counts."""
    counts = torch.bincount(index, minlength=size)
    return counts.cumsum(0) - counts


def _weighted_sums(rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    return embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weight)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, pre: Tensor | None, entries: Entries) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.entries = entries
        if pre is None:
            return entries.products(x, W_enc) + b_enc[entries.column]
        return pre.flatten()[entries.row * entries.shape[1] + entries.column]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, W_enc = ctx.saved_tensors
        entries: Entries = ctx.entries
        grad = grads[0].contiguous()
        of_x = entries.sums_by_row(W_enc, grad) if ctx.needs_input_grad[0] else None
        return of_x, entries.sums_by_column(x, grad), column_sums_of(grad, entries), None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code: Tensor, W_dec: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(code, W_dec)
        ctx.entries = entries
        return entries.sums_by_row(W_dec, code)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        code, W_dec = ctx.saved_tensors
        entries: Entries = ctx.entries
        grad = grads[0].contiguous()
        return entries.products(grad, W_dec), entries.sums_by_column(grad, code), None


class _ColumnSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, entries: Entries) -> Tensor:
        ctx.entries = entries
        return column_sums_of(values, entries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.entries.column), None


def read(
    x: Float[Tensor, "row width"],
    W_enc: Float[Tensor, "column width"],
    b_enc: Float[Tensor, " column"],
    *,
    pre: Float[Tensor, "row column"] | None,
    entries: Entries,
) -> Float[Tensor, " entry"]:
    """x W_encᵀ + b_enc at some entries, with its gradient there alone; read from `pre` where that is known."""
    return _Read.apply(x, W_enc, b_enc, pre, entries)  # type: ignore[return-value]


def decode(
    code: Float[Tensor, " entry"], W_dec: Float[Tensor, "column width"], *, entries: Entries
) -> Float[Tensor, "row width"]:
    """code W_dec, for a code that is zero but at some entries."""
    return _Decode.apply(code, W_dec, entries)  # type: ignore[return-value]


def column_sums(values: Float[Tensor, " entry"], *, entries: Entries) -> Float[Tensor, " column"]:
    """Σ over each column's entries of their values."""
    return _ColumnSums.apply(values, entries)  # type: ignore[return-value]


def column_sums_of(values: Tensor, entries: Entries) -> Tensor:
    """The same without a gradient: one thread sums a column, so that the result is the same every time."""
    ordered = values[entries.by_column][:, None]
    places = torch.arange(len(ordered), device=ordered.device)
    return embedding_bag(places, ordered, entries.column_starts, mode="sum")[:, 0]
