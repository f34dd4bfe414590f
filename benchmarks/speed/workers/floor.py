"""A reference: one dense encode by float32 products, and PyTorch's fused Adam over all weights and their gradients."""

import torch
from common import batches, serve, task
from torch import Tensor


def main() -> None:
    of = task()
    rows, width = batches(of), of["n_snapshots"] * of["d_model"]
    W_enc, W_dec = (torch.randn(of["n_features"], width, requires_grad=True) for _ in range(2))
    W_enc.grad, W_dec.grad = torch.zeros_like(W_enc), torch.zeros_like(W_dec)
    optimizer = torch.optim.Adam([W_enc, W_dec], lr=1e-3, fused=True)

    @torch.no_grad()
    def step(batch: Tensor) -> None:
        batch.flatten(1) @ W_enc.T
        optimizer.step()

    serve(rows, step)


if __name__ == "__main__":
    main()
