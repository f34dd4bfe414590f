"""How large models, dictionaries and a training step are, by their settings.

Memory is counted in tensors: the dictionary's weights, of which training holds four (with gradients and Adam's two
moments); a window of activations; the truncated models; and a few tensors of a batch, [batch, snapshot, d_model] for
activations and [batch, feature] for codes, whose numbers come from `make bench-memory`. No tensor is
[batch, snapshot, feature].
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from ontogeny.config.learner import DictionaryConfig
from ontogeny.families import family_of, shape_of
from ontogeny.models.names import check_hookpoint, parse_hookpoint

GB = 1e9
FLOAT = 4
"""Bytes of a float32."""
CODES = {"relu": 3, "topk": 5, "batch_topk": 5, "jumprelu": 7}
CODES_PER_SNAPSHOT = 9
"""Tensors of the codes' shape that a training step holds at its peak, by activation, and with gates per snapshot."""
BATCHES, BATCHES_PER_SNAPSHOT = 8, 30
"""Tensors of the batch's shape that it holds, and with gates per snapshot."""
FEATURES = "dictionary.n_features"


class Part(NamedTuple):
    """A part of a peak of memory.

    Attributes:
        bytes: its size.
        setting: the setting that changes it most.
        note: what it is.
    """

    bytes: float
    setting: str
    note: str


Parts = dict[str, Part]


@dataclass(frozen=True)
class Model:
    """The sizes of a suite's models.

    Attributes:
        width, inner: d_model, and the width inside an MLP.
        blocks, all_blocks: blocks loaded to read the hookpoint, and of the whole model.
        vocabulary: rows of the embedding and of the unembedding.
        matrices: of an MLP.
        shared: key and value heads, as a share of the query heads.
    """

    width: int
    inner: int
    blocks: int
    all_blocks: int
    vocabulary: int
    matrices: int = 2
    shared: float = 1.0

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; biases and norms as in GPT-NeoX."""
        return self._parameters(self.all_blocks) + 2 * self.vocabulary * self.width

    @property
    def truncated_parameters(self) -> int:
        """Parameters of what stays loaded to read the hookpoint."""
        return self._parameters(self.blocks) + self.vocabulary * self.width

    def _parameters(self, blocks: int) -> int:
        """Of some blocks and the final norm: matrices, biases, layer norms."""
        h, i = self.width, self.inner
        return blocks * (self._weights + 9 * h + i) + 2 * h

    @property
    def _weights(self) -> int:
        """Of a block's matrices."""
        return round(2 * self.width**2 * (1 + self.shared)) + self.matrices * self.width * self.inner

    def flop(self, sequence_length: int) -> int:
        """FLOP of one token on its way to the hookpoint: 2 for each weight that it meets, and attention."""
        return self._flop(self.blocks, sequence_length)

    def rest_flop(self, sequence_length: int) -> int:
        """The same on its way from there to the logits."""
        unembedding = 2 * self.width * self.vocabulary
        return self._flop(self.all_blocks - self.blocks, sequence_length) + unembedding

    def _flop(self, blocks: int, sequence_length: int) -> int:
        return blocks * (2 * self._weights + 4 * sequence_length * self.width)


def dictionary_parameters(config: DictionaryConfig, *, n_snapshots: int, d_model: int) -> int:
    """Weights, biases and learned thresholds of a dictionary."""
    encoders = n_snapshots if config.kind == "sae_series" else 1
    of_feature = 2 * n_snapshots * d_model + encoders * (2 if config.activation == "jumprelu" else 1)
    return of_feature * config.n_features + n_snapshots * d_model


def training_parts(
    config: DictionaryConfig, *, n_snapshots: int, d_model: int, batch_size: int, moments: str = "float32"
) -> Parts:
    """What a training step holds at its peak, the window and the models left out.

    The numbers of tensors come from `make bench-memory`, which holds them beside measurements.

    Args:
        moments: their dtype.
    """
    weights = FLOAT * dictionary_parameters(config, n_snapshots=n_snapshots, d_model=d_model)
    gated = config.gate == "per_snapshot"
    codes = CODES_PER_SNAPSHOT if gated else CODES[config.activation]
    batches = BATCHES_PER_SNAPSHOT if gated else BATCHES
    rows = FLOAT * batch_size
    return {
        "weights": Part(weights, FEATURES, "float32"),
        "gradients": Part(weights, FEATURES, "float32"),
        "Adam's moments": Part(2 * weights * (1 if moments == "float32" else 0.5), FEATURES, f"two, {moments}"),
        "batch": Part(batches * rows * n_snapshots * d_model, "train.batch_size", f"{batches} of [batch, snapshot, d]"),
        "codes": Part(codes * rows * config.n_features, "train.batch_size", f"{codes} of [batch, feature]"),
    }


def model_sizes(config: dict[str, Any], hookpoint: str) -> Model:
    """The sizes of a model from its transformers configuration."""
    point = parse_hookpoint(hookpoint)
    check_hookpoint(config, point)
    shape = shape_of(config)
    return Model(
        width=shape.width,
        inner=shape.inner,
        blocks=point.layer + 1,
        all_blocks=shape.layers,
        vocabulary=shape.vocabulary,
        matrices=3 if family_of(str(config["model_type"])).gated else 2,
        shared=shape.shared,
    )
