"""The loop that anyone would write first: dense products, autograd, Adam."""

import torch
from common import batches, serve, task
from torch import Tensor


def main() -> None:
    of = task()
    rows, k = batches(of), of["k"]
    width = of["n_snapshots"] * of["d_model"]
    W_dec = torch.nn.functional.normalize(torch.randn(of["n_features"], width), dim=1).requires_grad_()
    W_enc = W_dec.detach().T.clone().requires_grad_()
    b_enc, b_dec = (torch.zeros(size, requires_grad=True) for size in (of["n_features"], width))
    fused = {"fused": True} if of["settings"].get("tuned") else {}
    optimizer = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=1e-3, **fused)
    kind = of["settings"]["activation"]

    def step(batch: Tensor) -> None:
        x = batch.flatten(1)
        code = torch.relu(x @ W_enc + b_enc)
        score = code * W_dec.view(of["n_features"], of["n_snapshots"], -1).norm(dim=2).sum(1)
        if kind == "batch_topk":
            least = score.detach().flatten().topk(k * len(x), sorted=False).values.min()
            code = code * (score.detach() >= least)
        loss = (x - (code @ W_dec + b_dec)).square().sum(1).mean()
        if kind == "relu":
            loss = loss + of["settings"]["weight"] * score.sum(1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss)

    serve(rows, step)


if __name__ == "__main__":
    main()
