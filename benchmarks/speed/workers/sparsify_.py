"""sparsify: its TopK coder, as wide as all snapshots together, with the loss and the Adam of its trainer."""

import torch
from common import batches, serve, task
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor


def main() -> None:
    of = task()
    config = SparseCoderConfig(num_latents=of["n_features"], k=of["k"], activation=of["settings"]["activation"])
    coder = SparseCoder(of["n_snapshots"] * of["d_model"], config)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-3)

    def step(batch: Tensor) -> None:
        if config.normalize_decoder:
            coder.set_decoder_norm_to_unit_norm()
        loss = coder(batch.flatten(1)).fvu
        loss.backward()
        if config.normalize_decoder:
            coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        float(loss)

    serve(batches(of), step)


if __name__ == "__main__":
    main()
