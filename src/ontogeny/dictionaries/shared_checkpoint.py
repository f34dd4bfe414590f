"""A checkpoint of a training whose features are shared over processes: a folder that any number of them go on from.

PyTorch's distributed checkpoints keep every tensor whole, as DTensors say which part each process has of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from ontogeny.loop import Checkpoint
from ontogeny.ranks import Ranks

REST = "rest"


@dataclass(frozen=True)
class _Rest:
    """What is no tensor, and which axis of each tensor is that of features; PyTorch keeps it in one piece."""

    state: dict[str, Any]
    axes: dict[str, int | None]


class SharedCheckpoint(Checkpoint):
    """A `Checkpoint` in a folder that all processes write and read together, by way of the CPU.

    Args:
        begun: the file of a training that one process may have begun, gone on from where there is no folder.
        feature_axis: from a tensor's place in the state, such as `learner/silent_tokens`, to its axis of features; None
            where it has none, and all processes have the same.
        n_features: of all processes.
    """

    def __init__(
        self,
        path: Path | None,
        key: str,
        *,
        begun: Path | None,
        ranks: Ranks,
        feature_axis: Callable[[str], int | None],
        n_features: int,
    ) -> None:
        super().__init__(path, key)
        self.begun, self.ranks, self.feature_axis, self.n_features = begun, ranks, feature_axis, n_features
        self.mesh = None if ranks.mesh is None else init_device_mesh("cpu", (ranks.replicas, ranks.size))

    def _load(self) -> dict[str, Any] | None:
        assert self.path is not None
        folder = next(filter(Path.is_dir, (self.path, _aside(self.path))), None)
        if folder is None:
            state = Checkpoint(self.begun, self.key)._load()
            return None if state is None else self._own(state)
        kept: dict[str, Any] = {REST: None}
        dcp.load(kept, checkpoint_id=folder)
        rest: _Rest = kept[REST]
        sizes = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        room = {name: self._room(sizes[name], axis) for name, axis in rest.axes.items()}
        dcp.load(room, checkpoint_id=folder)
        return _put(
            rest.state, {name: one.to_local() if isinstance(one, DTensor) else one for name, one in room.items()}
        )

    def _own(self, state: dict[str, Any]) -> dict[str, Any]:
        """This process's part of a whole state."""
        tensors: dict[str, Tensor] = {}
        rest, own = _take(state, tensors), self.ranks.own(self.n_features)
        for name, value in tensors.items():
            if (axis := self.feature_axis(name)) is not None:
                tensors[name] = value.narrow(axis, own.start, own.stop - own.start).clone()
        return _put(rest, tensors)

    def _room(self, kept: Any, axis: int | None) -> Tensor:
        """An empty tensor for what this process has of a kept one."""
        shape, dtype = list(kept.size), kept.properties.dtype
        if axis is None or self.mesh is None:
            return torch.empty(shape, dtype=dtype)
        own = self.ranks.own(self.n_features)
        shape[axis] = own.stop - own.start
        return self._shared(torch.empty(shape, dtype=dtype), axis)

    def _shared(self, part: Tensor, axis: int) -> DTensor:
        """This process's part of a tensor, as one."""
        shape = list(part.shape)
        shape[axis] = self.n_features
        stride = torch.empty(shape, device="meta").stride()
        assert self.mesh is not None
        return DTensor.from_local(part, self.mesh, [Replicate(), Shard(axis)], shape=torch.Size(shape), stride=stride)

    def _is_due(self) -> bool:
        return bool(self.ranks.first(super()._is_due()))

    def _save(self, state: dict[str, Any]) -> None:
        assert self.path is not None
        writing, aside, first = self.path.with_name(f"{self.path.name}.writing"), _aside(self.path), self._is_first()
        if first:
            rmtree(writing, ignore_errors=True)
        self._wait()
        tensors: dict[str, Tensor] = {}
        rest = _take(state, tensors)
        axes = {name: self.feature_axis(name) for name in tensors}
        tensors = {name: value.cpu() for name, value in tensors.items()}
        if self.mesh is not None:
            for name, axis in axes.items():
                if axis is not None:
                    tensors[name] = self._shared(tensors[name], axis)
        dcp.save({REST: _Rest(rest, axes), **tensors}, checkpoint_id=writing)
        self._wait()
        if first:
            rmtree(aside, ignore_errors=True)
            if self.path.is_dir():
                self.path.rename(aside)
            writing.rename(self.path)
            rmtree(aside, ignore_errors=True)
        self._wait()

    def _is_first(self) -> bool:
        return self.ranks.rank == self.ranks.replica == 0

    def _wait(self) -> None:
        if not self.ranks.alone:
            dist.barrier()


def _aside(path: Path) -> Path:
    """Where the last checkpoint lies while a new one takes its place."""
    return path.with_name(f"{path.name}.before")


def _take(state: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """The state with its tensors, which are put under their names, taken out."""
    if isinstance(state, Tensor):
        tensors[name] = state
        return _Place(name)
    if isinstance(state, dict):
        return {key: _take(value, tensors, f"{name}/{key}".lstrip("/")) for key, value in state.items()}
    if isinstance(state, list):
        return [_take(value, tensors, f"{name}/{number}") for number, value in enumerate(state)]
    return state


def _put(state: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(state, _Place):
        return tensors[state]
    if isinstance(state, dict):
        return {key: _put(value, tensors) for key, value in state.items()}
    return [_put(value, tensors) for value in state] if isinstance(state, list) else state


class _Place(str):
    """The name of a tensor that was taken out of a state."""

    __slots__ = ()
