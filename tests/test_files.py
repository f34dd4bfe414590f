"""A dictionary's folder: what was saved is what is loaded, or an error."""

import json
from pathlib import Path

import pytest
import torch

from ontogeny import load_dictionary
from ontogeny.errors import DictionaryError
from test_crosscoder import inputs, make


def test_a_saved_dictionary_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    scale = torch.tensor([0.2, 1.0, 8.0])
    for folded in (False, True):
        dictionary = make("batch_topk", k=2, threshold=torch.full((7,), 0.7), norm_scale=scale)
        if folded:
            dictionary = dictionary.fold_normalisation()
        dictionary.save(tmp_path / "d")
        loaded = load_dictionary(tmp_path / "d")
        assert loaded.settings() == dictionary.settings()
        for name, tensor in dictionary.tensors().items():
            assert torch.equal(loaded.tensors()[name], tensor), name
        assert torch.equal(loaded(inputs()).code, dictionary(inputs()).code)


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors"])
def test_one_flipped_byte_is_an_error(tmp_path: Path, name: str) -> None:
    make().save(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-5] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DictionaryError, match=f"{name} has changed since it was saved"):
        load_dictionary(tmp_path)


def test_a_configuration_that_does_not_fit_the_weights_is_caught_by_the_golden_vectors(tmp_path: Path) -> None:
    make("batch_topk", k=2, threshold=torch.full((7,), 2.0)).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"activation": "relu"}))
    with pytest.raises(DictionaryError, match=r"config\.json does not fit the weights"):
        load_dictionary(tmp_path)


def test_a_missing_file_or_a_strange_config_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"has no config\.json"):
        load_dictionary(tmp_path)
    make().save(tmp_path)
    (tmp_path / "golden.safetensors").unlink()
    with pytest.raises(DictionaryError, match=r"has no golden\.safetensors"):
        load_dictionary(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DictionaryError, match="damaged or of another program"):
        load_dictionary(tmp_path)


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DictionaryError, match=r"holds other files \(thesis\.txt\)"):
        make().save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_saving_again_replaces_the_folder_as_a_whole(tmp_path: Path) -> None:
    make(seed=0).save(tmp_path / "d")
    make(seed=1).save(tmp_path / "d")
    assert torch.equal(load_dictionary(tmp_path / "d").W_enc, make(seed=1).W_enc)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
