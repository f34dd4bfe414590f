"""Sweeps: several studies as one, as jobs in any order, and their tables as one."""

import json
import os
import random
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from conftest import Command, quick_study
from ontogeny.cli import app
from ontogeny.config.study import load_study
from ontogeny.errors import ConfigError, RunError
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.sweep import members, merge, run_sweep, write_jobs

AXES = {"hookpoints": ["resid_post.0", "resid_post.1"], "seeds": [0, 7]}


def sweep_file(folder: Path, run: Run, text_file: Path, sweep: dict[str, Any]) -> Path:
    """A quick study of the small run's suite."""
    changes = {
        "name": "swept",
        "suite": {"folder": str(run.suite_folder)},
        "corpus": {"files": str(text_file), "sequence_length": 64},
        "analyses": ["emergence"],
        "analysis": {},
        "sweep": sweep,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(quick_study(text_file, **changes)), encoding="utf-8")
    return path


def test_every_combination_is_a_study_of_its_own(small_run: Run, text_file: Path, tmp_path: Path) -> None:
    study = load_study(sweep_file(tmp_path, small_run, text_file, {**AXES, "steps": ["all", [0, 60], "every=2"]}))
    found = members(study)
    assert len(found) == 12
    one = found["resid_post.1-seed7-0-60"]
    assert one.values == {"hookpoint": "resid_post.1", "seed": 7, "steps": "0-60"}
    assert (one.study.hookpoint, one.study.train.seed, one.study.suite.steps) == ("resid_post.1", 7, [0, 60])
    assert one.study.name == "swept-resid_post.1-seed7-0-60"
    assert one.study.sweep is None
    assert "resid_post.0-seed0-every2" in found
    many = load_study(sweep_file(tmp_path, small_run, text_file, {"steps": [list(range(0, 400, 3))]}))
    assert max(map(len, members(many))) < 60
    with pytest.raises(ConfigError, match="run_sweep"):
        run_study(study, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"not done yet: resid_post\.0-seed0-all, "):
        merge(study, out=tmp_path / "run")


def test_jobs_in_any_order_with_one_killed_and_repeated_end_in_the_same_tables(
    small_run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    path = sweep_file(tmp_path, small_run, text_file, AXES)
    study = load_study(path)
    jobs = write_jobs(
        path, study, tmp_path / "jobs", out=tmp_path / "split", options=["--gres=gpu:1", "--account=gpulab"]
    )
    assert len(jobs) == 8
    submit = (tmp_path / "jobs" / "submit.sh").read_text()
    assert submit.count("sbatch --parsable") == 8
    assert submit.count("afterok:$last") == 4
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    order = random.Random(3).sample(jobs, 8)
    assert order != jobs
    killed = subprocess.Popen(["bash", order[0]], env=environment, start_new_session=True)
    while not list((tmp_path / "split").rglob("corpus/key")) and killed.poll() is None:
        time.sleep(0.02)  # packed, so that training begins
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    for number, job in enumerate(order):
        assert "#SBATCH --gres=gpu:1" in job.read_text()
        if number < 2:
            done = subprocess.run(["bash", job], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:  # what the script calls, without a process's start
            words = shlex.split(job.read_text().splitlines()[-1])
            assert words[1:4] == ["-m", "ontogeny", "run"]
            assert command(*words[3:])[0] == 0
    done = subprocess.run(["bash", tmp_path / "jobs" / "merge.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run_sweep(study, out=tmp_path / "whole", say=lambda line: None)
    written = merge(study, out=tmp_path / "whole")
    assert {file.name for file in written} >= {"features.parquet", "trajectories.parquet", "emergence.parquet"}
    for file in written:
        other = tmp_path / "split" / file.relative_to(tmp_path / "whole")
        assert_frame_equal(pl.read_parquet(file), pl.read_parquet(other), check_exact=True)
    merging = (tmp_path / "jobs" / "merge.sh").read_text()
    assert "#SBATCH --account=gpulab" in merging
    assert "--gres" not in merging
    changed = study.model_copy(update={"measure": study.measure.model_copy(update={"seed": 5})})
    with pytest.raises(RunError, match=r"of other settings than the sweep's: resid_post\.0-seed0, "):
        merge(changed, out=tmp_path / "whole")
    features = pl.read_parquet(tmp_path / "split" / "merged" / "features.parquet")
    assert features.group_by("member_hookpoint", "member_seed").len()["len"].to_list() == [96] * 4
    one = Run(tmp_path / "split" / "resid_post.1-seed7").features
    own = features.filter(pl.col("member") == "resid_post.1-seed7").select(one.columns)
    assert own.equals(one)


def test_what_is_for_a_sweep_is_one_line_elsewhere(
    small_run: Run, text_file: Path, tmp_path: Path, command: Command
) -> None:
    path = sweep_file(tmp_path, small_run, text_file, AXES)
    code, said = command("measure", path)
    assert code == 2
    assert "is a sweep of several studies" in said[0]
    code, said = command("run", path, "--out", tmp_path / "run", "--member", "resid_post.0-sed7")
    assert code == 2
    assert "no member 'resid_post.0-sed7' (did you mean resid_post.0-seed7?)" in said[0]
    told = CliRunner().invoke(app, ["run", str(path), "--slurm", str(tmp_path / "jobs"), "--json"])
    assert [Path(job).is_file() for job in json.loads(told.stdout)["jobs"]] == [True] * 8
    code, said = command("run", small_run.folder, "--slurm", tmp_path / "jobs")
    assert code == 2
    assert "--slurm is for a sweep" in said[0]
    code, said = command("run", sweep_file(tmp_path, small_run, text_file, {}))
    assert code == 2
    assert "give hookpoints, seeds or steps" in said[0]


def test_a_sweep_is_planned_by_its_first_study(
    small_run: Run, text_file: Path, tmp_path: Path, command: Command
) -> None:
    study = sweep_file(tmp_path, small_run, text_file, AXES)
    code, _ = command("plan", study, "--out", tmp_path / "out")
    assert code == 0
    planned = CliRunner().invoke(app, ["plan", str(study), "--out", str(tmp_path / "out")])
    assert "of a sweep of 4 studies this is the first, resid_post.0-seed0" in planned.stdout
    assert not (tmp_path / "out").exists()
