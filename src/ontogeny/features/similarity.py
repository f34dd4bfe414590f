"""How alike two snapshots are in what they make of the same tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def linear_cka(x: Float[Tensor, "token d_model"], y: Float[Tensor, "token d_model"]) -> float:
    """Centred kernel alignment of two sets of activations [token, d_model] of the same tokens, with linear kernels.

    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    x, y = (one.double() - one.double().mean(0) for one in (x, y))
    return _aligned(x, y) / (_aligned(x, x) * _aligned(y, y)) ** 0.5


def linear_ckas(read: Sequence[Float[Tensor, "token d_model"]]) -> Float[np.ndarray, "snapshot snapshot"]:
    """The same of all pairs of some snapshots."""
    centred = [one.double() - one.double().mean(0) for one in read]
    found = np.empty((len(read), len(read)))
    for place, x in enumerate(centred):
        for other, y in enumerate(centred[: place + 1]):
            found[place, other] = found[other, place] = _aligned(x, y)
    own = np.sqrt(found.diagonal())
    return found / own[:, None] / own


def _aligned(x: Tensor, y: Tensor) -> float:
    return float((x.T @ y).square().sum())


def token_cosine(x: Float[Tensor, "token d_model"], y: Float[Tensor, "token d_model"]) -> float:
    """Mean cosine of each token's two activations."""
    return float(torch.nn.functional.cosine_similarity(x, y, dim=1).mean())
