"""Features, tokens and snapshots shared over processes: the same dictionary, and any number goes on with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import quick_study
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.config.study import SweepConfig, load_study
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.errors import ConfigError, TrainingError
from ontogeny.preflight import require_shareable
from ontogeny.progress import read_events
from ontogeny.ranks import ALONE, Ranks, joined
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.sweep import run_sweep
from sharing import CASES, trained

OF_REPLICAS = ("batch_topk", "jumprelu", "aux")
"""Those of CASES with a loss, or a choice of features, that is no sum over tokens."""


def run(folder: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Train by some processes."""
    return torchrun(Path(__file__).with_name("sharing.py"), folder, *arguments, processes=processes)


def torchrun(*command: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Start a script, or `-m` a module, in some processes; one of them without the launcher."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    if processes == 1:
        launcher = []
    return subprocess.run(
        [sys.executable, *launcher, *command],
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


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dictionaries trained by two replicas, of two processes that share the features each."""
    folder = tmp_path_factory.mktemp("replicas")
    done = run(folder, *OF_REPLICAS, "--replicas", "2", processes=4)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", OF_REPLICAS)
def test_two_replicas_of_two_processes_train_what_one_does(name: str, replicated: Path) -> None:
    same(load_file(replicated / f"{name}.safetensors"), trained(name, ALONE))


@pytest.fixture(scope="module")
def study(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose models are pre-trained; its three snapshots are shared by two processes unequally."""
    path = tmp_path_factory.mktemp("together") / "study.yaml"
    settings = quick_study(text_file)
    settings["suite"]["pretrain"]["snapshots"] = [0, 25]
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    run_study(load_study(path), out=path.parent / "run", until="pretrain", say=lambda line: None)
    return path


def test_torchrun_runs_a_study_as_one_process_does(study: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(study.parent / "run", tmp_path / name)
    alone = run_study(load_study(study), out=tmp_path / "one", until="train", say=lambda line: None)
    done = torchrun("-m", "ontogeny", "run", study, "--out", tmp_path / "two", "--until", "measure", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)  # by one process
    assert "measure" in told["stages"]
    both = Run(tmp_path / "two")
    assert both.dictionary().n_snapshots == len(alone.steps) == 3
    for key, value in alone.dictionary().tensors().items():
        found = both.dictionary().tensors()[key]
        assert float((found - value).abs().max()) <= 1e-3 * float(value.abs().max()), key
    assert not list((tmp_path / "two" / "checkpoints").glob("train*"))
    events = [(event["stage"], event["event"]) for event in read_events(both.folder / "events.jsonl")]
    assert events.count(("train", "trained")) == 1


def test_what_processes_cannot_do_together_is_said_in_one_line(study: Path, tmp_path: Path) -> None:
    asked = yaml.safe_load(study.read_text(encoding="utf-8"))
    path = tmp_path / "stored.yaml"
    path.write_text(yaml.safe_dump(asked | {"train": asked["train"] | {"store_gb": 1}}), encoding="utf-8")
    done = torchrun("-m", "ontogeny", "run", path, "--out", tmp_path / "run")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ontogeny: ")]
    assert "train.store_gb: several processes harvest while they train" in line


def test_an_error_of_one_process_ends_all(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study.parent / "run", tmp_path / "run")
    done = torchrun(Path(__file__).with_name("failing.py"), study, tmp_path / "run")
    assert done.returncode != 0
    assert "it fails here" in done.stderr


def test_a_store_of_several_processes_and_unequal_replicas_are_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"train\.replicas: 3 do not divide the 2 processes"), joined(3):
        pass
    asked = load_study(study)
    sweep = asked.model_copy(update={"sweep": SweepConfig(seeds=[0, 1])})
    with pytest.raises(ConfigError, match="give --member, one of seed0, seed1"):
        run_sweep(sweep)
    for changes, said in (
        ({"store_gb": 1.0}, r"train\.store_gb: several processes"),
        ({"store_gb": "auto"}, r"train\.store_gb: several processes"),
        ({"replicas": 3}, r"train\.replicas: 3 cannot share batches of 512 tokens equally"),
    ):
        with pytest.raises(ConfigError, match=said):
            require_shareable(asked.model_copy(update={"train": asked.train.model_copy(update=changes)}))


def test_dead_features_are_revived_in_the_case_that_says_so() -> None:
    with_aux, without = (trained(name, ALONE)["W_dec"] for name in ("aux", "batch_topk"))
    assert float((with_aux - without).abs().max()) > 1e-3


def test_a_killed_process_ends_the_run_and_any_number_goes_on(shared: Path, tmp_path: Path) -> None:
    begun = run(tmp_path, "jumprelu", "--kept", "--until", "5", processes=1)
    assert begun.returncode != 0
    assert (tmp_path / "jumprelu.pt").is_file()
    killed = run(tmp_path, "jumprelu", "--kept", "--until", "20")
    assert killed.returncode != 0
    assert killed.stdout.split("\n")[:2] == ["from 5", "from 5"]
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


def test_a_batch_that_replicas_cannot_share_equally_is_refused() -> None:
    ranks = Ranks()
    ranks.replicas = 3
    with pytest.raises(TrainingError, match=r"train.replicas: 3 cannot share batches of 256 tokens equally"):
        ranks.tokens(torch.zeros(256, 1, 4))


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
