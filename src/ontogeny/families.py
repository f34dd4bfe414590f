"""Families of transformers decoders: where their parts are, and what their configurations call their sizes. No torch.

One row a family, by `model_type` in config.json. `tests/test_families.py` proves every row on a tiny random model.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ontogeny.errors import HookpointError, did_you_mean

HOOKPOINT_KINDS = ("resid_post", "resid_pre", "mlp_out", "attn_out")


@dataclass(frozen=True)
class Family:
    """Where the parts of a decoder are, as dotted paths from the causal LM; parts of a block start at the block.

    Attributes:
        blocks: the list of blocks.
        final_norm: what stands between the last block and the unembedding.
        attention, mlp: the modules whose outputs are added to the stream.
        names: of the sizes in config.json, where they are not the usual ones; several, the first that is there counts.
        gated: whether the MLP has three matrices.
    """

    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    mlp: str = "mlp"
    names: dict[str, str] = field(default_factory=dict)
    gated: bool = True


class Shape(NamedTuple):
    """The sizes of a model.

    Attributes:
        width: d_model.
        layers: number of blocks.
        inner: width inside an MLP.
        vocabulary: rows of the embedding.
        context: tokens that it reads at most; None where its configuration sets no limit.
        shared: key and value heads, as a share of the query heads.
    """

    width: int
    layers: int
    inner: int
    vocabulary: int
    context: int | None
    shared: float


USUAL = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "inner": "intermediate_size",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
    "heads": "num_attention_heads",
    "key_heads": "num_key_value_heads",
}
GPT2 = {"width": "n_embd", "layers": "n_layer", "inner": "n_inner", "context": "n_positions", "heads": "n_head"}
LLAMA = Family()
AFTER_NORMS = Family(attention="post_attention_layernorm", mlp="post_feedforward_layernorm")
"""Families that normalise what attention and MLP give before it is added to the stream."""
FAMILIES: dict[str, Family] = {
    "apertus": Family(gated=False),
    "bloom": Family(
        "transformer.h", "transformer.ln_f", "self_attention.dense", "mlp.dense_4h_to_h",
        {"width": "hidden_size n_embed", "layers": "n_layer num_hidden_layers", "heads": "n_head num_attention_heads",
         "context": ""}, gated=False,
    ),
    "gemma": LLAMA,
    "gemma2": AFTER_NORMS,
    "gemma3_text": AFTER_NORMS,
    "gpt2": Family("transformer.h", "transformer.ln_f", "attn", "mlp", GPT2, gated=False),
    "gpt_neo": Family(
        "transformer.h", "transformer.ln_f", "attn", "mlp", {"layers": "num_layers", "heads": "num_heads"}, gated=False
    ),
    "gpt_neox": Family("gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "mlp", gated=False),
    "gptj": Family("transformer.h", "transformer.ln_f", "attn", "mlp", GPT2, gated=False),
    "llama": LLAMA,
    "mistral": LLAMA,
    "olmo": LLAMA,
    "olmo2": AFTER_NORMS,
    "olmo3": AFTER_NORMS,
    "opt": Family(
        "model.decoder.layers", "model.decoder.final_layer_norm", mlp="fc2", names={"inner": "ffn_dim"}, gated=False
    ),
    "phi": Family(final_norm="model.final_layernorm", gated=False),
    "phi3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "stablelm": LLAMA,
    "starcoder2": Family(gated=False),
}  # fmt: skip


def family_of(model_type: str) -> Family:
    """The row of a model type.

    Raises:
        HookpointError: there is none.
    """
    if model_type not in FAMILIES:
        raise HookpointError(
            f"models of type '{model_type}' are unknown here{did_you_mean(model_type, FAMILIES)}: known are "
            f"{', '.join(FAMILIES)}; add a row '{model_type}' to FAMILIES in ontogeny/families.py"
        )
    return FAMILIES[model_type]


def shape_of(config: dict[str, Any]) -> Shape:
    """The sizes in a transformers configuration.

    Raises:
        HookpointError: the family is unknown, or its configuration does not say how large it is.
    """
    names = USUAL | family_of(str(config.get("model_type"))).names
    found: dict[str, int] = {}
    for what, listed in names.items():
        given = [config[name] for name in listed.split() if config.get(name) is not None]
        found |= {what: int(given[0])} if given else {}
    for what in ("width", "layers", "vocabulary"):
        if what not in found:
            raise HookpointError(f"the models' config.json has no '{names[what]}': fetch or save it again")
    heads = found.get("heads", 1)
    return Shape(
        width=found["width"],
        layers=found["layers"],
        inner=found.get("inner", 4 * found["width"]),
        vocabulary=found["vocabulary"],
        context=found.get("context"),
        shared=found.get("key_heads", heads) / heads,
    )
