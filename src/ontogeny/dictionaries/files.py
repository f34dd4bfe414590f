"""A dictionary's folder: `config.json`, `weights.safetensors`, `golden.safetensors`, written whole and read checked."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ontogeny.errors import DictionaryError
from ontogeny.files import atomic_path, file_hash, write_json

FORMAT = 1
WEIGHTS, GOLDEN = "weights.safetensors", "golden.safetensors"


class Content(NamedTuple):
    """What a dictionary's folder holds: its settings, canonical tensors, and golden inputs with their outputs."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    golden: dict[str, Tensor]


def write_folder(
    folder: Path, *, settings: dict[str, Any], weights: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    """Write all three files, and the hashes of two of them into the third.

    Raises:
        DictionaryError: the folder exists and holds other files, which replacing it would lose.
    """
    others = (
        sorted({path.name for path in folder.iterdir()} - {WEIGHTS, GOLDEN, "config.json"}) if folder.is_dir() else []
    )
    if others:
        raise DictionaryError(f"{folder} holds other files ({', '.join(others[:3])}): save into a folder of its own")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / WEIGHTS)
        save_file(golden, temporary / GOLDEN)
        hashes = {name: file_hash(temporary / name) for name in (WEIGHTS, GOLDEN)}
        write_json(temporary / "config.json", {"format": FORMAT, **settings, "sha256": hashes})


def read_folder(folder: Path) -> Content:
    """Read a folder and check the hash of every file.

    Raises:
        DictionaryError: a file is missing, damaged, of another format, or has changed since it was saved.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise DictionaryError(f"no dictionary in {folder}: it has no config.json")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found, hashes = config["format"], {name: config["sha256"][name] for name in (WEIGHTS, GOLDEN)}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DictionaryError(f"{path} is damaged or of another program ({error!r}): save it again") from None
    if found != FORMAT:
        raise DictionaryError(f"{path} has format {found}, this version reads {FORMAT}")
    for name, digest in hashes.items():
        if not (folder / name).is_file():
            raise DictionaryError(f"{folder} has no {name}: copy the whole folder")
        if file_hash(folder / name) != digest:
            raise DictionaryError(f"{folder / name} has changed since it was saved (its hash differs): copy it again")
    try:
        return Content(config, load_file(folder / WEIGHTS), load_file(folder / GOLDEN))
    except SafetensorError as error:
        raise DictionaryError(f"{folder} cannot be read as safetensors: {error}") from None
