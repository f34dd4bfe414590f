"""How fast, and whether to stream or to store."""

import json
from pathlib import Path

import pytest
import yaml

from conftest import Command, small_study
from ontogeny import pace as pace_module
from ontogeny.config import StudyConfig, load_study
from ontogeny.pace import Pace, advice, cheaper_store, measure_pace, training_seconds
from ontogeny.plan import Plan, plan_study
from ontogeny.run import Run
from ontogeny.study import run_study

TRAIN = {"tokens": 20_000, "batch_size": 500, "window_tokens": 4000, "store_gb": "auto"}
SLOW_HARVEST = Pace(harvest=1e-2, train=1e-3, write=1e-5, read=1e-4)
SLOW_READING = Pace(harvest=1e-4, train=1e-3, write=1e-4, read=1e-3)


def study(folder: Path, text_file: Path, **changes: object) -> StudyConfig:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(small_study(text_file, train=TRAIN, **changes)), encoding="utf-8")
    return load_study(path)


def planned(folder: Path, text_file: Path) -> Plan:
    """Three trainings in all: the study's, one started independently, and three quarters of one in single SAEs."""
    return plan_study(study(folder, text_file), folder / "run")


def test_hours_by_hand(text_file: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path, text_file)
    assert plan.tokens_read == 20_000 * 2.75
    assert plan.tokens_kept == 20_000
    assert training_seconds(plan, SLOW_HARVEST, stored=False) == pytest.approx(55_000 * 1.1e-2)
    stored = 20_000 * (1e-2 + 1e-5) + 35_000 * 1e-4 + 55_000 * 1e-3
    assert training_seconds(plan, SLOW_HARVEST, stored=True) == pytest.approx(stored)
    assert plan.kept_bytes == pytest.approx(1.01 * 20_000 * 4 * 2 * 32)
    assert cheaper_store(plan, SLOW_HARVEST) == 0.1
    assert "storing them saves time here, train.store_gb: 0.1" in advice(plan, SLOW_HARVEST)
    assert cheaper_store(plan, SLOW_READING) is None
    assert "streaming is as fast" in advice(plan, SLOW_READING)


def test_a_store_that_does_not_fit_is_not_chosen(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, text_file)
    monkeypatch.setattr(Plan, "disk_free", lambda self: 1.9 * plan.kept_bytes)
    assert cheaper_store(plan, SLOW_HARVEST) is None
    assert "more than half of the free disk" in advice(plan, SLOW_HARVEST)


def test_plan_times_a_few_steps(
    command: Command, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study(tmp_path, text_file)
    with capsys.disabled():
        pace = measure_pace(planned(tmp_path, text_file))
    assert all(0 < seconds < 1 for seconds in pace)
    assert pace.read < pace.harvest
    assert command("plan", tmp_path / "study.yaml", "--pace", "--out", tmp_path / "run") == (0, [])
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob(".trial*"))


@pytest.mark.parametrize(("pace", "budget"), [(SLOW_HARVEST, 0.1), (SLOW_READING, None)])
def test_auto_is_decided_once_and_kept(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: Pace, budget: float | None
) -> None:
    monkeypatch.setattr(pace_module, "measure_pace", lambda plan: pace)
    run = run_study(study(tmp_path, text_file), out=tmp_path / "run", until="train", say=lambda line: None)
    assert run.manifest["store_gb"] == budget
    assert (run.folder / "activations").is_dir() == (budget is not None)
    assert plan_study(run.study, run.folder).store_gb == budget
    monkeypatch.setattr(pace_module, "measure_pace", lambda plan: pytest.fail("measured again"))
    manifest = json.loads((run.folder / "manifest.json").read_text())
    del manifest["stages"]["train"]
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    again = run_study(run.study, out=run.folder, until="train", say=lambda line: None)
    assert Run(again.folder).manifest["store_gb"] == budget
