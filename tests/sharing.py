"""Training with features shared over processes: every case of CASES, whose dictionaries rank 0 writes.

Usage: torchrun --nproc-per-node 2 tests/sharing.py FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries.ranks import Ranks
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.truth.planted import plant

STEPS = 50
CASES: dict[str, dict[str, Any]] = {
    "batch_topk": {"activation": "batch_topk", "k": 4},
    "topk": {"activation": "topk", "k": 4},
    "relu": {"activation": "relu", "sparsity_weight": 1.0},
    "jumprelu": {"activation": "jumprelu", "sparsity": "tanh_quad", "sparsity_weight": 0.1},
    "aux": {"activation": "batch_topk", "k": 4, "aux_k": 8, "dead_after_tokens": 500},
}


def trained(name: str, ranks: Ranks) -> dict[str, torch.Tensor]:
    """A dictionary of 81 features, which two processes share unequally."""
    planted = plant(n_features=60, n_snapshots=3, d_model=32, active=4.0, seed=1)
    config = CrosscoderConfig(n_features=81, steps=STEPS, kernels="torch", **CASES[name])
    return train_crosscoder(planted.batches(256), config, ranks=ranks).tensors()


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks(init_device_mesh("cpu", (dist.get_world_size(),)))
    for name in CASES:
        found = trained(name, ranks)
        if ranks.rank == 0:
            save_file(found, Path(sys.argv[1]) / f"{name}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
