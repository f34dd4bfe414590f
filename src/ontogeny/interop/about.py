"""What a file says of a dictionary beside its tensors, and what adapters share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import DictionaryError, RunError


@dataclass(frozen=True)
class About:
    """Where a dictionary comes from.

    Attributes:
        model: repository or folder of the suite.
        revisions: of the snapshots, in order.
        hookpoint: such as `resid_post.3`.
        context: tokens of a sequence.
        corpus: what it was trained on.
        note: one line that a reader of the files should see.
    """

    model: str = ""
    revisions: tuple[str, ...] = ()
    hookpoint: str = ""
    context: int | None = None
    corpus: str = ""
    note: str = ""

    @property
    def transformer_lens_hook(self) -> str:
        """The hookpoint's name in TransformerLens."""
        return transformer_lens_hook(self.hookpoint)


def transformer_lens_hook(hookpoint: str) -> str:
    """A hookpoint's name in TransformerLens, such as `blocks.3.hook_resid_post`."""
    kind, _, layer = hookpoint.partition(".")
    return f"blocks.{layer}.hook_{kind}" if layer else hookpoint


def require_new(folder: Path) -> None:
    """Check that a folder is not there, or empty.

    Raises:
        RunError: it holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is not empty: give a new folder")


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        DictionaryError: it is not there, or holds something else.
    """
    if not path.is_file():
        raise DictionaryError(f"{path} is not there: give the folder that the other tool wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DictionaryError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise DictionaryError(f"{path} holds no object")
    return values


def read_safetensors(path: Path, *names: str) -> dict[str, Tensor]:
    """A file's tensors in float32, among them those that are named.

    Raises:
        DictionaryError: the file or a tensor is not there, or it is damaged.
    """
    if not path.is_file():
        raise DictionaryError(f"{path} is not there: give the folder that the other tool wrote")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise DictionaryError(f"{path} cannot be read as safetensors: {error}") from None
    return require(path, tensors, *names)


def require(path: Path, tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    """Tensors with floats in float32.

    Raises:
        DictionaryError: one that is named is not there.
    """
    if lacking := [name for name in names if name not in tensors]:
        raise DictionaryError(f"{path} lacks {', '.join(lacking)}: it has {', '.join(sorted(tensors))}")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def one_threshold(crosscoder: Crosscoder, tool: str) -> float:
    """The threshold that all features share under BatchTopK.

    Raises:
        DictionaryError: there is none, or features differ in it.
    """
    if crosscoder.threshold is None:
        raise DictionaryError("batch_topk without a threshold keeps what a batch decides: train it to its end first")
    if float(crosscoder.threshold.max() - crosscoder.threshold.min()) > 0:
        raise DictionaryError(f"{tool} knows one threshold for all features; these differ")
    return float(crosscoder.threshold[0])


def refuse(crosscoder: Crosscoder, tool: str, **only: tuple[Any, ...]) -> None:
    """Check options that a layout cannot hold.

    Args:
        only: the values that an option may have.
    Raises:
        DictionaryError: another one.
    """
    for name, allowed in only.items():
        value = crosscoder.activation_name if name == "activation" else getattr(crosscoder, name)
        if value not in allowed:
            shown = ", ".join(map(str, allowed))
            raise DictionaryError(f"{tool}'s files cannot hold a dictionary with {name} {value}: only {shown}")
