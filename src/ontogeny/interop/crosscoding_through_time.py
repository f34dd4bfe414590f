"""crosscoding-through-time: `0_cfg.json` and `0.pt`, or `cfg.json` and one `.pt` file.

    W_enc [n, d, F], b_enc [F], W_dec [F, n, d], b_dec [n, d]; for BatchTopK k and a threshold on codes times Σ strength

Inputs are in normalised units, as that code trains. A `.pt` file is a pickle, which can run anything when it is read:
it is read as tensors alone, and refused where it holds more.

Source: crosscoding-through-time, crosscoder.py.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import DictionaryError
from ontogeny.files import write_json
from ontogeny.interop.about import About, one_threshold, read_json, refuse, require

TOOL = "crosscoding-through-time"


def write(crosscoder: Crosscoder, folder: Path, about: About) -> None:
    """Write a crosscoder.

    Raises:
        DictionaryError: it has options that the layout cannot hold.
    """
    refuse(
        crosscoder, TOOL, activation=("relu", "batch_topk"), encoder=("sum",), apply_b_dec_to_input=(False,),
        folded=(False,),
    )  # fmt: skip
    gated = crosscoder.activation_name == "batch_topk"
    if gated:
        refuse(crosscoder, TOOL, score=("sum",))
    tensors = {
        "W_enc": crosscoder.W_enc, "W_dec": crosscoder.W_dec.permute(1, 0, 2), "b_enc": crosscoder.b_enc,
        "b_dec": crosscoder.b_dec,
    }  # fmt: skip
    if gated:
        tensors |= {
            "k": torch.tensor(crosscoder.k, dtype=torch.int),
            "threshold": torch.tensor(one_threshold(crosscoder, TOOL)),
        }
    config = {
        "dict_size": crosscoder.n_features,
        "d_in": crosscoder.d_model,
        "n_models": crosscoder.n_snapshots,
        "enc_dtype": "fp32",
        "seed": 0,
        "dec_init_norm": 0.08,
        "device": "cpu",
        **({"batch_topk_init": crosscoder.k} if gated else {}),
        "norm_scale": crosscoder.norm_scale.tolist(),
        "revisions": list(about.revisions),
        "note": about.note,
    }
    torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / "0.pt")
    write_json(folder / "0_cfg.json", config)


def read(folder: Path) -> Crosscoder:
    """Read a crosscoder; `norm_scale` is one where the file does not hold it.

    Raises:
        DictionaryError: a file is not there or damaged, or holds more than tensors.
    """
    found = sorted(folder.glob("*.pt"))
    if len(found) != 1:
        raise DictionaryError(f"{folder} has {len(found)} .pt files: give a folder with one, and its cfg.json")
    weights, beside = found[0], found[0].with_name(f"{found[0].stem}_cfg.json")
    config = read_json(beside if beside.is_file() else folder / "cfg.json")
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that are refused next
            held = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DictionaryError(
            f"{weights} is not read: it holds more than tensors, or is damaged ({why[:160]})"
        ) from None
    if not isinstance(held, dict) or not all(isinstance(one, torch.Tensor) for one in held.values()):
        raise DictionaryError(f"{weights} is not read: it holds something else than tensors by their names")
    tensors = require(weights, held, "W_enc", "W_dec", "b_enc", "b_dec")
    given: dict[str, Any] = {
        "W_enc": tensors["W_enc"], "W_dec": tensors["W_dec"].permute(1, 0, 2), "b_enc": tensors["b_enc"],
        "b_dec": tensors["b_dec"],
        "norm_scale": torch.tensor(config["norm_scale"]) if "norm_scale" in config else None,
    }  # fmt: skip
    if "threshold" not in tensors:
        return Crosscoder(**given, activation="relu")
    threshold = tensors["threshold"].expand(given["b_enc"].shape).clone()
    k = int(tensors["k"]) if "k" in tensors else None
    return Crosscoder(**given, activation="batch_topk", k=k, threshold=threshold, score="sum")
