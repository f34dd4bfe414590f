"""Load a dictionary of any kind and check that it does what it did when it was saved."""

from pathlib import Path

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.dictionaries.files import read_folder
from ontogeny.dictionaries.sae_series import SAESeries
from ontogeny.errors import DictionaryError

KINDS: dict[str, type[Dictionary]] = {"crosscoder": Crosscoder, "sae_series": SAESeries}
GOLDEN_TOLERANCE = 1e-4


def load_dictionary(folder: str | Path) -> Dictionary:
    """Load a dictionary saved by `Dictionary.save`; a mis-read file is an error, never a silently wrong model.

    Raises:
        DictionaryError: a file is missing or has changed since it was saved, the kind or format is unknown, or the
            golden inputs do not give the golden outputs to 1e-4 of their greatest.
    """
    folder = Path(folder)
    config, weights, golden = read_folder(folder)
    if config.get("kind") not in KINDS:
        raise DictionaryError(f"{folder}: no dictionary kind '{config.get('kind')}': there is {', '.join(KINDS)}")
    names = ("activation", "k", "gate", "score", "encoder", "apply_b_dec_to_input", "folded")
    if lacking := [name for name in names if name not in config]:
        raise DictionaryError(f"{folder / 'config.json'} lacks {', '.join(lacking)}: save it again")
    dictionary = KINDS[config["kind"]](**weights, **{name: config[name] for name in names})
    dictionary = dictionary.requires_grad_(False).eval()
    dictionary.golden_inputs = golden["x"]
    output = dictionary(golden["x"])
    for name, found in (("code", output.code), ("x_hat", output.x_hat)):
        error = float((found - golden[name]).abs().max() / golden[name].abs().max().clamp_min(1e-30))
        if not error <= GOLDEN_TOLERANCE:
            raise DictionaryError(
                f"{folder}: {name} of the golden inputs is off by {error:.1e} (relative), {GOLDEN_TOLERANCE:.0e} is "
                "allowed: config.json does not fit the weights"
            )
    return dictionary
