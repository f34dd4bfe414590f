"""Features shared over processes: the same dictionary comes out, and any number of processes goes on with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries.ranks import ALONE, Ranks
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.errors import ConfigError
from sharing import CASES, trained


def run(folder: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Train by some processes, as torchrun starts them."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *command, Path(__file__).with_name("sharing.py"), folder, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dictionaries trained by two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run(folder, *CASES)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert float((found[key] - value).abs().max()) <= 1e-5 * float(value.abs().max()), key


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(name: str, shared: Path) -> None:
    same(load_file(shared / f"{name}.safetensors"), trained(name, ALONE))


def test_dead_features_are_revived_in_the_case_that_says_so() -> None:
    with_aux, without = (trained(name, ALONE)["W_dec"] for name in ("aux", "batch_topk"))
    assert float((with_aux - without).abs().max()) > 1e-3


def test_a_killed_process_ends_the_run_and_any_number_goes_on(shared: Path, tmp_path: Path) -> None:
    killed = run(tmp_path, "jumprelu", "--kept", "--until", "20")
    assert killed.returncode != 0
    assert (tmp_path / "jumprelu.shared").is_dir()
    assert not (tmp_path / "jumprelu.safetensors").exists()
    again = run(tmp_path, "jumprelu", "--kept", "--until", "35", processes=1)  # on one, which dies as well
    assert again.returncode != 0
    done = run(tmp_path, "jumprelu", "--kept")  # and back on two
    assert done.returncode == 0, done.stderr[-3000:]
    same(load_file(tmp_path / "jumprelu.safetensors"), load_file(shared / "jumprelu.safetensors"))


def test_what_is_not_summed_over_processes_is_refused() -> None:
    ranks = Ranks()
    ranks.size = 2
    config = CrosscoderConfig(n_features=8, k=2, apply_b_dec_to_input=True)
    with pytest.raises(ConfigError, match="apply_b_dec_to_input: its gradient is not summed"):
        train_crosscoder([torch.zeros(4, 1, 4)], config, ranks=ranks)


def test_features_are_cut_as_torch_cuts_them() -> None:
    for size, n in ((1, 7), (2, 81), (3, 8), (4, 5)):
        cut = []
        for rank in range(size):
            ranks = Ranks()
            ranks.rank, ranks.size = rank, size
            cut.append(torch.arange(n)[ranks.own(n)])
        wanted = torch.arange(n).chunk(size)
        assert all(torch.equal(one, other) for one, other in zip(cut, wanted, strict=False))
        assert sum(map(len, cut)) == n
