"""Llamascopium (OpenMOSS' Language-Model-SAEs): `config.json` and `sae_weights.safetensors`.

    W_E [n, d, F], b_E [n, F], of which only the sum matters, W_D [n, F, d], b_D [n, d];
    JumpReLU's log-thresholds [F], on an output times the strength at a snapshot: our gate per snapshot

It scales activations to a mean norm of √d by norms in the file, `dataset_average_activation_norm.HOOK`; ours are
written there as √d / norm_scale.

Source: Language-Model-SAEs, src/llamascopium/models (crosscoder.py, sparse_dictionary.py), activation_functions.py.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import DictionaryError
from ontogeny.files import write_json
from ontogeny.interop.about import About, read_json, read_safetensors, refuse

TOOL = "Llamascopium"
CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
THRESHOLD, NORM = "activation_function.log_jumprelu_threshold", "dataset_average_activation_norm."
LEAST = 1e-30
"""Thresholds below it are written as this, since only their logarithm is."""
SHORT = 1e-12
"""Length of a direction that stands for none."""


def write(crosscoder: Crosscoder, folder: Path, about: About) -> None:
    """Write a crosscoder with ReLU, or with JumpReLU and a gate per snapshot.

    Raises:
        DictionaryError: it has options that the layout cannot hold.
    """
    refuse(
        crosscoder, TOOL, activation=("relu", "jumprelu"), encoder=("sum",), apply_b_dec_to_input=(False,),
        folded=(False,),
    )  # fmt: skip
    n, d = crosscoder.n_snapshots, crosscoder.d_model
    if crosscoder.activation_name == "jumprelu" and n > 1:
        refuse(crosscoder, TOOL, gate=("per_snapshot",))
    of = about.revisions if len(set(about.revisions)) == n else range(n)  # names have to differ
    hooks = [f"{about.transformer_lens_hook or 'hook'}_{one}" for one in of]
    b_E = torch.zeros(n, crosscoder.n_features)
    b_E[0] = crosscoder.b_enc.detach()
    tensors: dict[str, Tensor] = {
        "W_E": crosscoder.W_enc, "b_E": b_E, "W_D": _nowhere_zero(crosscoder.W_dec), "b_D": crosscoder.b_dec,
        **{f"{NORM}{hook}": math.sqrt(d) / scale for hook, scale in zip(hooks, crosscoder.norm_scale, strict=True)},
    }  # fmt: skip
    if crosscoder.threshold is not None:
        tensors[THRESHOLD] = crosscoder.threshold.clamp_min(LEAST).log()
    config: dict[str, Any] = {
        "sae_type": "crosscoder",
        "d_model": d,
        "expansion_factor": expansion_factor(crosscoder.n_features, d),
        "use_decoder_bias": True,
        "act_fn": crosscoder.activation_name,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "hook_points": hooks,
        "dtype": "torch.float32",
        "device": "cpu",
    }
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    write_json(folder / CONFIG, config)


def _nowhere_zero(W_dec: Tensor) -> Tensor:
    """Directions of length 0 as very short ones: codes are divided by lengths there."""
    found = W_dec.detach().clone()
    found[..., 0] += SHORT * (found.norm(dim=-1) < SHORT)
    return found


def expansion_factor(n_features: int, d_model: int) -> float:
    """A factor that gives back the number of features when it is cut to whole numbers, as is done there."""
    factor = n_features / d_model
    while int(d_model * factor) < n_features:
        factor = math.nextafter(factor, math.inf)
    return factor


def read(folder: Path) -> Crosscoder:
    """Read a crosscoder.

    Raises:
        DictionaryError: a file is not there or damaged, or the activation is another.
    """
    config = read_json(folder / CONFIG)
    tensors = read_safetensors(folder / WEIGHTS, "W_E", "b_E", "W_D", "b_D")
    activation = config.get("act_fn", "relu")
    if activation not in ("relu", "jumprelu"):
        raise DictionaryError(
            f"{folder}: act_fn {activation} keeps what a batch decides: only relu and jumprelu are read"
        )
    if tensors["W_E"].ndim != 3:
        raise DictionaryError(f"{folder}: sae_type {config.get('sae_type')} is no crosscoder: only these are read")
    scale = _scale(folder, config, tensors)
    threshold = tensors.get(THRESHOLD)
    if threshold is not None:
        threshold = threshold.exp().expand(len(tensors["W_E"]), -1) if threshold.ndim == 1 else threshold.exp()
        if not torch.equal(threshold, threshold[:1].expand_as(threshold)):
            raise DictionaryError(f"{folder}: thresholds differ between snapshots; ours are one for each feature")
        threshold = threshold[0].clone()
    elif activation == "jumprelu":
        raise DictionaryError(f"{folder / WEIGHTS} lacks {THRESHOLD}, which jumprelu has")
    return Crosscoder(
        W_enc=tensors["W_E"], b_enc=tensors["b_E"].sum(0), W_dec=tensors["W_D"], b_dec=tensors["b_D"],
        activation=activation, threshold=threshold, norm_scale=scale,
        gate="per_snapshot" if activation == "jumprelu" else "shared",
    )  # fmt: skip


def _scale(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Tensor | None:
    """What activations are multiplied by; None where they are read as they are."""
    rule = config.get("norm_activation", "inference")
    if rule == "inference":
        return None
    if rule != "dataset-wise":
        raise DictionaryError(f"{folder}: norm_activation {rule} differs by batch: only dataset-wise is read")
    n, d, _ = tensors["W_E"].shape
    hooks = config.get("hook_points", [])
    if len(hooks) != n or any(f"{NORM}{hook}" not in tensors for hook in hooks):
        raise DictionaryError(f"{folder / WEIGHTS} lacks a mean norm ({NORM}HOOK) for some of its {n} hook points")
    return torch.stack([math.sqrt(d) / tensors[f"{NORM}{hook}"] for hook in hooks])
