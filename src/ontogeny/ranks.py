"""Processes that train one crosscoder. They share its features: each holds some of them and sees every batch. Or they
share the tokens of a batch, as replicas that hold the same. Or both, in a mesh: replicas that share features each.

In a step those who share features pass the scores that compete for a place in the code, one sum of partial
reconstructions, and figures; replicas pass the means that a loss is no sum of, and average their gradients.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ontogeny.errors import ConfigError, TrainingError
from ontogeny.progress import started_together

PATIENCE = timedelta(days=30)
"""How long a process waits for the others, which pack a corpus or pre-train before they need it."""


class Ranks:
    """The processes, or this one alone.

    Args:
        mesh: over replicas and parts of the features, in this order; None for this one alone.

    Attributes:
        rank, size: this process's place among those that share its replica's features, and their number.
        replica, replicas: the same of those that have the same features.
        at_work: whether all are at what the first has told them; after an exception they still are.
    """

    at_work = False

    def __init__(self, mesh: DeviceMesh | None = None) -> None:
        self.mesh = mesh
        self.replica, self.rank = (0, 0) if mesh is None else (mesh.get_local_rank(0), mesh.get_local_rank(1))
        self.replicas, self.size = (1, 1) if mesh is None else (mesh.size(0), mesh.size(1))

    @property
    def alone(self) -> bool:
        return self.size * self.replicas == 1

    @property
    def device(self) -> torch.device:
        """Where what passes between them has to be."""
        return torch.device("cpu" if self.mesh is None else self.mesh.device_type)

    @property
    def group(self) -> Any:
        """Those that share the features."""
        return None if self.mesh is None else self.mesh.get_group(1)

    @property
    def same(self) -> Any:
        """Those that have the same features."""
        return None if self.mesh is None else self.mesh.get_group(0)

    def own(self, n_features: int) -> slice:
        """This process's share of the features."""
        return _share(n_features, self.rank, self.size)

    def tokens(self, batch: Tensor) -> Tensor:
        """This replica's share of a batch.

        Raises:
            TrainingError: the shares are not equal.
        """
        if len(batch) % self.replicas:
            raise TrainingError(
                f"train.replicas: {self.replicas} cannot share batches of {len(batch)} tokens equally: change "
                "train.batch_size"
            )
        return batch.chunk(self.replicas)[self.replica]

    def total(self, partial: Tensor) -> Tensor:
        """Σ over parts of the features of what each adds; the gradient of the sum is that of each part."""
        return partial if self.size == 1 else _Same.apply(partial, self.summed)  # type: ignore[return-value]

    def mean(self, value: Tensor) -> Tensor:
        """Mean over replicas; as they average their gradients, that of the mean is handed to each."""
        return value if self.replicas == 1 else _Same.apply(value, self.averaged)  # type: ignore[return-value]

    def summed(self, value: Tensor) -> Tensor:
        """Σ over parts of the features, without a gradient."""
        return value if self.size == 1 else _reduced(value, dist.ReduceOp.SUM, self.group)

    def averaged(self, value: Tensor) -> Tensor:
        """Mean over replicas, without a gradient."""
        return value if self.replicas == 1 else _reduced(value, dist.ReduceOp.SUM, self.same) / self.replicas

    def least(self, value: Tensor) -> Tensor:
        """The smallest of all processes, without a gradient."""
        return value if self.alone else _reduced(value, dist.ReduceOp.MIN, None)

    def any(self, flags: Tensor) -> Tensor:
        """Which flags are set in some replica."""
        return flags if self.replicas == 1 else self.averaged(flags.float()) > 0

    def first(self, value: float) -> float:
        """The first process's number."""
        if self.alone:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(told, 0)
        return float(told)

    def stacked(self, table: Tensor) -> Float[Tensor, "rank ..."]:
        """Tables of one shape, one from each part of the features."""
        return table[None] if self.size == 1 else _stacked(table, self.size, self.group)

    def gathered(self, values: Float[Tensor, " own"]) -> Float[Tensor, " all"]:
        """The values of all processes, which may have unequal numbers of them."""
        if self.alone:
            return values
        number = self.size * self.replicas
        counts = _stacked(torch.tensor([len(values)], device=values.device), number, None)[:, 0]
        padded = values.new_zeros(int(counts.max()))
        padded[: len(values)] = values
        every = _stacked(padded, number, None)
        return torch.cat([own[:count] for own, count in zip(every, counts.tolist(), strict=True)])

    def whole(self, part: Tensor, axis: int, size: int) -> Tensor | None:
        """All of a tensor on the CPU whose `axis`, of `size` features, is shared out, in the first process; None in the
        others."""
        if self.size == 1:
            return part
        padded, number = _padded(part, axis, -(-size // self.size)), self.size * self.replicas
        parts = [torch.empty_like(padded) for _ in range(number)] if dist.get_rank() == 0 else None
        dist.gather(padded, parts)
        return None if parts is None else _side_by_side(parts[: self.size], axis, size)

    def snapshots(self, n: int) -> slice:
        """This process's share of `n` snapshots; there may be none for it."""
        return _share(n, self.replica * self.size + self.rank, self.size * self.replicas)

    def all_snapshots(self, part: Float[Tensor, "row own d_model"], n: int) -> Float[Tensor, "row snapshot d_model"]:
        """What all processes have of `n` snapshots; in each."""
        return part if self.alone else _whole(part, 1, n, self.size * self.replicas, None)

    @contextmanager
    def all_at(self, what: Any) -> Iterator[None]:
        """Have the others begin what this process, the first, is about to do with them."""
        self.tell(what)
        self.at_work = True
        yield
        self.at_work = False

    def tell(self, what: Any = None) -> Any:
        """What the first process says, in each."""
        if self.alone:
            return what
        told = [what]
        dist.broadcast_object_list(told, 0, device=torch.device("cpu"))
        dist.barrier()  # whoever tells might end before the others have heard it
        return told[0]


def _share(size: int, place: int, number: int) -> slice:
    """A process's share, as `torch.chunk` and DTensor cut it."""
    each = -(-size // number)
    return slice(min(each * place, size), min(each * (place + 1), size))


def _reduced(value: Tensor, operation: Any, group: Any) -> Tensor:
    value = value.detach().clone()
    dist.all_reduce(value, operation, group=group)
    return value


def _whole(part: Tensor, axis: int, size: int, number: int, group: Any) -> Tensor:
    """The parts of a tensor side by side."""
    padded = _padded(part, axis, -(-size // number))
    return _side_by_side(list(_stacked(padded, number, group)), axis, size)


def _padded(part: Tensor, axis: int, size: int) -> Tensor:
    room = list(part.shape)
    room[axis] = size
    padded = part.new_zeros(room)
    padded.narrow(axis, 0, part.shape[axis]).copy_(part)
    return padded


def _side_by_side(parts: list[Tensor], axis: int, size: int) -> Tensor:
    return torch.cat(parts, axis).narrow(axis, 0, size).contiguous()


def _stacked(table: Tensor, number: int, group: Any) -> Tensor:
    tables = [torch.empty_like(table) for _ in range(number)]
    dist.all_gather(tables, table.contiguous(), group=group)
    return torch.stack(tables)


class _Same(torch.autograd.Function):
    """A reduction whose gradient is handed on as it is."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        return reduce(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


ALONE = Ranks()
_joined = [ALONE]


@contextmanager
def joined(replicas: int = 1) -> Iterator[Ranks]:
    """The processes that torchrun started, until the block ends; this one alone where it did not.

    Raises:
        ConfigError: they cannot be shared by so many replicas.
    """
    if (number := started_together()) == 1:
        yield ALONE
        return
    if number % replicas:
        raise ConfigError(f"train.replicas: {replicas} do not divide the {number} processes: change one of them")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    ranks = Ranks(init_device_mesh(device, (replicas, number // replicas)))
    _joined.append(ranks)
    try:
        yield ranks
    finally:
        _joined.remove(ranks)
    dist.destroy_process_group()  # after an exception it might wait for the others; torchrun ends them all


def together() -> Ranks:
    """The processes that this one has joined; it alone, if none."""
    return _joined[-1]
