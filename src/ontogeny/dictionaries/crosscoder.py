"""The crosscoder over snapshots.

    z_i   = Σ_θ x[θ] · W_enc[θ, :, i] + b_enc[i]
    x̂[θ] = Σ_i f_i[θ] W_dec[θ, i, :] + b_dec[θ]

With the shared gate f is the same at every snapshot; with the per-snapshot gate (JumpReLU) a feature is open only where
z_i times its strength there passes its threshold.

Sources: Lindsey et al. 2024 (crosscoders); Evolution of Concepts in Language Model Pre-Training, arXiv 2509.17196.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ontogeny.dictionaries.dictionary import Dictionary, Part
from ontogeny.dictionaries.kernels import rows_at
from ontogeny.ranks import ALONE, Ranks


class Crosscoder(Dictionary):
    """Features read from all snapshots together and decoded into each."""

    kind = "crosscoder"

    def parts(self) -> list[Part]:
        """Itself, over all snapshots."""
        return [Part(slice(0, self.n_snapshots), self)]

    def encoder_input(self, x: Float[Tensor, "batch snapshot d_model"]) -> Float[Tensor, "batch width"]:
        """What encoder rows are multiplied with, all snapshots side by side."""
        if self.apply_b_dec_to_input:
            x = x - self.b_dec
        return (x / self.n_snapshots if self.encoder == "mean" else x).flatten(1)

    def pre_activations(self, x: Float[Tensor, "batch snapshot d_model"]) -> Float[Tensor, "batch feature"]:
        """Encoder outputs z: a sum over snapshots, or their mean where `encoder` is `mean`."""
        return torch.addmm(self.b_enc, self.encoder_input(x), self.encoder_rows.T)

    def pre_activations_of(
        self, features: Int[Tensor, " few"], x: Float[Tensor, "batch snapshot d_model"]
    ) -> Float[Tensor, "batch few"]:
        """Encoder outputs of some features."""
        rows = rows_at(self.encoder_rows, features)
        return torch.addmm(self.b_enc.index_select(0, features), self.encoder_input(x), rows.T)

    def places(
        self,
        pre: Float[Tensor, "batch feature"],
        *,
        k: int | None = None,
        strength: Float[Tensor, "snapshot feature"] | None = None,
        ranks: Ranks = ALONE,
    ) -> Int[Tensor, " entry"]:
        """Entries that are active at some snapshot, ascending places in the flattened [batch, feature]; by the training
        rule where `k` is given. `strength` where it is known already."""
        strength = (self.strength() if strength is None else strength).detach()
        weight = self.score_weight(strength) if self.gate == "shared" else strength.amax(0)
        if k is None and self.activation.threshold == "estimated" and self.threshold is not None:
            return (self.activate(pre) > 0).flatten().nonzero()[:, 0]
        return self.activation.places(pre, weight=weight, k=k or self.k, threshold=self.threshold, ranks=ranks)

    def score_weight(self, strength: Float[Tensor, "snapshot feature"] | None = None) -> Float[Tensor, " feature"]:
        """What turns an encoder output into the score that features compete by, or are held against thresholds with.

        For TopK and BatchTopK √Σ_θ strength² (`score: l2`, what the squared error asks for), Σ_θ strength
        (`score: sum`, the published code) or max_θ strength (`score: max`). For JumpReLU with the shared gate
        Σ_θ strength.
        """
        strength = (self.strength() if strength is None else strength).detach()
        order = {"l2": 2, "sum": 1, "max": float("inf")}["sum" if self.activation_name == "jumprelu" else self.score]
        return strength.norm(p=order, dim=0)

    def activate(self, pre: Float[Tensor, "batch feature"], *, k: int | None = None) -> Float[Tensor, "batch feature"]:
        """From encoder outputs to a shared code, by the training rule where `k` is given, else the inference rule."""
        if k is not None:
            return self.activation.training(pre, weight=self.score_weight(), k=k)
        return self.activation.inference(pre, weight=self.score_weight(), k=self.k, threshold=self.threshold)

    def code_at(
        self, pre: Float[Tensor, "batch feature"], snapshot: int, *, strength: Float[Tensor, "snapshot feature"]
    ) -> Float[Tensor, "batch feature"]:
        """The code at one snapshot under the per-snapshot gate, z_i · 1[z_i · strength_i > t_i]."""
        return self.activation.inference(pre, weight=strength[snapshot], threshold=self.threshold)

    def widest_code(self, pre: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """The shared code; with the per-snapshot gate the code where the feature is strongest, so open if it is open
        anywhere."""
        if self.gate == "shared":
            return self.activate(pre)
        return self.activation.inference(pre, weight=self.strength().amax(0), threshold=self.threshold)

    def open_at(
        self, code: Float[Tensor, " entry"], feature: Int[Tensor, " entry"], snapshot: int
    ) -> Bool[Tensor, " entry"]:
        """At which entries of widest codes the gate is open at one snapshot."""
        if self.gate == "shared" or self.threshold is None:
            return code > 0
        return code * self.strength()[snapshot, feature] > self.threshold[feature]

    def kept_at(self, codes: Tensor, snapshot: int) -> Tensor:
        if self.gate == "shared" or self.threshold is None:
            return codes
        values = codes.values()
        kept = self.open_at(values, codes.indices()[0], snapshot)
        return torch.sparse_coo_tensor(
            codes.indices(), values * kept, codes.shape, is_coalesced=True, check_invariants=False
        )

    def encode(self, x: Float[Tensor, "batch snapshot d_model"], *, k: int | None = None) -> Tensor:
        """The code of a batch in normalised units (raw ones when folded).

        Args:
            k: use the training rule with this k instead of the inference rule.
        Returns:
            [batch, feature] with the shared gate, [batch, snapshot, feature] with the per-snapshot gate.
        """
        pre = self.pre_activations(x)
        if self.gate == "shared":
            return self.activate(pre, k=k)
        strength = self.strength()
        return torch.stack([self.code_at(pre, s, strength=strength) for s in range(self.n_snapshots)], dim=1)

    def own_parts(self, x: Float[Tensor, "batch d_model"], snapshot: int) -> Float[Tensor, "batch feature"]:
        """One snapshot's own part of the encoder outputs, x[θ]·W_enc[θ]; over all snapshots they sum to z - b_enc."""
        if self.apply_b_dec_to_input:
            x = x - self.b_dec[snapshot]
        if self.encoder == "mean":
            x = x / self.n_snapshots
        return x @ self.W_enc[snapshot]

    def decode(self, code: Tensor) -> Float[Tensor, "batch snapshot d_model"]:
        """Reconstruction of every snapshot's activations from a code of either shape."""
        if code.ndim == 2:
            flat = torch.addmm(self.b_dec.flatten(), code, self.decoder_rows)
            return flat.view(len(code), self.n_snapshots, self.d_model)
        return torch.stack([self.decode_at(code[:, s], s) for s in range(self.n_snapshots)], dim=1)

    def decode_at(self, code: Float[Tensor, "batch feature"], snapshot: int) -> Float[Tensor, "batch d_model"]:
        """Reconstruction of one snapshot's activations."""
        return torch.addmm(self.b_dec[snapshot], code, self.W_dec[snapshot])
