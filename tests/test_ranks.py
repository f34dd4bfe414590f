"""Features shared over processes: the same dictionary comes out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ontogeny.dictionaries.ranks import ALONE, Ranks
from sharing import CASES, trained


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dictionaries trained by two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *command, Path(__file__).with_name("sharing.py"), folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(name: str, shared: Path) -> None:
    found, expected = load_file(shared / f"{name}.safetensors"), trained(name, ALONE)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert float((found[key] - value).abs().max()) <= 1e-5 * float(value.abs().max()), key


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
