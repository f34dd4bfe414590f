"""Load a snapshot's weights, whole or only as far as a hookpoint."""

from typing import TYPE_CHECKING, Any

import torch

from ontogeny.errors import SuiteError
from ontogeny.models.hookpoints import Hookpoint, truncate
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
        SuiteError: the files cannot be loaded, or do not fill the model.
    """
    from transformers import AutoModelForCausalLM

    quiet()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            snapshot.path, dtype=getattr(torch, dtype), output_loading_info=True
        )
    except Exception as error:  # transformers, safetensors and json each raise their own
        raise SuiteError(f"{snapshot.path} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error
    model, info = loaded
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))
        raise SuiteError(f"{snapshot.path} lacks weights that its configuration asks for: {', '.join(lacking[:3])}")
    model.config.use_cache = False
    model.requires_grad_(False)
    if up_to is not None:
        truncate(model, up_to)
    return model.to(device).eval()


def quiet() -> None:
    """Keep transformers' own progress bars out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [""])[0]
