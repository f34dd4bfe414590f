"""The crosscoder over snapshots.

    z_i   = Σ_θ x[θ] · W_enc[θ, :, i] + b_enc[i]
    x̂[θ] = Σ_i f_i W_dec[θ, i, :] + b_dec[θ]

Sources: Lindsey et al. 2024 (crosscoders); Evolution of Concepts in Language Model Pre-Training, arXiv 2509.17196.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.dictionaries.dictionary import Dictionary


class Crosscoder(Dictionary):
    """One code for all snapshots, read from all of them and decoded into each."""

    kind = "crosscoder"

    def pre_activations(self, x: Float[Tensor, "batch snapshot d_model"]) -> Float[Tensor, "batch feature"]:
        """Encoder outputs z."""
        if self.apply_b_dec_to_input:
            x = x - self.b_dec
        return torch.addmm(self.b_enc, x.flatten(1), self.encoder_rows.T)

    def score_weight(self) -> Float[Tensor, " feature"]:
        """What turns an encoder output into the score that TopK selects by: the root of Σ_θ strength²."""
        return self.strength().detach().norm(dim=0)

    def activate(self, pre: Float[Tensor, "batch feature"], *, k: int | None = None) -> Float[Tensor, "batch feature"]:
        """From encoder outputs to the code: by the training rule where `k` is given, else by the inference rule."""
        if k is not None:
            return self.activation.training(pre, weight=self.score_weight(), k=k)
        return self.activation.inference(pre, weight=self.score_weight(), k=self.k, threshold=self.threshold)

    def encode(
        self, x: Float[Tensor, "batch snapshot d_model"], *, k: int | None = None
    ) -> Float[Tensor, "batch feature"]:
        """The code of a batch in normalised units (raw ones when folded).

        Args:
            k: use the training rule with this k instead of the inference rule.
        """
        return self.activate(self.pre_activations(x), k=k)

    def own_parts(self, x: Float[Tensor, "batch d_model"], snapshot: int) -> Float[Tensor, "batch feature"]:
        """One snapshot's own part of the encoder outputs, x[θ]·W_enc[θ]; over all snapshots they sum to z - b_enc."""
        if self.apply_b_dec_to_input:
            x = x - self.b_dec[snapshot]
        return x @ self.W_enc[snapshot]

    def decode(self, code: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch snapshot d_model"]:
        """Reconstruction of every snapshot's activations."""
        flat = torch.addmm(self.b_dec.flatten(), code, self.decoder_rows)
        return flat.view(len(code), self.n_snapshots, self.d_model)
