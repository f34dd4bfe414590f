"""Products with codes of few active entries: the dense encode is left, all else here goes over the entries.

With pre = x W_encᵀ + b_enc known, a step needs the encoder outputs at some entries, their decoding, and the gradients
of both. All are sums of a few weighted rows, made without a [batch, feature] product, by PyTorch's `embedding_bag` or
by a backend (backends.py). Gradients of weights are the same sums over the entries in order of features.
"""

from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from ontogeny.dictionaries.backends import backend_for, backend_on
from ontogeny.ranks import ALONE, Ranks


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
    def row_starts(self) -> Int[Tensor, " row_and_end"]:
        """Where the entries of each row begin, and where the last ones end."""
        return _starts(self.row, self.shape[0])

    def of_rows(self, first: int, last: int) -> slice:
        """The entries of rows `first` … `last` - 1."""
        return slice(int(self.row_starts[first]), int(self.row_starts[last]))

    @cached_property
    def column_starts(self) -> Int[Tensor, " column_and_end"]:
        """The same of columns, for entries in their order."""
        return _starts(self.column, self.shape[1])

    @cached_property
    def by_column(self) -> Int[Tensor, " entry"]:
        """The entries in order of columns."""
        if backend := backend_on(self.column.device):
            return backend.order(self.column, self.column_starts)
        return self.column.argsort(stable=True)

    def sums_by_row(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Σ over each row's entries of weight · rows[column]: [row, width]."""
        return _weighted_sums(rows, self.column, weight, self.row_starts)

    def sums_by_column(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Σ over each column's entries of weight · rows[row]: [column, width]."""
        return _weighted_sums(rows, self.row[self.by_column], weight[self.by_column], self.column_starts)

    def products(self, left: Tensor, right: Tensor) -> Float[Tensor, " entry"]:
        """⟨left[row], right[column]⟩ of each entry."""
        left = left.contiguous()
        if backend := backend_for(left, right):
            return backend.products(left, right, self.column, self.row_starts)
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            left, right, self.column, self.row_starts[:-1], self.row, 0
        )

    def errors(self, code: Tensor, rows: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """error = Σ over each row's entries of code · rows[column] + bias - x, [row, width], and ⟨error[row],
        rows[column]⟩ of each entry."""
        x = x.contiguous()
        if backend := backend_for(code, rows, bias, x):
            return backend.errors(rows, self.column, code, self.row_starts, bias, x)
        error = self.sums_by_row(rows, code) + bias - x
        return error, self.products(error, rows)


def _starts(index: Tensor, size: int) -> Tensor:
    """Where each index begins in a sorted list of them, and the list's end."""
    starts = index.new_zeros(size + 1)
    torch.cumsum(torch.bincount(index, minlength=size), 0, out=starts[1:])
    return starts


def _weighted_sums(rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    if backend := backend_for(rows, weight):
        return backend.sums(rows, index, weight, starts)
    return embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weight, include_last_offset=True)


def above(
    values: Float[Tensor, "row column"],
    weight: Float[Tensor, " column"],
    bound: Float[Tensor, " column"],
    *,
    bias: Float[Tensor, " column"] | None = None,
) -> tuple[Int[Tensor, " entry"], Float[Tensor, " entry"]]:
    """Ascending places in the flattened matrix where (value + bias) · weight > bound, and these products."""
    bound, bias = bound.contiguous(), torch.zeros_like(weight) if bias is None else bias
    backend = backend_for(bias, weight, bound)
    if backend and values.is_contiguous() and values.dtype in (torch.float32, torch.bfloat16):
        return backend.above(values, bias, weight, bound)
    score = (values + bias) * weight
    places = (score > bound).flatten().nonzero()[:, 0]
    return places, score.flatten()[places]


class Left(NamedTuple):
    """A gradient of rows that was not made: Σ over each column's entries of weight · rows[row]."""

    entries: Entries
    rows: Tensor
    weight: Tensor


def rows_at(rows: Float[Tensor, "column width"], at: Int[Tensor, " some"]) -> Float[Tensor, "some width"]:
    """Some rows of a matrix, ascending; their gradient may be left to an optimiser."""
    return _RowsAt.apply(rows, at)  # type: ignore[return-value]


class _RowsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, at: Tensor) -> Tensor:
        ctx.rows, ctx.at = rows, at
        return rows.index_select(0, at)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        grad, at = grads[0].contiguous(), ctx.at
        entries = Entries(torch.arange(len(at), device=at.device), at, (len(at), len(ctx.rows)))
        return _of_rows(ctx.rows, entries, grad, grad.new_ones(len(at))), None


def _of_rows(parameter: Tensor, entries: Entries, rows: Tensor, weight: Tensor) -> Tensor | None:
    """The gradient of a matrix of rows; None where it is left to an optimiser that makes it in its step."""
    left: list[Left] | None = getattr(parameter, "left", None)
    if left is None:
        return entries.sums_by_column(rows, weight)
    left.append(Left(entries, rows, weight))
    return None


class _Norms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, groups: int) -> Tensor:
        norms = rows.view(len(rows), groups, -1).norm(dim=-1)
        ctx.save_for_backward(norms)
        ctx.rows = rows
        return norms

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (norms,) = ctx.saved_tensors
        radial = torch.where(norms > 0, grads[0] / norms, 0.0).contiguous()
        if getattr(ctx.rows, "left", None) is None:
            return with_radial(None, ctx.rows.detach(), radial), None
        before = ctx.rows.radial
        ctx.rows.radial = radial if before is None else before + radial
        return None, None


