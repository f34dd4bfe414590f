"""llamascopium (OpenMOSS): its crosscoder and its trainer, in float32 and without metrics."""

import logging
import tempfile
from collections.abc import Iterator

import torch
from common import batches, served, task
from llamascopium.models.crosscoder import Crosscoder, CrosscoderConfig
from llamascopium.trainer import Trainer, TrainerConfig
from torch import Tensor

KINDS = {"batch_topk": "batchtopk", "topk": "topk", "jumprelu": "jumprelu"}


def main() -> None:
    of = task()
    logging.disable()
    kind, names = of["settings"]["activation"], [f"snapshot{number}" for number in range(of["n_snapshots"])]
    crosscoder = Crosscoder(
        CrosscoderConfig(
            hook_points=names, d_model=of["d_model"], expansion_factor=of["n_features"] / of["d_model"],
            act_fn=KINDS[kind], top_k=of["k"], norm_activation="inference", device="cpu", dtype=torch.float32,
        )
    )  # fmt: skip
    torch.manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn_like(crosscoder.W_D), dim=-1)
    with torch.no_grad():
        crosscoder.W_D.copy_(W_dec)
        crosscoder.W_E.copy_(W_dec.transpose(1, 2))
        crosscoder.b_E.zero_()
        crosscoder.b_D.zero_()
        if kind == "jumprelu":
            crosscoder.activation_function.log_jumprelu_threshold.fill_(0.0)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainerConfig(
            amp_dtype=torch.float32, skip_metrics_calculation=True, k_warmup_steps=0, lr=1e-3, lr_warm_up_steps=1,
            total_training_tokens=10**9, n_checkpoints=0, exp_result_path=folder,
            sparsity_loss_type="tanh" if kind == "jumprelu" else None,
            l1_coefficient=of["settings"].get("weight"), l1_coefficient_warmup_steps=1,
        )  # fmt: skip
        Trainer(config).fit(crosscoder, named(served(batches(of)), names))


def named(stream: Iterator[Tensor], names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Batches as its trainer takes them: by hookpoint, with token numbers and a mask."""
    for batch in stream:
        there = torch.ones(batch.shape[:2], dtype=torch.long)
        yield {name: batch[:, place] for place, name in enumerate(names)} | {"tokens": there[:, 0], "mask": there}


if __name__ == "__main__":
    main()
