"""Load a snapshot's weights, whole or only as far as a hookpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from ontogeny.errors import SuiteError
from ontogeny.models.hookpoints import truncate
from ontogeny.models.names import Hookpoint
from ontogeny.suites.suite import Snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_snapshot(
    snapshot: Snapshot,
    *,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    up_to: Hookpoint | None = None,
) -> "PreTrainedModel":
    """A snapshot's causal LM in evaluation mode.

    Args:
        dtype: dtype of the weights, whatever the files hold.
        up_to: drop the blocks after this hookpoint and the unembedding, which it does not need.
    Raises:
        SuiteError: the files cannot be loaded, do not fill the model, or hold values that are not finite.
    """
    from transformers import AutoModelForCausalLM

    quiet()
    with snapshot.source.opened(snapshot) as folder:
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), output_loading_info=True, ignore_mismatched_sizes=True
            )
        except Exception as error:  # transformers, safetensors and json each raise their own
            file = _damaged_file(folder) or snapshot.label
            raise SuiteError(
                f"{file} cannot be loaded: {type(error).__name__}: {first_line(error)}: fetch or save it again"
            ) from error
    model, info = loaded
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
        raise SuiteError(
            f"{snapshot.label} lacks weights of the shapes that its configuration asks for "
            f"({', '.join(lacking[:3])}): fetch or save it again"
        )
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise SuiteError(
                f"{snapshot.label}: {name} is not finite as {dtype}: {other_dtype(dtype)}fetch or save it again, "
                f"or leave step {snapshot.step} out of suite.steps"
            )
    model.config.use_cache = False
    model.requires_grad_(False)
    if up_to is not None:
        truncate(model, up_to)
    return model.to(device).eval()


def _damaged_file(folder: Path) -> Path | None:
    """The first file of weights that is not whole, by its header and its size."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError:
            return file
    return None


def other_dtype(dtype: str) -> str:
    """What to try against values that are not finite, as the beginning of a list; empty where no dtype is wider."""
    return "" if dtype == "float32" else "set suite.dtype to float32, "


def quiet() -> None:
    """Keep transformers' own progress bars and reports out of ours; what they say becomes one error."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [""])[0]
