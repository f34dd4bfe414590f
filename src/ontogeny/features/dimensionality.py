"""How much of a dimension each feature has to itself.

D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)², 1 for a direction that no other overlaps with, 1/n for n features that share one.

Source: Elhage et al. 2022, Toy Models of Superposition; over snapshots arXiv 2509.17196.
"""

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_AT_ONCE = 8192


def dimensionality(W: Float[Tensor, "feature d_model"]) -> Float[Tensor, " feature"]:
    """D of each row, in float64; 0 where it is zero.

    Σ_j (Ŵ_i · W_j)² is Ŵ_i · (WᵀW) · Ŵ_i, so that no [feature, feature] matrix arises.
    """
    gram = torch.zeros(W.shape[1], W.shape[1], dtype=torch.float64, device=W.device)
    for rows in W.split(ROWS_AT_ONCE):
        gram += rows.double().T @ rows.double()
    found = []
    for rows in W.split(ROWS_AT_ONCE):
        exact = rows.double()
        square = exact.square().sum(1)
        overlap = ((exact @ gram) * exact).sum(1)  # times the square once more
        found.append(torch.where(square > 0, square**2 / overlap.clamp_min(1e-300), 0.0))
    return torch.cat(found) if found else W.new_zeros(0, dtype=torch.float64)


def total(W: Float[Tensor, "feature d_model"]) -> float:
    """Σ_i D_i / d_model: the share of the dimensions that is in use, at most 1."""
    return float(dimensionality(W).sum()) / W.shape[1]


def random_totals(norms: Float[Tensor, " feature"], d_model: int, *, draws: int, seed: int) -> Float[Tensor, " draw"]:
    """The same of random directions with given norms, draw by draw."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        directions = torch.nn.functional.normalize(torch.randn(len(norms), d_model, generator=generator), dim=1)
        found.append(total(directions * norms[:, None]))
    return torch.tensor(found)
