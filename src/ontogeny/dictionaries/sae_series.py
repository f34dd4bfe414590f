"""The SAE series: an SAE for every snapshot, each trained on from its neighbour's weights, so that features keep their
index.

    z_i[θ] = x[θ] · W_enc[θ, :, i] + b_enc[θ, i]
    x̂[θ]  = Σ_i f_i[θ] W_dec[θ, i, :] + b_dec[θ]

It fills a crosscoder's canonical tensors, with encoder biases and thresholds for each snapshot. Every SAE is a
crosscoder of one snapshot, and trained as one.

Source: Tracking the Feature Dynamics in LLM Training (SAE-Track), arXiv 2412.17626.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.dictionary import Dictionary, Part


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
        series = cls(**joined, **saes[0].options())
        golden = [sae.golden_inputs for sae in saes]
        if all(inputs is not None for inputs in golden):
            series.golden_inputs = torch.cat(golden, dim=1)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return series.requires_grad_(False).eval()

    def sae(self, snapshot: int) -> Crosscoder:
        """One snapshot's SAE."""
        place = slice(snapshot, snapshot + 1)
        tensors = {name: getattr(self, name)[place] for name in ("W_enc", "W_dec", "b_dec", "norm_scale")}
        threshold = None if self.threshold is None else self.threshold[snapshot]
        sae = Crosscoder(**tensors, b_enc=self.b_enc[snapshot], threshold=threshold, **self.options())
        return sae.requires_grad_(False).eval()

    def parts(self) -> list[Part]:
        """An SAE for each snapshot."""
        return [Part(slice(place, place + 1), self.sae(place)) for place in range(self.n_snapshots)]

    def encode(
        self, x: Float[Tensor, "batch snapshot d_model"], *, k: int | None = None
    ) -> Float[Tensor, "batch snapshot feature"]:
        """Every snapshot's code of a batch in normalised units (raw ones when folded).

        Args:
            k: use the training rule with this k instead of the inference rule.
        """
        return torch.stack([sae.encode(x[:, at], k=k) for at, sae in self.parts()], dim=1)

    def decode(self, code: Float[Tensor, "batch snapshot feature"]) -> Float[Tensor, "batch snapshot d_model"]:
        """Reconstruction of every snapshot's activations from its own code."""
        return torch.einsum("bsf,sfd->bsd", code, self.W_dec) + self.b_dec


def with_mean_code(sae: Crosscoder, mean: Float[Tensor, " feature"]) -> Crosscoder:
    """The same function with codes of mean 1 where active: a factor moved between each feature's encoder and decoder.

    What an SAE's loss leaves open is how a contribution is shared between code and direction. With one mean code for
    all snapshots, strength is what a feature contributes where it is active, and can be compared between them.

    Args:
        mean: each feature's mean code where it is active; features where it is 0 stay as they are.
    """
    factor = torch.where(mean > 0, 1 / mean, torch.ones_like(mean))
    tensors = sae.tensors()
    tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * factor, tensors["b_enc"] * factor
    tensors["W_dec"] = tensors["W_dec"] / factor[:, None]
    same = Crosscoder(**tensors, **sae.options()).requires_grad_(False).eval()
    same.golden_inputs = sae.golden_inputs
    return same
