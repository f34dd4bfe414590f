"""The command line, in processes of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

import ontogeny
from conftest import quick_study, small_study
from ontogeny.cli import _tell
from ontogeny.cli.shared import print_table
from ontogeny.config.study import StudyConfig, load_study
from ontogeny.preflight import check_study
from ontogeny.progress import read_events
from ontogeny.run import Run, open_run
from ontogeny.stages import STAGES
from ontogeny.study import changes as changes_of
from ontogeny.study import run_study


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ontogeny", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd)


def assert_one_line_and_nothing_written(done: subprocess.CompletedProcess[str], message: str, out: Path) -> None:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert re.search(message, lines[0]), lines[0]
    assert done.stdout == ""
    assert not out.exists()


def test_tables_that_are_piped_are_cut_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a column of some width {number}" for number in range(20)]
    print_table(pl.DataFrame({name: [1.5, None] for name in names}))
    heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split("  ") == names
    assert rows[0].split() == ["1.5"] * 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": {"files": "absent/*.txt"}}, r"no file matches '.*absent/\*\.txt'"),
        (
            {"hookpoint": "resid_post.2"},
            "no hookpoint resid_post.2: the model has 2 blocks, so the last is resid_post.1",
        ),
        ({"trian": {}}, r"unknown setting 'trian' in StudyConfig \(did you mean train\?\)"),
        ({"suite": {"folder": "absent"}}, "no suite at"),
        (
            {"suite": {"pretrain": {"model": {"hidden_size": 33, "num_attention_heads": 2}}}},
            "pretrain.model: gpt_neox cannot be built: .*hidden.size",
        ),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    tmp_path: Path, text_file: Path, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_study(text_file, **changes)))
    done = run("run", tmp_path / "study.yaml", "--out", tmp_path / "out")
    assert_one_line_and_nothing_written(done, message, tmp_path / "out")


def test_bad_suites_and_corpora_are_one_clear_line_and_exit_2(tmp_path: Path, text_file: Path, small_run: Run) -> None:
    folder = str(small_run.suite_folder)
    files = str(text_file)
    (tmp_path / "empty.txt").write_text(" \n")
    other = Path(small_run.suite_folder).parent / "corpus" / "tokenizer"
    mended = json.loads((other / "tokenizer.json").read_text())
    mended["model"]["merges"] = mended["model"]["merges"][:-10]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(mended))
    cases = {
        "no snapshot at step 30: nearest are 25 and 60": {"suite": {"folder": folder, "steps": [0, 30]}},
        "the corpus is empty": {
            "suite": {"folder": folder},
            "corpus": {"files": str(tmp_path / "empty.txt"), "sequence_length": 64},
        },
        "is not the suite's": {
            "suite": {"folder": folder},
            "corpus": {"files": files, "tokenizer": str(tmp_path / "tokenizer"), "sequence_length": 64},
        },
    }
    for message, changes in cases.items():
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_study(text_file, **changes)))
        done = run("run", tmp_path / "study.yaml", "--out", tmp_path / "out")
        assert done.returncode == 2, done.stderr
        assert_one_line_and_nothing_written(done, message, tmp_path / "out")


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "out" / "corpus").mkdir(parents=True)
    (tmp_path / "out" / "corpus" / "mine.txt").write_text("kept")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_study(text_file)))
    done = run("run", tmp_path / "study.yaml", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "is not empty and not a run" in done.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["corpus", "mine.txt"]


def test_a_snapshot_added_to_a_folder_suite_is_studied(small_run: Run, text_file: Path, tmp_path: Path) -> None:
    import shutil

    for step in (0, 25):
        shutil.copytree(small_run.suite_folder / f"step{step}", tmp_path / "suite" / f"step{step}")
    changes = {"suite": {"folder": str(tmp_path / "suite")}, "corpus": {"files": str(text_file), "sequence_length": 64}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(quick_study(text_file, **changes)))
    assert run("measure", tmp_path / "study.yaml", "--out", tmp_path / "out").returncode == 0
    shutil.copytree(small_run.suite_folder / "step60", tmp_path / "suite" / "step60")
    assert run("measure", tmp_path / "study.yaml", "--out", tmp_path / "out").returncode == 0
    assert Run(tmp_path / "out").steps == [0, 25, 60]
    assert Run(tmp_path / "out").trajectories["step"].unique().sort().to_list() == [0, 25, 60]


NOT_ASKED = ("schedule", "attribute", "truth")


def test_models_that_are_there_are_not_built_to_be_checked(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("ontogeny.models.pretrain.model_config", refused)
    check_study(small_run.study, {"train"}, out=small_run.folder)
    longer = small_run.study.model_copy(
        update={"corpus": small_run.study.corpus.model_copy(update={"sequence_length": 32})}
    )
    with pytest.raises(AssertionError, match="built"):
        check_study(longer, {"train"}, out=small_run.folder)


def test_a_finished_run_says_so_and_is_not_done_again(small_run: Run) -> None:
    before = (small_run.folder / "features.parquet").stat().st_mtime_ns
    done = run("run", small_run.folder)
    assert done.returncode == 0, done.stderr
    said = [line.split(": ") for line in done.stderr.splitlines()]
    assert said == [[stage, "done already"] for stage in STAGES if stage not in NOT_ASKED]
    assert done.stdout.strip() == f"wrote {small_run.report_path}; next: ontogeny serve {small_run.folder}"
    assert (small_run.folder / "features.parquet").stat().st_mtime_ns == before


def test_changing_a_setting_redoes_only_what_depends_on_it(small_run: Run, tmp_path: Path) -> None:
    import shutil

    copied = tmp_path / "run"
    shutil.copytree(small_run.folder, copied)
    study = yaml.safe_load((copied / "study.yaml").read_text())
    study["analysis"]["bootstrap"] = 100
    (copied / "study.yaml").write_text(yaml.safe_dump(study))
    done = run("run", copied)
    assert done.returncode == 0, done.stderr
    again = [line.split(":")[0] for line in done.stderr.splitlines() if "done already" not in line and ":" in line]
    assert again == ["analyse", "report"]


def test_stage_commands_print_json_or_tables(small_run: Run) -> None:
    done = run("measure", small_run.folder, "--json")
    analyses = {f"analyse {name}" for name in ("emergence", "single_saes", "turning_point", "phases")}
    assert set(json.loads(done.stdout)["stages"]) == {*STAGES, *analyses}
    shown = run("suites", "show", small_run.suite_folder)
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["step", "0", "10", "25", "60"]
    rows = json.loads(run("suites", "show", small_run.suite_folder, "--json").stdout)
    assert rows[1] == {"step": 10, "revision": "step10", "commit": None, "tokens_seen": rows[1]["tokens_seen"]}
    assert 9_000 < rows[1]["tokens_seen"] <= 10 * 16 * 64
    assert "explained_variance" in run("measure", small_run.folder).stdout


@pytest.mark.parametrize(
    "command",
    ["demo", "run", "pack", "pretrain", "train", "measure", "analyse", "report", "suites show", "plan", "truth"],
)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert f"Example: ontogeny {command.split()[0]}" in done.stdout


def test_ctrl_c_keeps_what_is_finished_and_exits_130(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_study(text_file)))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ontogeny", "run", str(tmp_path / "study.yaml"), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("pack:"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "what is finished is kept" in rest.splitlines()[-1]
    assert "pack" in Run(out).manifest["stages"]
    assert "report" not in Run(out).manifest["stages"]


def test_ctrl_c_in_training_keeps_the_step_that_it_came_to(tmp_path: Path, text_file: Path) -> None:
    study = small_study(text_file)
    study["train"] = {**study["train"], "tokens": 600_000}  # type: ignore[dict-item]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ontogeny", "run", str(tmp_path / "study.yaml"), "--out", str(out)]
    for asked in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen([*command, "--until", "train"], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.strip().startswith("train "):
                    break
            process.send_signal(asked)
            rest = process.stderr.read()
        assert process.returncode == 130, rest
        assert (out / "checkpoints" / "train.pt").is_file()
    resumed = [event for event in read_events(out / "events.jsonl") if event["event"] == "resumed"]
    assert [event["stage"] for event in resumed] == ["train"]
    assert resumed[0]["step"] > 0


def test_two_processes_do_not_work_on_one_run(small_run: Run, tmp_path: Path) -> None:
    import fcntl

    with (small_run.folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run("run", small_run.folder)
    assert done.returncode == 2
    assert "another process is working on" in done.stderr


def test_importing_and_reading_a_run_load_no_torch(small_run: Run) -> None:
    script = (
        "import sys, ontogeny as og\n"
        f"run = og.open_run({str(small_run.folder)!r})\n"
        "assert len(run.features) == 96 and len(run.trajectories) and len(run.examples)\n"
        "assert run.analysis('phases').height\n"
        "import ontogeny.analyses, ontogeny.report.page, ontogeny.report.figures, ontogeny.suites.suite, ontogeny.cli\n"
        "import ontogeny.causal.relie, ontogeny.study\n"
        "assert og.compare_runs(run, run).by == 'cosine'\n"
        "bad = {'torch', 'transformers'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_these() -> None:
    assert sorted(ontogeny.__all__) == sorted(dir(ontogeny)) == [
        "Crosscoder", "CrosscoderConfig", "InputError", "OntogenyError", "SAESeries", "SAESeriesConfig",
        "SnapshotCallback", "StudyConfig", "TaskConfig", "audit_suite", "compare_runs", "crosscoder_losses",
        "indirect_effects", "load_dictionary", "open_corpus", "open_run", "open_suite", "open_task", "plant", "reldec",
        "relie", "run_study", "save_snapshot", "score_recovery", "stream_activations", "train_crosscoder",
        "train_sae_series",
    ]  # fmt: skip
    for name in ontogeny.__all__:
        assert getattr(ontogeny, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ontogeny.nothing


def test_a_run_of_another_study_is_not_written_over(small_run: Run, tmp_path: Path) -> None:
    study = dict(yaml.safe_load((small_run.folder / "study.yaml").read_text()), name="another")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = run("run", tmp_path / "study.yaml", "--out", small_run.folder)
    assert done.returncode == 2
    assert "is a run of 'small', the study is called 'another': give --out a new folder" in done.stderr


def test_what_has_changed_since_is_told_and_old_tables_are_not_compared(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study["dictionary"]["k"] = 5
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    assert changes_of(Run(folder), load_study(tmp_path / "study.yaml")) == ["settings changed: dictionary.k 8 → 5"]
    Run(folder).mark_outdated(["train", "measure"])
    done = run("compare", folder, small_run.folder)
    assert done.returncode == 2
    assert "train, measure are of earlier settings: ontogeny run" in done.stderr
    with pytest.warns(UserWarning, match="train, measure are of earlier settings"):
        open_run(folder)


def test_what_follows_a_stage_that_was_lost_is_made_again(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    shutil.rmtree(folder / "dictionary")
    said: list[str] = []
    run_study(small_run.study, out=folder, say=said.append)
    again = [line.split(":")[0] for line in said if "done already" not in line]
    assert again == ["train", "measure", "analyse", "report"]


@pytest.mark.parametrize("command", ["run", "report", "compare"])
def test_a_damaged_manifest_is_named(small_run: Run, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:1000])
    done = run(command, folder, *([small_run.folder] if command == "compare" else []))
    assert done.returncode == 2
    assert f"{manifest} is damaged" in done.stderr


def test_the_report_of_a_run_that_is_done_asks_for_no_text(text_file: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.jsonl", tmp_path / "run"
    shutil.copy(text_file, text)
    study = load_study_of(tmp_path, quick_study(text, analyses=["emergence"]))
    run_study(study, out=out, say=lambda line: None)
    text.unlink()
    Run(out).report_path.unlink()
    done = run("report", out, "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert f"wrote {out / 'report.html'}" in done.stdout
    assert list((tmp_path / "figures").glob("*.svg"))
    assert Run(out).stage_done("report", Run(out).manifest["stages"]["report"]["key"])
    # what was changed is to be computed, and that asks for it
    settings = Run(out).study_path
    settings.write_text(settings.read_text().replace("bootstrap: 200", "bootstrap: 100"))
    done = run("report", out)
    assert done.returncode == 2
    assert "no file matches" in done.stderr


def load_study_of(folder: Path, study: dict[str, object]) -> StudyConfig:
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return load_study(folder / "study.yaml")


def test_an_out_that_is_a_file_is_named(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    for out in ("afile", "afile/run"):
        done = run("run", small_run.folder / "study.yaml", "--out", tmp_path / out)
        assert done.returncode == 2
        assert f"{tmp_path / 'afile'} is a file: give another --out" in done.stderr


@pytest.mark.parametrize("stage", list(STAGES))
def test_every_stage_says_where_its_run_is_and_what_is_next(
    small_run: Run, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _tell(small_run, stage, as_json=False)
    said = capsys.readouterr().out
    assert str(small_run.folder) in said
    assert "; next: ontogeny " in said


def test_the_version_is_said() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("ontogeny ")


def test_options_of_following_need_a_folder(series_file: Path) -> None:
    done = run("track", series_file, "--until", "10")
    assert done.returncode == 2
    assert "--until and --idle are for --follow FOLDER" in done.stderr


@pytest.fixture
def series_file(tmp_path: Path, text_file: Path) -> Path:
    path = tmp_path / "series.yaml"
    path.write_text(
        yaml.safe_dump(small_study(text_file, dictionary={"kind": "sae_series", "n_features": 32, "k": 4}, analysis={}))
    )
    return path