def with_radial(grad: Tensor | None, rows: Tensor, radial: Float[Tensor, "column group"]) -> Tensor:
    """A gradient of rows, which is used up, and radial · rows in each group of columns."""
    parts = rows.view(*radial.shape, -1)
    if grad is None:
        return (parts * radial[..., None]).view_as(rows)
    grad.view_as(parts).addcmul_(parts, radial[..., None])
    return grad


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, known: Tensor | None, entries: Entries) -> Tensor:
        ctx.save_for_backward(x)
        ctx.entries, ctx.W_enc = entries, W_enc
        return entries.products(x, W_enc) + b_enc[entries.column] if known is None else known.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None, None]:
        (x,), entries = ctx.saved_tensors, ctx.entries
        grad = grads[0].contiguous()
        of_x = entries.sums_by_row(ctx.W_enc, grad) if ctx.needs_input_grad[0] else None
        return of_x, _of_rows(ctx.W_enc, entries, x, grad), column_sums_of(grad, entries), None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code: Tensor, W_dec: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(code)
        ctx.entries, ctx.W_dec = entries, W_dec
        return entries.sums_by_row(W_dec, code)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (code,), entries = ctx.saved_tensors, ctx.entries
        grad = grads[0].contiguous()
        return entries.products(grad, ctx.W_dec), _of_rows(ctx.W_dec, entries, grad, code), None


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, code: Tensor, W_dec: Tensor, b_dec: Tensor, x: Tensor, entries: Entries, ranks: Ranks
    ) -> tuple[Tensor, Tensor]:
        if ranks.size == 1:
            error, products = entries.errors(code, W_dec, b_dec, x)
        else:
            error = ranks.summed(entries.sums_by_row(W_dec, code)) + b_dec - x
            products = entries.products(error, W_dec)
        ctx.save_for_backward(code, error, products)
        ctx.entries, ctx.W_dec = entries, W_dec
        ctx.mark_non_differentiable(error)
        return torch.linalg.vector_norm(error).square(), error

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None, None, None]:
        code, error, products = ctx.saved_tensors
        twice = 2 * grads[0]
        of_rows = _of_rows(ctx.W_dec, ctx.entries, error, twice * code)
        return twice * products, of_rows, twice * error.sum(0), None, None, None


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
    known: Float[Tensor, " entry"] | None,
    entries: Entries,
) -> Float[Tensor, " entry"]:
    """x W_encᵀ + b_enc at some entries, `known` or to be made, with its gradient there alone."""
    return _Read.apply(x, W_enc, b_enc, known, entries)  # type: ignore[return-value]


def norms(rows: Float[Tensor, "column width"], groups: int) -> Float[Tensor, "column group"]:
    """Norms of the groups of columns of every row; their gradient may be left to an optimiser, as what is radial."""
    return _Norms.apply(rows, groups)  # type: ignore[return-value]


def decode(
    code: Float[Tensor, " entry"], W_dec: Float[Tensor, "column width"], *, entries: Entries
) -> Float[Tensor, "row width"]:
    """code W_dec, for a code that is zero but at some entries."""
    return _Decode.apply(code, W_dec, entries)  # type: ignore[return-value]


def squared_error(
    code: Float[Tensor, " entry"],
    W_dec: Float[Tensor, "column width"],
    b_dec: Float[Tensor, " width"],
    x: Float[Tensor, "row width"],
    *,
    entries: Entries,
    ranks: Ranks = ALONE,
) -> tuple[Float[Tensor, ""], Float[Tensor, "row width"]]:
    """Σ error² with error = code W_dec + b_dec - x, and the error, a constant; x is one too. code W_dec is summed over
    ranks."""
    return _SquaredError.apply(code, W_dec, b_dec, x, entries, ranks)  # type: ignore[return-value]


def column_sums(values: Float[Tensor, " entry"], *, entries: Entries) -> Float[Tensor, " column"]:
    """Σ over each column's entries of their values."""
    return _ColumnSums.apply(values, entries)  # type: ignore[return-value]


def column_sums_of(values: Tensor, entries: Entries) -> Tensor:
    """The same without a gradient: one thread sums a column, so that the result is the same every time."""
    places = entries.by_column
    return embedding_bag(places, values[:, None], entries.column_starts, mode="sum", include_last_offset=True)[:, 0]
