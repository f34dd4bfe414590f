"""Module paths per family of transformers models: one row a family. Loads no torch."""

from dataclasses import dataclass

from ontogeny.errors import HookpointError


@dataclass(frozen=True)
class Family:
    """Where the parts of a decoder are, as dotted paths from the causal LM; block parts start at the block."""

    blocks: str
    final_norm: str
    attention: str
    mlp: str


FAMILIES: dict[str, Family] = {
    "gpt_neox": Family(
        blocks="gpt_neox.layers", final_norm="gpt_neox.final_layer_norm", attention="attention", mlp="mlp"
    ),
}


def family_of(model_type: str) -> Family:
    """The row of a model type.

    Raises:
        HookpointError: there is none.
    """
    if model_type not in FAMILIES:
        raise HookpointError(
            f"models of type '{model_type}' are unknown here (known: {', '.join(FAMILIES)}): "
            "add their module paths as a row of FAMILIES in ontogeny/models/families.py"
        )
    return FAMILIES[model_type]
