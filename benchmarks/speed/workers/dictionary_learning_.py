"""dictionary_learning: its BatchTopK and TopK trainers on one SAE as wide as all snapshots together."""

from common import batches, serve, task
from dictionary_learning.trainers import BatchTopKTrainer, TopKTrainer
from torch import Tensor

TRAINERS = {"batch_topk": BatchTopKTrainer, "topk": TopKTrainer}


def main() -> None:
    of, number = task(), 0
    trainer = TRAINERS[of["settings"]["activation"]](
        steps=10**6, activation_dim=of["n_snapshots"] * of["d_model"], dict_size=of["n_features"], k=of["k"],
        layer=0, lm_name="", lr=1e-3, device="cpu",
    )  # fmt: skip

    def step(batch: Tensor) -> None:
        nonlocal number
        trainer.update(number, batch.flatten(1))
        number += 1

    serve(batches(of), step)


if __name__ == "__main__":
    main()
