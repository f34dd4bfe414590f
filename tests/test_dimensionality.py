"""Dimensionality: by hand, beside the direct formula, in bounded memory."""

import subprocess
import sys

import polars as pl
import pytest
import torch

from ontogeny.analyses.dimensions import dimensions
from ontogeny.features.dimensionality import dimensionality, random_totals, total
from ontogeny.run import Run


def test_by_hand() -> None:
    W = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, -3, 0], [0, 0, 0]])
    assert dimensionality(W).tolist() == [1, 0.5, 0.5, 0]
    assert total(W) == pytest.approx(2 / 3)
    # at 60°: Σ of the squared cosines is 1 + 1/4
    W = torch.tensor([[1.0, 0], [0.5, 0.75**0.5]])
    assert dimensionality(W).tolist() == pytest.approx([0.8, 0.8])


def test_as_the_direct_formula_says() -> None:
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(9000, 24, generator=draw) * torch.rand(9000, 1, generator=draw)
    W[17] = 0
    unit = torch.nn.functional.normalize(W.double(), dim=1)
    direct = W.double().square().sum(1) / (unit @ W.double().T).square().sum(1)
    direct[17] = 0
    assert (dimensionality(W) - direct).abs().max() < 1e-5
    assert dimensionality(W[:0]).shape == (0,)


def test_random_directions_fill_most_of_the_space_and_never_more_than_all() -> None:
    norms = torch.rand(400, generator=torch.Generator().manual_seed(1)) + 0.5
    found = random_totals(norms, 32, draws=4, seed=0)
    assert found.min() > 0.6
    assert found.max() <= 1
    assert len(found.unique()) == 4


def test_memory_is_bounded_for_the_published_size() -> None:
    """98,304 features of width 768 in less than 4 GiB; a [feature, feature] matrix alone would take 36."""
    code = (
        "import resource, torch; from ontogeny.features.dimensionality import total;"
        "W = torch.randn(98304, 768); print(total(W));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    share, kilobytes = done.stdout.split()
    assert 0.9 < float(share) <= 1
    assert int(kilobytes) * 1024 < 4 * 2**30


def test_of_a_run(small_run: Run) -> None:
    table = dimensions(small_run)
    assert set(table["alive_threshold"]) == {0.3, 0.5, 0.7}
    assert len(table) == 3 * 4
    assert table["total"].is_between(0, 1).all()
    assert (table["random_low"] <= table["random"]).all()
    alive = small_run.table("emergence").sort("alive_threshold", "snapshot")["alive"]
    assert table.sort("alive_threshold", "snapshot")["features"].to_list() == alive.to_list()
    last = table.filter(pl.col("snapshot") == 3, pl.col("alive_threshold") == 0.5).row(0, named=True)
    dictionary = small_run.dictionary()
    strength = dictionary.strength()
    living = (strength[3] >= 0.5 * strength.amax(0)) & torch.from_numpy(
        ~small_run.features.sort("feature")["dead"].to_numpy()
    )
    assert last["total"] == pytest.approx(total(dictionary.W_dec[3][living]))
