"""A killed stage, called again, ends in what the undisturbed one ends in, bit for bit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import small_study
from ontogeny.files import file_hash, remove
from ontogeny.progress import read_events
from ontogeny.run import Run

KILLS = {
    "pack": ("ontogeny.corpus.pack", "_write_padded", 700),
    "pretrain": ("ontogeny.models.pretrain", "next_token_losses", 40),
    "train": ("ontogeny.dictionaries.learner", "crosscoder_losses", 70),
    "measure": ("ontogeny.features.measure", "_sum_where", 40),
}
RESULTS = (
    "*.parquet",
    "analyses/*.parquet",
    "dictionary/*",
    "suite/step*/model.safetensors",
    "corpus/*/*.bin",
    "corpus/*/*.npy",
    "corpus/*/*.json",
)


def results(run: Run) -> dict[str, str]:
    """Hash of every result file of a run, by its path in the run."""
    files = [path for pattern in RESULTS for path in run.folder.glob(pattern)]
    return {str(path.relative_to(run.folder)): file_hash(path) for path in sorted(files)}


@pytest.mark.slow
def test_a_kill_in_each_stage_changes_no_bit_of_the_results(small_run: Run, text_file: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(small_study(text_file)), encoding="utf-8")
    killed = Run(tmp_path / "run")
    script = str(Path(__file__).with_name("kill_at.py"))
    for stage, (module, function, count) in KILLS.items():
        command = [sys.executable, script, module, function, str(count), "run", str(study), "--out", str(killed.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == -signal.SIGKILL, f"{stage}: {done.stderr[-2000:]}"
        assert stage not in killed.manifest["stages"]
    command = [sys.executable, "-m", "ontogeny", "run", str(study), "--out", str(killed.folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert json.loads(done.stdout)["run"] == str(killed.folder)
    resumed = {event["stage"] for event in read_events(killed.folder / "events.jsonl") if event["event"] == "resumed"}
    assert resumed == {"pretrain", "train", "measure"}
    assert results(killed) == results(small_run)
    assert len(results(small_run)) > 15
    assert not list(killed.folder.rglob("*.partial"))


def test_what_a_kill_left_of_a_checkpoint_goes_with_it(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    for name in ("train.pt", f".train.pt.{killed.pid}.partial", "measure.pt"):
        (tmp_path / name).write_text("state")
    remove(tmp_path / "train.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["measure.pt"]
