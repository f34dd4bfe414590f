"""A dictionary's folder: `config.json`, `weights.safetensors`, `golden.safetensors`.

Loading checks the hash of every file and that the golden inputs give the golden outputs, so that a mis-read file is an
error and never a silently wrong model.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.errors import DictionaryError
from ontogeny.run import atomic_path, file_hash, write_json

KINDS: dict[str, type[Dictionary]] = {"crosscoder": Crosscoder}
FORMAT = 1
GOLDEN_ROWS = 8
GOLDEN_TOLERANCE = 1e-4


def save_dictionary(dictionary: Dictionary, folder: Path) -> Path:
    """Write a dictionary's folder, float32; see `Dictionary.save`."""
    inputs = _gaussian_inputs(dictionary) if dictionary.golden_inputs is None else dictionary.golden_inputs
    inputs = inputs[:GOLDEN_ROWS].float().cpu()
    dictionary = copy.deepcopy(dictionary).float().cpu()
    with torch.no_grad():
        output = dictionary(inputs)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(dictionary.tensors(), temporary / "weights.safetensors")
        save_file(
            {"x": inputs.contiguous(), "code": output.code.contiguous(), "x_hat": output.x_hat.contiguous()},
            temporary / "golden.safetensors",
        )
        hashes = {name: file_hash(temporary / name) for name in ("weights.safetensors", "golden.safetensors")}
        sizes = {"snapshots": dictionary.n_snapshots, "d_model": dictionary.d_model, "features": dictionary.n_features}
        write_json(
            temporary / "config.json", {"format": FORMAT, **dictionary.settings(), "sizes": sizes, "sha256": hashes}
        )
    return folder


def _gaussian_inputs(dictionary: Dictionary) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(GOLDEN_ROWS, dictionary.n_snapshots, dictionary.d_model, generator=generator)
    return x / dictionary.norm_scale.cpu()[:, None] if dictionary.folded else x


def load_dictionary(folder: str | Path) -> Dictionary:
    """Load a dictionary and check it.

    Raises:
        DictionaryError: a file is missing or has changed since it was saved, the format is unknown, or the golden
            outputs are not reproduced to 1e-4.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise DictionaryError(f"no dictionary in {folder}: it has no config.json")
    try:
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        hashes: dict[str, str] = config["sha256"]
        kind, activation = KINDS[config["kind"]], config["activation"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DictionaryError(f"{config_path} is damaged or of another program ({error!r}): save it again") from None
    if config["format"] != FORMAT:
        raise DictionaryError(f"{config_path} has format {config['format']}, this version reads {FORMAT}")
    for name, digest in hashes.items():
        if not (folder / name).is_file():
            raise DictionaryError(f"{folder} has no {name}: copy the whole folder")
        if file_hash(folder / name) != digest:
            raise DictionaryError(f"{folder / name} has changed since it was saved (its hash differs): copy it again")
    try:
        tensors = load_file(folder / "weights.safetensors")
        golden = load_file(folder / "golden.safetensors")
    except SafetensorError as error:
        raise DictionaryError(f"{folder} cannot be read as safetensors: {error}") from None
    settings = {name: config[name] for name in ("k", "gate", "apply_b_dec_to_input", "folded")}
    dictionary = kind(**tensors, activation=activation, **settings).requires_grad_(False).eval()
    dictionary.golden_inputs = golden["x"]
    with torch.no_grad():
        output = dictionary(golden["x"])
    for name, found in (("code", output.code), ("x_hat", output.x_hat)):
        error = float((found - golden[name]).abs().max() / golden[name].abs().max().clamp_min(1.0))
        if not error <= GOLDEN_TOLERANCE:
            raise DictionaryError(
                f"{folder}: {name} of the golden inputs is off by {error:.1e} (relative), {GOLDEN_TOLERANCE:.0e} is "
                "allowed: config.json does not fit the weights"
            )
    return dictionary
