"""What tests share: real text from the standard library's documentation, and one small study run end to end."""

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub_server import Hub
from ontogeny.cli import main
from ontogeny.config.attribution import AttributionConfig, TaskConfig
from ontogeny.config.study import load_study
from ontogeny.corpus.pydocs import pydocs
from ontogeny.run import Run
from ontogeny.study import run_study

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("ONTOGENY_SHARED") or ROOT.parent / "shared").resolve()
    if not (folder / "suites" / "english-neox").is_dir():
        pytest.skip(f"no reference data at {folder} (set ONTOGENY_SHARED)")
    return folder


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """A folder by its name, made by the first process of this session that wants it; for all to read."""
    own = tmp_path_factory.getbasetemp()
    common = own if worker_id == "master" else own.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = common / name, common / f"{name}.done"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.is_file():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def text_file(once: Once) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        write_stdlib(folder / "stdlib.jsonl")

    return once("text", make) / "stdlib.jsonl"


def write_stdlib(path: Path) -> Path:
    """About half a megabyte of the standard library's documentation, a JSON line per module."""
    documents = pydocs(packages=["stdlib"], max_bytes_per_package=500_000)
    lines = [json.dumps({"id": name, "source": source, "text": text}) for name, source, text in documents]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def small_study(text_file: Path, **changes: object) -> dict[str, object]:
    """A study small enough to run in seconds, all of it real."""
    return {
        "name": "small",
        "suite": {
            "pretrain": {
                "model": {
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "intermediate_size": 64,
                },
                "steps": 60,
                "batch_size": 16,
                "learning_rate": 0.01,
                "warmup_steps": 5,
                "snapshots": [0, 10, 25],
            }
        },
        "corpus": {"files": str(text_file), "sequence_length": 64, "tokenizer": {"vocab_size": 512}},
        "hookpoint": "resid_post.0",
        "dictionary": {"n_features": 96, "k": 8},
        "train": {
            "tokens": 60_000,
            "batch_size": 512,
            "window_tokens": 4096,
            "dead_after_tokens": 5000,
            "learning_rate": 0.005,
        },
        "measure": {
            "tokens": 30_000,
            "held_out_tokens": 8000,
            "sample_tokens": 4000,
            "examples": 5,
            "snapshot_examples": 2,
        },
        "analyses": ["emergence", "single_saes", "turning_point", "phases"],
        "analysis": {"phase_tokens": 8000, "kl_tokens": 2000, "bootstrap": 200, "independent_start": True},
    } | changes


def quick_study(text_file: Path, **changes: object) -> dict[str, Any]:
    """The small study on fewer tokens, for tests that do not look at what it finds."""
    study: dict[str, Any] = small_study(text_file, **changes)
    study["train"] |= {"tokens": 10_000}
    study["measure"] |= {"tokens": 6000, "held_out_tokens": 4000}
    return study


LONG = ("docs", "hub", "series_study", "cli", "live", "sweep", "resume", "app_browser", "track", "levels", "bad_inputs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one of them at the end."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def small_folder(text_file: Path, once: Once) -> Path:
    """The small study, run to its report; to be copied."""

    def make(folder: Path) -> None:
        path = folder.with_name("small.yaml")
        path.write_text(yaml.safe_dump(small_study(text_file)), encoding="utf-8")
        run_study(load_study(path), out=folder, say=lambda line: None)

    return once("small", make)


def copied(folder: Path, to: Path) -> Run:
    """A process's own copy of a run."""
    shutil.copytree(folder, to / "run")
    return Run(to / "run")


@pytest.fixture(scope="session")
def small_run(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small study, run to its report."""
    return copied(small_folder, tmp_path_factory.mktemp("small"))


TASKS = AttributionConfig(
    tasks=[
        TaskConfig(family="agreement_simple", items=40, name="simple"),
        TaskConfig(family="agreement_pp", items=40, name="pp", least_count=1),
    ],
    leading=[1, 3, 1000],
    control_draws=2,
    exact_features=12,
    bootstrap=50,
    learned_accuracy=0.0,
    seeds=[1],
)


@pytest.fixture(scope="session")
def task_run(small_folder: Path, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run with tasks; what it has done already is not done again."""

    def make(folder: Path) -> None:
        shutil.copytree(small_folder, folder)
        study = load_study(folder / "study.yaml").model_copy(update={"attribution": TASKS})
        said: list[str] = []
        run_study(study, out=folder, say=said.append)
        assert said[0].startswith("settings changed: attribution.tasks None → ")
        assert [line.split(":")[0] for line in said[1:] if "done already" not in line] == ["attribute", "report"]

    return copied(once("tasks", make), tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Starts a local hub over `tmp_path / "hub"`."""
    hubs: list[Hub] = []

    def start(*, fail: float = 0.0) -> Hub:
        hubs.append(Hub(tmp_path, fail=fail))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.stop()


Command = Callable[..., tuple[int, list[str]]]
PROGRESS = re.compile(
    r" *[a-z0-9-]+  ?[\d,]+(/[\d,]+)? |(pack|pretrain|train|measure|analyse|attribute|truth|report): "
)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process: its exit code, and what it says apart from progress."""

    def call(*arguments: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["ontogeny", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capsys.readouterr().err.splitlines()
        return int(ended.value.code or 0), [line for line in lines if not PROGRESS.match(line)]

    return call
