"""What every dictionary is: canonical tensors, strength, folding, saving."""

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ontogeny.dictionaries.activation_functions import ACTIVATIONS, Activation
from ontogeny.dictionaries.files import write_folder
from ontogeny.dictionaries.kernels import norms
from ontogeny.errors import DictionaryError, did_you_mean

if TYPE_CHECKING:
    from ontogeny.dictionaries.crosscoder import Crosscoder

SCORES, ENCODERS = ("l2", "sum", "max"), ("sum", "mean")


class Output(NamedTuple):
    """What a dictionary makes of a batch.

    Attributes:
        code: [batch, feature] where all snapshots share it, [batch, snapshot, feature] otherwise.
        x_hat: [batch, snapshot, d_model].
    """

    code: Tensor
    x_hat: Tensor


class Part(NamedTuple):
    """Neighbouring snapshots of a dictionary that share an encoder, and the crosscoder over them."""

    snapshots: slice
    crosscoder: "Crosscoder"


class Dictionary(nn.Module, ABC):
    """Features shared by all snapshots of a suite. Subclasses say how inputs become a code and back.

    Inside, one feature's weights at all snapshots lie side by side, as rows of two matrices
    [feature, snapshot·d_model]: encoding and decoding are one product each, and no
    [batch, snapshot, feature] tensor arises. `W_enc` and `W_dec` are views of them in the canonical shape.

    Args:
        W_enc: [snapshot, d_model, feature].
        W_dec: [snapshot, feature, d_model].
        b_enc: [feature], or [snapshot, feature] where every snapshot has an encoder of its own.
        b_dec: [snapshot, d_model].
        activation: a row of `ontogeny.dictionaries.activation_functions.ACTIVATIONS`.
        threshold: of the shape of b_enc, on the score, where the activation has one.
        k: mean number of active features per token, where the activation has one.
        gate: `shared`, one code for all snapshots; `per_snapshot` (jumprelu), open where the feature is strong enough.
        score: what topk and batch_topk multiply encoder outputs by: `l2`, √Σ strength²; `sum`, Σ strength; `max`, the
            greatest strength.
        encoder: whether encoder outputs are a `sum` over snapshots, as in the papers, or their `mean`.
        norm_scale: [snapshot], factor from raw activations to normalised units; None for ones.
        apply_b_dec_to_input: subtract b_dec before encoding.
        folded: whether inputs and outputs are raw activations instead of normalised ones.
    Raises:
        DictionaryError: shapes disagree, or the activation or gate is unknown.
    """

    kind: str
    one_encoder = True
    """Whether one encoder reads all snapshots, or each has its own and with it a code of its own."""

    def __init__(
        self,
        *,
        W_enc: Tensor,
        W_dec: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        activation: str = "batch_topk",
        threshold: Tensor | None = None,
        k: int | None = None,
        gate: str = "shared",
        score: str = "l2",
        encoder: str = "sum",
        norm_scale: Tensor | None = None,
        apply_b_dec_to_input: bool = False,
        folded: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise DictionaryError(
                f"no activation '{activation}'{did_you_mean(activation, ACTIVATIONS)}: "
                f"there are {', '.join(ACTIVATIONS)}"
            )
        row = ACTIVATIONS[activation]
        for name, value, allowed in (
            ("gate", gate, row.gates),
            ("score", score, SCORES),
            ("encoder", encoder, ENCODERS),
        ):
            if value not in allowed:
                raise DictionaryError(f"no {name} '{value}' with {activation}: there is {', '.join(allowed)}")
        if not W_enc.is_floating_point():
            W_enc = W_enc.float()
        n, d, f = W_enc.shape
        of_encoder = (f,) if self.one_encoder else (n, f)
        shapes = {"W_dec": (W_dec, (n, f, d)), "b_enc": (b_enc, of_encoder), "b_dec": (b_dec, (n, d))}
        shapes |= {} if threshold is None else {"threshold": (threshold, of_encoder)}
        shapes |= {} if norm_scale is None else {"norm_scale": (norm_scale, (n,))}
        for name, (tensor, shape) in shapes.items():
            if tuple(tensor.shape) != shape:
                raise DictionaryError(f"{name} is {list(tensor.shape)}, but W_enc {[n, d, f]} asks for {list(shape)}")
        if row.needs_k and k is None and (threshold is None or row.threshold == "none"):
            raise DictionaryError(f"{activation} needs {'k' if row.threshold == 'none' else 'a threshold or k'}")
        if row.threshold == "learned" and threshold is None:
            raise DictionaryError(f"{activation} needs a threshold")
        self.n_snapshots, self.d_model, self.n_features = n, d, f
        self.activation_name, self.k, self.gate, self.score, self.encoder = activation, k, gate, score, encoder
        self.apply_b_dec_to_input, self.folded = apply_b_dec_to_input, folded

        def own(tensor: Tensor) -> Tensor:
            """A copy that no caller holds, in the dtype of W_enc."""
            return tensor.detach().to(W_enc.dtype, copy=True).contiguous()

        self.encoder_rows = nn.Parameter(own(W_enc.permute(2, 0, 1).reshape(f, n * d)))
        self.decoder_rows = nn.Parameter(own(W_dec.permute(1, 0, 2).reshape(f, n * d)))
        self.b_enc = nn.Parameter(own(b_enc))
        self.b_dec = nn.Parameter(own(b_dec))
        self.threshold: Tensor | None
        self.register_buffer("threshold", None if threshold is None else own(threshold))
        self.norm_scale: Tensor
        self.register_buffer("norm_scale", own(W_enc.new_ones(n) if norm_scale is None else norm_scale))
        self.golden_inputs: Tensor | None = None
        """A few inputs [batch, snapshot, d_model] that `save` keeps with their outputs; None for Gaussian ones."""

    @property
    def W_enc(self) -> Float[Tensor, "snapshot d_model feature"]:
        return self.encoder_rows.view(self.n_features, self.n_snapshots, self.d_model).permute(1, 2, 0)

    @property
    def W_dec(self) -> Float[Tensor, "snapshot feature d_model"]:
        return self.decoder_rows.view(self.n_features, self.n_snapshots, self.d_model).permute(1, 0, 2)

    @property
    def activation(self) -> Activation:
        return ACTIVATIONS[self.activation_name]

    def strength(self) -> Float[Tensor, "snapshot feature"]:
        """Norm of each feature's decoder direction at each snapshot, in normalised units also when folded."""
        found = norms(self.decoder_rows, self.n_snapshots).T
        return found * self.norm_scale[:, None] if self.folded else found

    @abstractmethod
    def parts(self) -> list[Part]:
        """The crosscoders that it is made of, which together cover its snapshots in order."""

    @abstractmethod
    def encode(self, x: Tensor, *, k: int | None = None) -> Tensor:
        """The code of a batch [batch, snapshot, d_model]."""

    @abstractmethod
    def decode(self, code: Tensor) -> Tensor:
        """The reconstruction [batch, snapshot, d_model] of a code."""

    def kept_at(self, codes: Tensor, snapshot: int) -> Tensor:
        """Of sparse widest codes [feature, token] those whose gate is open at one snapshot."""
        return codes

    def forward(self, x: Tensor) -> Output:
        """Code and reconstruction of a batch [batch, snapshot, d_model]."""
        code = self.encode(x)
        return Output(code, self.decode(code))

    def settings(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"kind": self.kind} | self.options()

    def options(self) -> dict[str, Any]:
        """What a constructor takes beside the tensors."""
        return {
            "activation": self.activation_name,
            "k": self.k,
            "gate": self.gate,
            "score": self.score,
            "encoder": self.encoder,
            "apply_b_dec_to_input": self.apply_b_dec_to_input,
            "folded": self.folded,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The canonical tensors, contiguous, by name."""
        return {name: tensor.contiguous() for name, tensor in self.views().items()}

    def views(self) -> dict[str, Tensor]:
        """The canonical tensors by name, as they lie in memory."""
        tensors = {"W_enc": self.W_enc, "W_dec": self.W_dec, "b_enc": self.b_enc, "b_dec": self.b_dec}
        tensors |= {} if self.threshold is None else {"threshold": self.threshold}
        tensors |= {"norm_scale": self.norm_scale}
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def fold_normalisation(self) -> "Dictionary":
        """The same function on raw activations; exact for unequal scales.

        With scale a[snapshot]: W_enc·a, W_dec/a, b_dec/a, b_enc unchanged. Scores and `strength()` keep using the
        normalised norms.
        """
        if self.folded:
            return self
        tensors, scale = self.tensors(), self.norm_scale
        tensors["W_enc"] = tensors["W_enc"] * scale[:, None, None]
        tensors["W_dec"] = tensors["W_dec"] / scale[:, None, None]
        tensors["b_dec"] = tensors["b_dec"] / scale[:, None]
        options: dict[str, Any] = tensors | self.options() | {"folded": True}
        return type(self)(**options)

    def save(self, folder: str | Path) -> Path:
        """Write configuration, weights (float32) and golden vectors to a folder; see `load_dictionary`."""
        folder = Path(folder)
        copied = copy.deepcopy(self).float().cpu()
        if self.golden_inputs is None:
            inputs = torch.randn(8, self.n_snapshots, self.d_model, generator=torch.Generator().manual_seed(0))
            inputs = inputs / copied.norm_scale[:, None] if self.folded else inputs
        else:
            inputs = self.golden_inputs.float().cpu()
        with torch.no_grad():
            output = copied(inputs)
        golden = {"x": inputs, "code": output.code, "x_hat": output.x_hat}
        write_folder(
            folder,
            settings=self.settings(),
            weights=copied.tensors(),
            golden={name: tensor.contiguous() for name, tensor in golden.items()},
        )
        return folder
