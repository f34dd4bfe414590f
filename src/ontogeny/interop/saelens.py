"""SAELens 6: `cfg.json` and `sae_weights.safetensors`, an SAE of one snapshot.

    acts = activation((x - b_dec, where apply_b_dec_to_input) @ W_enc + b_enc),  x̂ = acts @ W_dec + b_dec

on raw activations: the scale of ours is folded in. BatchTopK is written as JumpReLU, which is its rule at inference;
TopK with unit directions, because there the size of an output alone decides.

Source: SAELens 6, sae_lens/saes.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import DictionaryError
from ontogeny.files import write_json
from ontogeny.interop.about import About, read_json, read_safetensors

TOOL, VERSION = "SAELens", "6.0.0"
"""Written as the version whose layout this is."""
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = {"relu": "standard", "jumprelu": "jumprelu", "batch_topk": "jumprelu", "topk": "topk"}
UNEQUAL = 1e-3
"""Relative difference of decoder norms up to which an unweighted TopK is ours."""


def write(crosscoder: Crosscoder, folder: Path, about: About) -> None:
    """Write a dictionary of one snapshot.

    Raises:
        DictionaryError: it has several snapshots, or no threshold yet.
    """
    if crosscoder.n_snapshots != 1:
        raise DictionaryError(f"{TOOL} holds SAEs of one snapshot, this dictionary has {crosscoder.n_snapshots}")
    folded = crosscoder.fold_normalisation()
    assert isinstance(folded, Crosscoder)
    W_enc, W_dec, b_enc = folded.W_enc[0], folded.W_dec[0], folded.b_enc
    strength = folded.strength()[0].clamp_min(1e-30)
    options: dict[str, Any] = {}
    if folded.activation_name == "topk":
        norm = W_dec.norm(dim=1).clamp_min(1e-30)
        W_enc, b_enc, W_dec = W_enc * norm, b_enc * norm, W_dec / norm[:, None]
        options = {"k": folded.k, "rescale_acts_by_decoder_norm": False}
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": folded.b_dec[0]}
    if ARCHITECTURES[folded.activation_name] == "jumprelu":
        if folded.threshold is None:
            raise DictionaryError(
                "batch_topk without a threshold keeps what a batch decides: train it to its end first"
            )
        # a score is an output times its strength; here the output alone is held against the threshold
        tensors["threshold"] = folded.threshold / strength
    config = {
        "d_in": folded.d_model,
        "d_sae": folded.n_features,
        "dtype": "float32",
        "device": "cpu",
        "architecture": ARCHITECTURES[folded.activation_name],
        "apply_b_dec_to_input": folded.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **options,
        "metadata": {
            "sae_lens_version": VERSION,
            "sae_lens_training_version": None,
            "model_name": about.model,
            "hook_name": about.transformer_lens_hook,
            "model_class_name": "HookedTransformer",
            "model_from_pretrained_kwargs": {"revision": about.revisions[0]} if about.revisions else {},
            "context_size": about.context,
            "prepend_bos": True,
            "dataset_path": about.corpus,
            "note": about.note,
        },
    }
    save_file({name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    write_json(folder / CONFIG, config)


def read(folder: Path) -> Crosscoder:
    """Read an SAE as a crosscoder of one snapshot, on raw activations.

    Raises:
        DictionaryError: a file is not there or damaged, or the SAE does what a crosscoder cannot.
    """
    config = read_json(folder / CONFIG)
    tensors = read_safetensors(folder / WEIGHTS, "W_enc", "W_dec", "b_enc", "b_dec")
    architecture = config.get("architecture", "standard")
    if "metadata" not in config:
        raise DictionaryError(f"{folder} was written by a SAELens before 6: load it there and save it again")
    if (scaling := config.get("normalize_activations", "none")) != "none":
        raise DictionaryError(
            f"{folder}: normalize_activations '{scaling}' needs a factor that the files do not hold: fold it in first "
            "(SAE.fold_activation_norm_scaling_factor)"
        )
    given: dict[str, Any] = {
        "W_enc": tensors["W_enc"][None], "W_dec": tensors["W_dec"][None], "b_enc": tensors["b_enc"],
        "b_dec": tensors["b_dec"][None], "apply_b_dec_to_input": bool(config.get("apply_b_dec_to_input", True)),
    }  # fmt: skip
    norm = tensors["W_dec"].norm(dim=1)
    if architecture == "standard":
        return Crosscoder(**given, activation="relu")
    if architecture == "jumprelu":
        if "threshold" not in tensors:
            raise DictionaryError(f"{folder / WEIGHTS} lacks threshold, which a jumprelu SAE has")
        return Crosscoder(**given, activation="jumprelu", threshold=torch.relu(tensors["threshold"]) * norm)
    if architecture == "topk":
        unequal = float(norm.max() - norm.min()) > UNEQUAL * float(norm.max())
        if unequal and not config.get("rescale_acts_by_decoder_norm"):
            raise DictionaryError(
                f"{folder}: this topk SAE lets outputs compete without the norms of their directions, which differ; "
                "ours compete by contributions"
            )
        return Crosscoder(**given, activation="topk", k=int(config["k"]))
    raise DictionaryError(
        f"{folder}: no crosscoder does what a {TOOL} SAE of architecture '{architecture}' does; there are standard, "
        "jumprelu, topk"
    )
