"""Damaged snapshots, hardly any text and a full disk: the command line says one clear line and leaves things whole."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import ontogeny.dictionaries.files
import ontogeny.loop
from conftest import Command, small_study
from ontogeny.errors import DictionaryError, RunError
from ontogeny.run import Run
from ontogeny.suites.audit import audit_suite
from ontogeny.suites.suite import open_suite
from test_resume import results


def write_study(folder: Path, text_file: Path, **changes: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(small_study(text_file, **changes)), encoding="utf-8")
    return path


def set_config(snapshot: Path, **values: object) -> None:
    path = snapshot / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(snapshot: Path, name: str, change: Callable[[torch.Tensor], Any]) -> None:
    weights = load_file(snapshot / "model.safetensors")
    change(weights[name])
    save_file(weights, snapshot / "model.safetensors", metadata={"format": "pt"})


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


LAST = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
FIRST = "gpt_neox.layers.0.mlp.dense_4h_to_h.weight"
ADVICE = r": fetch or save it again, or leave step 25 out of suite\.steps"
DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a nan that the hookpoint never sees": (
        lambda snapshot: change_weights(snapshot, LAST, lambda weights: weights[3, 5].fill_(torch.nan)),
        "float32",
        rf"step25: {re.escape(LAST)} is not finite as float32{ADVICE}",
    ),
    "an infinity": (
        lambda snapshot: change_weights(snapshot, FIRST, lambda weights: weights[0, 0].fill_(-torch.inf)),
        "float32",
        rf"step25: {re.escape(FIRST)} is not finite as float32{ADVICE}",
    ),
    "a weight beyond float16": (
        lambda snapshot: change_weights(snapshot, FIRST, lambda weights: weights[0, 0].fill_(1e6)),
        "float16",
        rf"step25: {re.escape(FIRST)} is not finite as float16: set suite\.dtype to float32, fetch or save it again",
    ),
    "activations beyond float16": (
        lambda snapshot: change_weights(snapshot, FIRST, lambda weights: weights.fill_(6e4)),
        "float16",
        r"activations of step 25 at resid_post\.0 are not finite as float16: set suite\.dtype to float32",
    ),
    "weights cut short": (
        lambda snapshot: truncate(snapshot / "model.safetensors"),
        "float32",
        r"step25/model\.safetensors cannot be loaded: .* not fully covered: fetch or save it again",
    ),
    "weights of other shapes": (
        lambda snapshot: set_config(snapshot, intermediate_size=32),
        "float32",
        r"step25 lacks weights of the shapes .*\(gpt_neox\.layers\.0\.mlp\..*\): fetch or save it again",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_one_line_that_names_it(
    damage: str, small_run: Run, text_file: Path, tmp_path: Path, command: Command
) -> None:
    break_it, dtype, message = DAMAGES[damage]
    shutil.copytree(small_run.suite_folder, tmp_path / "suite")
    break_it(tmp_path / "suite" / "step25")
    study = write_study(
        tmp_path,
        text_file,
        suite={"folder": str(tmp_path / "suite"), "dtype": dtype, "bad_snapshots": "accept"},
        corpus={"files": str(text_file), "sequence_length": 64},
    )
    code, lines = command("run", study, "--out", tmp_path / "out")
    assert (code, len(lines)) == (2, 1), lines
    assert re.search(message, lines[0]), lines[0]
    assert "train" not in Run(tmp_path / "out").manifest["stages"]


def test_snapshots_of_differing_width_are_one_line_before_any_work(
    small_run: Run, text_file: Path, tmp_path: Path, command: Command
) -> None:
    shutil.copytree(small_run.suite_folder, tmp_path / "suite")
    set_config(tmp_path / "suite" / "step25", hidden_size=48)
    study = write_study(
        tmp_path,
        text_file,
        suite={"folder": str(tmp_path / "suite")},
        corpus={"files": str(text_file), "sequence_length": 64},
    )
    code, lines = command("run", study, "--out", tmp_path / "out")
    found = r"\(32 at step 0, 48 at step 25\): take those of one model"
    assert code == 2
    assert re.fullmatch(f"ontogeny: suite suite: snapshots differ in width {found}", *lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({}, r"the corpus is one document, so none can be held out: give corpus\.held_out or more files"),
        ({"held_out": "more.txt"}, "too little text for train: 0 tokens in contexts of 16 or more, 2 in shorter ones"),
        ({"held_out": "more.txt", "min_tokens": 1}, "too little text for train: 2 tokens in contexts of 1 or more"),
        ({"files": "text", "held_out": "more.txt"}, "too little text for held_out: 0 tokens in contexts of 16 or more"),
    ],
)
def test_a_corpus_of_one_token_is_one_line_and_leaves_no_run(
    corpus: dict[str, object], message: str, text_file: Path, tmp_path: Path, command: Command, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("word.txt", "more.txt"):
        Path(name).write_text("word")
    files = {"files": str(text_file) if "files" in corpus else "word.txt"}
    study = write_study(tmp_path, text_file, corpus={"sequence_length": 64, **corpus, **files})
    code, lines = command("run", study, "--out", "out")
    assert code == 2
    assert re.search(f"^ontogeny: {message}", *lines)
    assert not Path("out").exists()


def disk_full_at(call: int, write: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """A writer that in one of its calls finds the disk full when it has begun."""
    calls = 0

    def written(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = write(*args, **kwargs)
        if calls == call:
            raise error
        return result

    return written


WORDS = "No space left on device (os error 28)"
FULL_DISKS: dict[str, tuple[object, str, int, Exception, str]] = {
    "pretrain": (torch, "save", 5, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "checkpoints/pretrain.pt"),
    "train": (ontogeny.dictionaries.files, "save_file", 1, SafetensorError(f"I/O error: {WORDS}"), "dictionary"),
    "measure": (pl.DataFrame, "write_parquet", 2, pl.exceptions.ComputeError(WORDS), "trajectories.parquet"),
}
"""For a stage: what writes in it, in which call and how it says that the disk is full, and what it was writing."""


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_then_goes_on_to_the_same_bits(
    small_run: Run, text_file: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ontogeny.loop, "CHECKPOINT_SECONDS", 0.0)
    arguments = ("run", write_study(tmp_path, text_file), "--out", tmp_path / "out")
    run = Run(tmp_path / "out")
    for stage, (owner, name, call, error, file) in FULL_DISKS.items():
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, disk_full_at(call, getattr(owner, name), error))
            code, lines = command(*arguments)
        assert code == 1
        advice = "make room; the same command then goes on from there"
        assert lines == [f"ontogeny: no space left on the disk to write {run.folder / file}: {advice}"]
        assert stage not in run.manifest["stages"]
        assert not list(run.folder.rglob("*.partial"))
    assert command(*arguments) == (0, [])
    assert results(run) == results(small_run)


def test_an_audit_sees_weights_that_are_cut_short_and_other_tensors(small_run: Run, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    shutil.copytree(small_run.suite_folder, suite)
    truncate(suite / "step10" / "model.safetensors")
    weights = load_file(suite / "step25" / "model.safetensors")
    weights[LAST] = weights[LAST][:-1].clone()
    save_file(weights, suite / "step25" / "model.safetensors", metadata={"format": "pt"})
    problems = dict(audit_suite(open_suite(suite)).select("step", "problems").iter_rows())
    assert problems[10] == ["has damaged or cut short model.safetensors"]
    assert len(problems[25]) == 1
    assert problems[25][0].startswith(f"has another set of tensors than most ({LAST} [31, 64] for [32, 64])")
    assert problems[0] == problems[60] == []


def test_a_damaged_table_and_dictionary_say_what_to_remove(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    for name in ("features.parquet", "dictionary/weights.safetensors"):
        size = (folder / name).stat().st_size
        (folder / name).write_bytes(b"\0" * size)
    run = Run(folder)
    with pytest.raises(RunError, match=r"features.parquet cannot be read .*: remove it, then ontogeny run"):
        _ = run.features
    with pytest.raises(DictionaryError, match=r"or remove .*dictionary, and ontogeny run"):
        run.dictionary()
