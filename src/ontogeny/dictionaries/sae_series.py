"""The SAE series: an SAE for every snapshot, each trained on from its neighbour's weights, so that features keep their
index.

    z_i[θ] = x[θ] · W_enc[θ, :, i] + b_enc[θ, i]
    x̂[θ]  = Σ_i f_i[θ] W_dec[θ, i, :] + b_dec[θ]

It fills a crosscoder's canonical tensors, with encoder biases and thresholds for each snapshot. Every SAE is a
crosscoder of one snapshot, and trained as one.

Source: Tracking the Feature Dynamics in LLM Training (SAE-Track), arXiv 2412.17626.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.dictionary import Dictionary


class SAESeries(Dictionary):
    """Features read from each snapshot alone and decoded into it."""

    kind = "sae_series"
    one_encoder = False

    @classmethod
    def of(cls, saes: Sequence[Crosscoder]) -> "SAESeries":
        """From one SAE a snapshot, in order of the snapshots; their inference rules are kept."""
        tensors = [sae.tensors() for sae in saes]
        joined = {name: torch.cat([one[name] for one in tensors]) for name in ("W_enc", "W_dec", "b_dec", "norm_scale")}
        joined |= {
            name: torch.stack([one[name] for one in tensors]) for name in ("b_enc", "threshold") if name in tensors[0]
        }
        settings = {name: value for name, value in saes[0].settings().items() if name != "kind"}
        series = cls(**joined, **settings)
        golden = [sae.golden_inputs for sae in saes]
        if all(inputs is not None for inputs in golden):
            series.golden_inputs = torch.cat(golden, dim=1)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return series.requires_grad_(False).eval()

    def sae(self, snapshot: int) -> Crosscoder:
        """One snapshot's SAE."""
        place = slice(snapshot, snapshot + 1)
        tensors = {name: tensor[place] for name, tensor in self.tensors().items()}
        for name in ("b_enc", "threshold"):
            if name in tensors:
                tensors[name] = tensors[name][0]
        settings: dict[str, Any] = {name: value for name, value in self.settings().items() if name != "kind"}
        return Crosscoder(**tensors, **settings).requires_grad_(False).eval()

    def encode(
        self, x: Float[Tensor, "batch snapshot d_model"], *, k: int | None = None
    ) -> Float[Tensor, "batch snapshot feature"]:
        """Every snapshot's code of a batch in normalised units (raw ones when folded).

        Args:
            k: use the training rule with this k instead of the inference rule.
        """
        codes = [self.sae(place).encode(x[:, place : place + 1], k=k) for place in range(self.n_snapshots)]
        return torch.stack(codes, dim=1)

    def decode(self, code: Float[Tensor, "batch snapshot feature"]) -> Float[Tensor, "batch snapshot d_model"]:
        """Reconstruction of every snapshot's activations from its own code."""
        return torch.einsum("bsf,sfd->bsd", code, self.W_dec) + self.b_dec
