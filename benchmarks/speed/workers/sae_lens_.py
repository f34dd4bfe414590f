"""SAELens: its trainer on one SAE as wide as all snapshots together."""

import logging

from common import batches, served, task
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

KINDS = {
    "batch_topk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
}


def main() -> None:
    of = task()
    logging.disable()
    make, settings = KINDS[of["settings"]["activation"]]
    sae = make(settings(d_in=of["n_snapshots"] * of["d_model"], d_sae=of["n_features"], k=of["k"], device="cpu"))
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=of["batch"], lr=1e-3, lr_end=1e-4, device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    rows = batches(of)
    SAETrainer(config, sae, served(rows.flatten(2))).fit()


if __name__ == "__main__":
    main()
