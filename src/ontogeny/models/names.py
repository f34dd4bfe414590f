"""The names of hookpoints, and which of them a model has. Loads no torch."""

from dataclasses import dataclass
from typing import Any

from ontogeny.errors import HookpointError, did_you_mean
from ontogeny.families import HOOKPOINT_KINDS, shape_of


@dataclass(frozen=True)
class Hookpoint:
    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


def parse_hookpoint(text: str) -> Hookpoint:
    """`resid_post.2` as a Hookpoint.

    Raises:
        HookpointError: the kind is unknown or the layer is no number.
    """
    kind, _, layer = text.partition(".")
    if kind not in HOOKPOINT_KINDS or not layer.isdigit():
        raise HookpointError(
            f"no hookpoint '{text}'{did_you_mean(kind, HOOKPOINT_KINDS)}: expected one of "
            f"{', '.join(HOOKPOINT_KINDS)} and a layer, such as resid_post.2"
        )
    return Hookpoint(kind, int(layer))


def check_hookpoint(config: dict[str, Any], hookpoint: Hookpoint) -> None:
    """Check a hookpoint against a model's configuration, before any weights are loaded.

    Raises:
        HookpointError: the family is unknown or has no such block.
    """
    layers = shape_of(config).layers
    if hookpoint.layer >= layers:
        raise HookpointError(
            f"no hookpoint {hookpoint}: the model has {layers} blocks, so the last is {hookpoint.kind}.{layers - 1}"
        )
