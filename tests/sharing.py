"""Training with features, or tokens, shared over processes: cases of CASES, whose dictionaries rank 0 writes.

Usage: torchrun --nproc-per-node 2 tests/sharing.py FOLDER NAME … [--kept] [--until STEP] [--replicas N]

With --kept a checkpoint is written after each step and gone on from; --until kills the last rank before a step.
"""

import argparse
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import ontogeny.loop
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.progress import speaks
from ontogeny.ranks import Ranks, joined
from ontogeny.truth.planted import plant

STEPS = 50
CASES: dict[str, dict[str, Any]] = {
    "batch_topk": {"activation": "batch_topk", "k": 4},
    "topk": {"activation": "topk", "k": 4},
    "relu": {"activation": "relu", "sparsity_weight": 1.0},
    "jumprelu": {"activation": "jumprelu", "sparsity": "tanh_quad", "sparsity_weight": 0.1},
    "aux": {"activation": "batch_topk", "k": 4, "aux_k": 8, "dead_after_tokens": 500},
}


class _Batches:
    """Planted batches; whoever has the last features dies before it reads number `until`."""

    def __init__(self, ranks: Ranks, until: int | None) -> None:
        self.ranks, self.until = ranks, until
        self.planted = plant(n_features=60, n_snapshots=3, d_model=32, active=4.0, seed=1)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[torch.Tensor]:
        print(f"from {batch}", flush=True)
        for number, x in enumerate(islice(iter(self.planted.batches(256)), batch, None), batch):
            if number == self.until and self.ranks.rank == self.ranks.size - 1:
                os._exit(9)
            yield x


def trained(
    name: str, ranks: Ranks, *, checkpoint: Path | None = None, until: int | None = None
) -> dict[str, torch.Tensor]:
    """A dictionary of 81 features, which two processes share unequally."""
    config = CrosscoderConfig(n_features=81, steps=STEPS, norm_tokens=256, kernels="torch", **CASES[name])
    return train_crosscoder(_Batches(ranks, until), config, ranks=ranks, checkpoint=checkpoint).tensors()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--until", type=int)
    parser.add_argument("--replicas", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.kept:
        ontogeny.loop.CHECKPOINT_SECONDS = 0.0
    with joined(asked.replicas) as ranks:
        for name in asked.names:
            checkpoint = asked.folder / f"{name}.pt" if asked.kept else None
            found = trained(name, ranks, checkpoint=checkpoint, until=asked.until)
            if speaks():
                save_file(found, asked.folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
