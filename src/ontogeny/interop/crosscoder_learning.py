"""crosscoder_learning and the fork of dictionary_learning that it comes from: `config.json` and `model.safetensors`.

    encoder.weight [L, d, F], encoder.bias [F], decoder.weight [L, F, d], decoder.bias [L, d]; for BatchTopK k,
    threshold and how a code is weighted: `code_normalization_id` 1, Σ strength, or 2, √Σ strength²

Inputs are in normalised units, as both tools train: activations times `norm_scale`, which ontogeny.json holds; their
classes take every entry of config.json as an argument.

Source: crosscoder_learning, dictionary_learning/dictionary.py.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import DictionaryError
from ontogeny.files import write_json
from ontogeny.interop.about import About, one_threshold, read_json, read_safetensors, refuse

TOOL = "crosscoder_learning"
CONFIG, OWN, WEIGHTS = "config.json", "ontogeny.json", "model.safetensors"
NORMALISATION = {"sum": 1, "l2": 2}
NAMES = {1: "CROSSCODER", 2: "SAE"}
"""How codes are weighted: ids of theirs by our scores, and their names."""


def write(crosscoder: Crosscoder, folder: Path, about: About) -> None:
    """Write a crosscoder.

    Raises:
        DictionaryError: it has options that the layout cannot hold.
    """
    refuse(
        crosscoder, TOOL, activation=("relu", "batch_topk"), score=tuple(NORMALISATION), encoder=("sum",),
        apply_b_dec_to_input=(False,), folded=(False,),
    )  # fmt: skip
    gated = crosscoder.activation_name == "batch_topk"
    normalisation = NORMALISATION[crosscoder.score] if gated else 1
    tensors = {
        "encoder.weight": crosscoder.W_enc, "encoder.bias": crosscoder.b_enc, "decoder.weight": crosscoder.W_dec,
        "decoder.bias": crosscoder.b_dec, "code_normalization_id": torch.tensor(normalisation),
    }  # fmt: skip
    config: dict[str, Any] = {
        "activation_dim": crosscoder.d_model,
        "dict_size": crosscoder.n_features,
        "num_layers": crosscoder.n_snapshots,
        "code_normalization": NAMES[normalisation],
    }
    if gated:
        tensors |= {"k": torch.tensor(crosscoder.k), "threshold": torch.tensor(one_threshold(crosscoder, TOOL))}
        config["k"] = crosscoder.k
    own = {"norm_scale": crosscoder.norm_scale.tolist(), "revisions": list(about.revisions), "note": about.note}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    write_json(folder / CONFIG, config)
    write_json(folder / OWN, own)


def read(folder: Path) -> Crosscoder:
    """Read a crosscoder; `norm_scale` is one where the file does not hold it.

    Raises:
        DictionaryError: a file is not there or damaged, or it weights codes in a way of its own.
    """
    read_json(folder / CONFIG)
    own = read_json(folder / OWN) if (folder / OWN).is_file() else {}
    tensors = read_safetensors(folder / WEIGHTS, "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    given: dict[str, Any] = {
        "W_enc": tensors["encoder.weight"], "b_enc": tensors["encoder.bias"], "W_dec": tensors["decoder.weight"],
        "b_dec": tensors["decoder.bias"], "norm_scale": _scale(own),
    }  # fmt: skip
    if "threshold" not in tensors:
        return Crosscoder(**given, activation="relu")
    normalisation = int(tensors["code_normalization_id"]) if "code_normalization_id" in tensors else 1
    scores = {theirs: own for own, theirs in NORMALISATION.items()}
    if normalisation not in scores:
        raise DictionaryError(f"{folder}: code_normalization_id {normalisation} is not known here: only 1 and 2 are")
    threshold = tensors["threshold"].expand(given["b_enc"].shape).clone()
    k = int(tensors["k"]) if "k" in tensors else None
    return Crosscoder(**given, activation="batch_topk", k=k, threshold=threshold, score=scores[normalisation])


def _scale(own: dict[str, Any]) -> torch.Tensor | None:
    scale = own.get("norm_scale")
    return None if scale is None else torch.tensor(scale)
