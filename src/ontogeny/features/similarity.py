"""How alike two snapshots are in what they make of the same tokens."""

import torch
from jaxtyping import Float
from torch import Tensor


def linear_cka(x: Float[Tensor, "token d_model"], y: Float[Tensor, "token d_model"]) -> float:
    """Centred kernel alignment of two sets of activations [token, d_model] of the same tokens, with linear kernels.

    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    x, y = (one.double() - one.double().mean(0) for one in (x, y))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def token_cosine(x: Float[Tensor, "token d_model"], y: Float[Tensor, "token d_model"]) -> float:
    """Mean cosine of each token's two activations."""
    return float(torch.nn.functional.cosine_similarity(x, y, dim=1).mean())
