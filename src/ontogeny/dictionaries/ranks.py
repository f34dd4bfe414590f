"""Processes that share a crosscoder's features: each holds some of them and sees every batch.

In a step they pass the scores that compete for a place in the code, one sum of partial reconstructions, and figures.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh


class Ranks:
    """The processes, or this one alone.

    Args:
        mesh: of one dimension, over the processes; None for this one alone.
    """

    def __init__(self, mesh: DeviceMesh | None = None) -> None:
        self.mesh = mesh
        self.rank, self.size = (0, 1) if mesh is None else (mesh.get_local_rank(), mesh.size())

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def group(self) -> Any:
        return None if self.mesh is None else self.mesh.get_group()

    def own(self, n_features: int) -> slice:
        """This process's share of the features, as `torch.chunk` and DTensor cut it."""
        each = -(-n_features // self.size)
        return slice(min(each * self.rank, n_features), min(each * (self.rank + 1), n_features))

    def total(self, partial: Tensor) -> Tensor:
        """Σ over processes of what each adds; the gradient of the sum is that of each part."""
        return partial if self.alone else _Total.apply(partial, self)  # type: ignore[return-value]

    def summed(self, value: Tensor) -> Tensor:
        """Σ over processes, without a gradient."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def least(self, value: Tensor) -> Tensor:
        """The smallest over processes, without a gradient."""
        return self._reduced(value, dist.ReduceOp.MIN)

    def _reduced(self, value: Tensor, operation: Any) -> Tensor:
        if self.alone:
            return value
        value = value.detach().clone()
        dist.all_reduce(value, operation, group=self.group)
        return value

    def stacked(self, table: Tensor) -> Float[Tensor, "rank ..."]:
        """Tables of one shape, one from each process."""
        if self.alone:
            return table[None]
        tables = [torch.empty_like(table) for _ in range(self.size)]
        dist.all_gather(tables, table.contiguous(), group=self.group)
        return torch.stack(tables)

    def gathered(self, values: Float[Tensor, " own"]) -> Float[Tensor, " all"]:
        """The values of all processes, which may have unequal numbers of them."""
        if self.alone:
            return values
        counts = self.stacked(torch.tensor([len(values)], device=values.device))[:, 0]
        padded = values.new_zeros(int(counts.max()))
        padded[: len(values)] = values
        return torch.cat([own[:count] for own, count in zip(self.stacked(padded), counts.tolist(), strict=True)])

    def whole(self, part: Tensor, axis: int, size: int) -> Tensor:
        """All of a tensor whose `axis`, of `size` features, is shared out; in each process."""
        if self.alone:
            return part
        room = list(part.shape)
        room[axis] = -(-size // self.size)
        padded = part.new_zeros(room)
        padded.narrow(axis, 0, part.shape[axis]).copy_(part)
        return torch.cat(list(self.stacked(padded)), axis).narrow(axis, 0, size).contiguous()


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, ranks: Ranks) -> Tensor:
        return ranks.summed(partial)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


ALONE = Ranks()
