"""Similarity within a set of vectors."""

import torch
from jaxtyping import Float
from torch import Tensor


def mean_cosine(vectors: Float[Tensor, "point width"]) -> float:
    """Mean cosine over all pairs of different points, in closed form; a zero vector is similar to nothing.

    (‖Σ û‖² - Σ‖û‖²) / (k (k - 1)) with û the unit vectors.

    Raises:
        ValueError: fewer than two points.
    Source: SAE-Track, arXiv 2412.17626, progress measure in activation space.
    """
    k = len(vectors)
    if k < 2:
        raise ValueError(f"pairs need two points or more, found {k}")
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (k * (k - 1)))
