"""Memory that this machine leaves to a stage: what the system has available, within its limits."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class Room(NamedTuple):
    """Memory that is free: bytes, and where."""

    bytes: float
    where: str


def available_memory() -> Room | None:
    """What a stage can take: the free memory of a GPU where PyTorch uses one, else what the system has available.

    None where neither is known. PyTorch is loaded only where there is a GPU's driver.
    """
    if any(Path(device).exists() for device in GPU_DEVICES):
        import torch

        if torch.cuda.is_available():
            return Room(float(torch.cuda.mem_get_info()[0]), "the GPU")
    limits = [*_system_memory(), *_container_memory()]
    return Room(float(min(limits)), "this machine") if limits else None


def _system_memory() -> Iterator[int]:
    """MemAvailable, where the system is Linux."""
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else []:
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _container_memory() -> Iterator[int]:
    """Limits of this process's control group and of those above it (cgroup v2), where there are some."""
    own, root = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
    for line in own.read_text().splitlines() if own.is_file() else []:
        if line.startswith("0::/"):
            group = root / line.removeprefix("0::/")
            for folder in (group, *group.parents):
                limit = folder / "memory.max"
                if limit.is_file() and (text := limit.read_text().strip()) != "max":
                    yield int(text)
