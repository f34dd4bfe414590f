"""Suites on the hub: the real client, in processes of its own, against a local server that speaks its protocol."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from conftest import quick_study
from hub_server import Hub, commit_of
from ontogeny.models.pretrain import build_model
from ontogeny.run import Run

HERE = Path(__file__).parent
REPO = "lab/tiny"
STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]


def one_model(folder: Path, seed: int, *, tokenizer: Path, width: int = 32) -> None:
    settings = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    build_model(settings, vocab_size=512, sequence_length=64, seed=seed).save_pretrained(folder)
    for file in tokenizer.glob("*.json"):
        shutil.copy(file, folder)


@pytest.fixture(scope="module")
def models(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve snapshots, each a little further on the way from one random model to another."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), small_run.corpus_folder / "tokenizer"
    from safetensors.torch import load_file, save_file

    for name, seed in (("first", 0), ("last", 1)):
        one_model(folder / name, seed, tokenizer=tokenizer)
    ends = [load_file(folder / name / "model.safetensors") for name in ("first", "last")]
    for place, step in enumerate(STEPS):
        shutil.copytree(folder / "first", folder / f"step{step}")
        share = place / (len(STEPS) - 1)
        weights = {name: (1 - share) * ends[0][name] + share * ends[1][name] for name in ends[0]}
        save_file(weights, folder / f"step{step}" / "model.safetensors", metadata={"format": "pt"})
    return folder


Serve = Callable[..., Hub]


def publish(models: Path, folder: Path, *, steps: list[int] = STEPS, tags: bool = False) -> Path:
    """A repository with a branch, or a tag, for each snapshot."""
    repo = folder / "hub" / REPO
    for step in steps:
        shutil.copytree(models / f"step{step}", repo / f"at{step}")
    shutil.copytree(models / f"step{steps[-1]}", repo / "end")
    names = {f"step{step}": f"at{step}" for step in steps}
    refs = {"branches": {"main": "end", "dev": "end"} | ({} if tags else names), "tags": names if tags else {}}
    (repo / "refs.json").write_text(json.dumps(refs))
    return repo


@pytest.mark.parametrize("tags", [False, True])
def test_snapshots_are_listed_from_branches_and_tags_without_a_download(
    models: Path, tmp_path: Path, serve: Serve, tags: bool
) -> None:
    publish(models, tmp_path, steps=STEPS[:4], tags=tags)
    hub = serve()
    done = hub.run("suites", "show", REPO, "--json")
    rows = json.loads(done.stdout)
    assert [row["step"] for row in rows] == STEPS[:4]
    assert all(len(row["commit"]) == 40 for row in rows)
    assert not hub.asked("resolve")
    missing = hub.run("suites", "show", "lab/nothing")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "the hub has no lab/nothing" in missing.stderr


def test_the_audit_finds_what_is_wrong_and_calls_a_clean_suite_clean(
    models: Path, small_run: Run, tmp_path: Path, serve: Serve
) -> None:
    repo = publish(models, tmp_path)
    hub = serve()
    clean = hub.run("suites", "audit", REPO)
    assert clean.returncode == 0, clean.stderr + clean.stdout
    assert "12 of 12 snapshots are what their names say" in clean.stdout
    assert not [line for line in hub.asked("resolve") if "safetensors" in line]
    # two equal branches; the final weights at an early step; a wrong tokenizer; a wrong width; a missing shard
    shutil.copy(repo / "at4" / "model.safetensors", repo / "at8" / "model.safetensors")
    shutil.copy(repo / "end" / "model.safetensors", repo / "at16" / "model.safetensors")
    other = json.loads((repo / "at32" / "tokenizer.json").read_text())
    other["model"]["merges"] = other["model"]["merges"][:-3]
    (repo / "at32" / "tokenizer.json").write_text(json.dumps(other))
    shutil.rmtree(repo / "at64")
    one_model(repo / "at64", 5, tokenizer=small_run.corpus_folder / "tokenizer", width=48)
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (repo / "at128" / "model.safetensors").rename(repo / "at128" / "model-1-of-2.safetensors")
    (repo / "at128" / "model.safetensors.index.json").write_text(json.dumps(index))
    # a repository whose last step is not main
    (repo / "refs.json").write_text((repo / "refs.json").read_text().replace('"step1000"', '"other"'))
    found = hub.run("suites", "audit", REPO, "--json")
    assert found.returncode == 2
    problems = {row["step"]: " ".join(row["problems"]) for row in json.loads(found.stdout) if row["problems"]}
    assert problems.pop(4) == "has the same weights as step 8"
    assert problems.pop(8) == "has the same weights as step 4"
    assert problems.pop(16) == "has the final weights, those of main"
    assert problems.pop(32) == "has another tokenizer than most"
    assert problems.pop(64) == "has another configuration than most (hidden_size 48 for 32)"
    assert problems.pop(128) == "lacks model-2-of-2.safetensors"
    assert not problems


def study_of(text_file: Path, **suite: Any) -> dict[str, Any]:
    corpus = {"files": str(text_file), "sequence_length": 64}
    return quick_study(text_file, suite=suite, corpus=corpus, analyses=["emergence"])


def test_a_study_from_a_hub_that_fails_with_little_disk_and_a_kill_is_that_of_folders(
    models: Path, text_file: Path, tmp_path: Path, serve: Serve
) -> None:
    publish(models, tmp_path)
    size = (models / "step0" / "model.safetensors").stat().st_size
    hub = serve(fail=0.1)
    (tmp_path / "hub.yaml").write_text(yaml.safe_dump(study_of(text_file, repo=REPO, disk_gb=3.5 * size / 1e9)))
    command = [sys.executable, "-m", "ontogeny", "measure", str(tmp_path / "hub.yaml"), "--out", str(tmp_path / "a")]
    first = subprocess.Popen(command, env=hub.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len([line for line in hub.asked("GET") if "model.safetensors" in line]) < 5:
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (repo,) = (hub.home / "hub").glob("models--*")
    one = max((repo / "blobs").iterdir(), key=lambda blob: blob.stat().st_size).name.split(".")[0]
    left = repo / "blobs" / f"{one}.0123abcd.incomplete"
    left.write_bytes(bytes(size))  # as the kill of a download leaves it
    leftovers = set((repo / "blobs").glob("*.incomplete"))  # that kill may have left one, too
    held = []
    second = subprocess.Popen(command, env=hub.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while second.poll() is None:
        blobs = (hub.home / "hub").glob("models--*/blobs/*")
        sizes = {}
        for blob in blobs:
            if blob in leftovers:
                continue
            try:
                sizes[blob] = blob.stat().st_size
            except FileNotFoundError:
                continue
        # what is there after all were looked at was there at one time
        held.append(sum(one for blob, one in sizes.items() if one > size // 2 and blob.exists()))
        time.sleep(0.02)
    assert second.returncode == 0
    assert hub.asked("fail")
    assert max(held) <= 3.5 * size
    assert left in leftovers
    assert not any(blob.exists() for blob in leftovers)
    snapshots = json.loads((tmp_path / "a" / "manifest.json").read_text())["snapshots"]
    assert [one["step"] for one in snapshots] == STEPS
    assert all(one["repo"] == REPO and len(one["commit"]) == 40 for one in snapshots)
    local = tmp_path / "local"
    for step in STEPS:
        shutil.copytree(models / f"step{step}", local / f"step{step}")
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(study_of(text_file, folder=str(local))))
    done = hub.run("measure", tmp_path / "local.yaml", "--out", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    for name in ("features", "trajectories", "quality", "examples"):
        a, b = (pl.read_parquet(tmp_path / run / f"{name}.parquet") for run in ("a", "b"))
        assert a.equals(b), name


def test_a_run_stays_with_its_commits_when_a_branch_moves_and_goes_on_offline(
    models: Path, text_file: Path, tmp_path: Path, serve: Serve
) -> None:
    repo = publish(models, tmp_path, steps=STEPS[:3])
    size = (models / "step0" / "model.safetensors").stat().st_size
    hub = serve()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study_of(text_file, repo=REPO)))
    for command, to_fetch in (("pack", 3 * size), ("train", 3 * size), ("train", 0)):
        planned = json.loads(hub.run("plan", tmp_path / "study.yaml", "--out", tmp_path / "run", "--json").stdout)
        found = {row["item"]: row["amount"] for row in planned}["weights to fetch"]
        assert found == pytest.approx(to_fetch / 1e9), command
        assert hub.run(command, tmp_path / "study.yaml", "--out", tmp_path / "run").returncode == 0
    assert hub.run("train", tmp_path / "study.yaml", "--out", tmp_path / "run").returncode == 0
    before = json.loads((tmp_path / "run" / "manifest.json").read_text())["snapshots"]
    shutil.copytree(models / "step512", repo / "moved")
    refs = json.loads((repo / "refs.json").read_text())
    refs["branches"]["step1"] = "moved"
    (repo / "refs.json").write_text(json.dumps(refs))
    again = hub.run("train", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert "train: done already" in again.stderr
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["snapshots"] == before
    listed = {row["step"]: row["commit"] for row in json.loads(hub.run("suites", "show", REPO, "--json").stdout)}
    assert listed[1] != before[1]["commit"]
    hub.stop()
    offline = hub.run("measure", tmp_path / "study.yaml", "--out", tmp_path / "run", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    other = hub.run("suites", "show", "lab/other", HF_HUB_OFFLINE="1")
    assert other.returncode == 2
    assert "was never listed here and HF_HUB_OFFLINE is set" in other.stderr


def test_a_study_refuses_a_bad_snapshot_unless_told_otherwise(
    models: Path, text_file: Path, tmp_path: Path, serve: Serve
) -> None:
    repo = publish(models, tmp_path, steps=STEPS[:4])
    shutil.copy(repo / "at1" / "model.safetensors", repo / "at2" / "model.safetensors")
    hub = serve()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study_of(text_file, repo=REPO)))
    refused = hub.run("pack", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "step 1 has the same weights as step 2; step 2 has the same weights as step 1" in refused.stderr
    assert not (tmp_path / "run").exists()
    accepted = study_of(text_file, repo=REPO, bad_snapshots="accept")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(accepted))
    assert hub.run("pack", tmp_path / "study.yaml", "--out", tmp_path / "run").returncode == 0


def test_the_next_snapshot_comes_while_this_one_is_read(models: Path, tmp_path: Path, serve: Serve) -> None:
    publish(models, tmp_path, steps=STEPS[:3])
    hub = serve()
    script = f"""
import time
from ontogeny.suites.suite import open_suite
suite = open_suite({REPO!r})
first, second, third = suite.snapshots
with first.source.opened(first) as folder:
    assert (folder / "model.safetensors").is_file()
    for _ in range(500):
        files = [one for one in open({str(hub.log)!r}) if one.startswith("GET") and second.commit in one]
        if any("model.safetensors" in one for one in files):
            break
        time.sleep(0.01)
    else:
        raise SystemExit("the second never came")
    time.sleep(0.3)
    assert not [one for one in open({str(hub.log)!r}) if "model.safetensors" in one and third.commit in one]
"""
    done = subprocess.run([sys.executable, "-c", script], env=hub.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_repositories_of_one_snapshot_each(models: Path, text_file: Path, tmp_path: Path, serve: Serve) -> None:
    for step in STEPS[:3]:
        repo = tmp_path / "hub" / "lab" / f"tiny-step_{step}k"
        shutil.copytree(models / f"step{step}", repo / "end")
        (repo / "refs.json").write_text(json.dumps({"branches": {"main": "end"}}))
    hub = serve()
    repos = [f"lab/tiny-step_{step}k" for step in STEPS[:3]]
    study = study_of(text_file, repo=repos, revisions=r".*-step_(?P<thousands>\d+)k")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = hub.run("train", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    snapshots = json.loads((tmp_path / "run" / "manifest.json").read_text())["snapshots"]
    assert [(one["repo"], one["step"]) for one in snapshots] == [(repo, 1000 * n) for n, repo in enumerate(repos)]
    assert hub.run("train", tmp_path / "study.yaml", "--out", tmp_path / "run").stderr.count("done already") == 2


def test_disk_that_holds_no_snapshot_is_one_line(models: Path, text_file: Path, tmp_path: Path, serve: Serve) -> None:
    publish(models, tmp_path, steps=STEPS[:3])
    hub = serve()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study_of(text_file, repo=REPO, disk_gb=1e-5)))
    done = hub.run("train", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "suite.disk_gb is 1e-05, but lab/tiny at step0 takes" in done.stderr.splitlines()[-1]


def test_final_weights_are_known_where_the_last_step_is_not_asked_for(
    models: Path, tmp_path: Path, serve: Serve
) -> None:
    repo = publish(models, tmp_path)
    shutil.copy(repo / "end" / "model.safetensors", repo / "at512" / "model.safetensors")
    found = serve().run("suites", "audit", REPO, "--json", "--steps", "every=11")
    rows = {row["step"]: row["problems"] for row in json.loads(found.stdout)}
    assert rows == {0: [], 1000: []}
    refs = json.loads((repo / "refs.json").read_text())
    del refs["branches"]["step256"]
    (repo / "refs.json").write_text(json.dumps(refs))
    found = serve().run("suites", "audit", REPO, "--json", "--steps", "n=11")
    rows = {row["step"]: row["problems"] for row in json.loads(found.stdout)}
    assert "has the same weights as step 1000" in rows[512][0]


def test_offline_nothing_is_dropped_for_what_cannot_come(models: Path, tmp_path: Path, serve: Serve) -> None:
    publish(models, tmp_path, steps=STEPS[:2])
    hub = serve()
    size = (models / "step0" / "model.safetensors").stat().st_size
    script = f"""
import sys
from ontogeny.errors import SuiteError
from ontogeny.suites.suite import open_suite
first, second = open_suite({REPO!r}, disk_gb={1.5 * size / 1e9}).snapshots
if sys.argv[1] == "online":
    second.source._next.clear()
    second.source.config(second), second.source.weights(second.repo, second.commit)
    with first.source.opened(first):
        pass
else:
    try:
        with second.source.opened(second):
            raise SystemExit("it cannot be here")
    except SuiteError as error:
        assert "is not in the cache and HF_HUB_OFFLINE is set" in str(error), error
    with first.source.opened(first) as folder:
        assert (folder / "model.safetensors").is_file()
"""
    for where, more in (("online", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
        command = [sys.executable, "-c", script, where]
        done = subprocess.run(command, env=hub.environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_what_one_process_reads_another_does_not_drop(models: Path, tmp_path: Path, serve: Serve) -> None:
    publish(models, tmp_path, steps=STEPS[:3])
    hub = serve()
    size = (models / "step0" / "model.safetensors").stat().st_size
    script = f"""
import sys
from ontogeny.errors import SuiteError
from ontogeny.suites.suite import open_suite
first, second, third = open_suite({REPO!r}, disk_gb={1.5 * size / 1e9}).snapshots
first.source._next.clear()
if sys.argv[1] == "reads":
    with first.source.opened(first) as folder:
        print("open", flush=True)
        sys.stdin.readline()
        assert (folder / "model.safetensors").is_file()
else:
    try:
        with third.source.opened(third) as folder:
            assert (folder / "model.safetensors").is_file()
            print("fits")
    except SuiteError as error:
        print(error)
"""
    command = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "reads"], env=hub.environment, **pipes) as reader:
        assert reader.stdout is not None
        assert reader.stdin is not None
        assert reader.stdout.readline() == "open\n"
        other = subprocess.run([*command, "other"], env=hub.environment, capture_output=True, text=True)
        assert "suite.disk_gb is" in other.stdout, other.stderr
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.wait() == 0
    other = subprocess.run([*command, "other"], env=hub.environment, capture_output=True, text=True)
    assert other.stdout == "fits\n", other.stderr


def test_a_suite_without_a_tokenizer_takes_a_saved_one(
    models: Path, small_run: Run, text_file: Path, tmp_path: Path, serve: Serve
) -> None:
    for step in STEPS[:2]:
        shutil.copytree(models / f"step{step}", tmp_path / "local" / f"step{step}")
        (tmp_path / "local" / f"step{step}" / "tokenizer.json").unlink()
    hub = serve()
    study = study_of(text_file, folder=str(tmp_path / "local"))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    refused = hub.run("train", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert "no snapshot has a tokenizer.json: give a saved one as corpus.tokenizer" in refused.stderr
    study["corpus"]["tokenizer"] = str(small_run.corpus_folder / "tokenizer")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = hub.run("train", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr


def test_defaults_that_one_configuration_spells_out_are_no_difference(models: Path, tmp_path: Path) -> None:
    from ontogeny import audit_suite, open_suite

    for step in STEPS[:4]:
        shutil.copytree(models / f"step{step}", tmp_path / f"step{step}")
    file = tmp_path / "step1" / "config.json"
    config = json.loads(file.read_text())
    for name in ("layer_norm_eps", "hidden_act", "use_parallel_residual"):
        config.pop(name, None)
    file.write_text(json.dumps(config))
    assert audit_suite(open_suite(tmp_path))["problems"].list.len().sum() == 0
    file.write_text(json.dumps(config | {"use_parallel_residual": False}))
    found = audit_suite(open_suite(tmp_path)).filter(pl.col("problems").list.len() > 0)
    assert found["step"].to_list() == [1]
    assert "use_parallel_residual false for true" in found["problems"][0][0]


def test_embeddings_that_arrive_too_early_are_found_on_disk(models: Path, tmp_path: Path) -> None:
    from ontogeny import audit_suite, open_suite

    for step in STEPS:
        shutil.copytree(models / f"step{step}", tmp_path / f"step{step}")
    clean = audit_suite(open_suite(tmp_path))
    assert clean["problems"].list.len().sum() == 0
    from safetensors.torch import load_file, save_file

    last, early = (tmp_path / f"step{step}" / "model.safetensors" for step in (1000, 4))
    weights = {name: weight + 1e-3 for name, weight in load_file(last).items()}
    save_file(weights, early, metadata={"format": "pt"})
    found = audit_suite(open_suite(tmp_path)).filter(pl.col("problems").list.len() > 0)
    assert found["step"].to_list() == [4]
    assert "times nearer to the last snapshot than its neighbours" in found["problems"][0][0]
    assert np.all(np.diff(clean["step"].to_numpy()) > 0)


def test_a_dataset_is_streamed_once_up_to_its_cap_and_names_its_commit(
    models: Path, text_file: Path, tmp_path: Path, serve: Serve
) -> None:
    repo = tmp_path / "hub" / "datasets" / "lab" / "texts"
    (repo / "v1").mkdir(parents=True)
    words = text_file.read_text(encoding="utf-8").split()
    texts = [" ".join(words[first : first + 200]) for first in range(0, len(words), 200)]
    rows = [json.dumps({"text": text}) for text in texts]
    (repo / "v1" / "train.jsonl").write_text("\n".join(rows) + "\n")
    (repo / "refs.json").write_text(json.dumps({"branches": {"main": "v1"}}))
    cap = sum(len(text.encode()) for text in texts) // 2
    hub = serve()
    for step in STEPS[:2]:
        shutil.copytree(models / f"step{step}", tmp_path / "local" / f"step{step}")
    corpus = {"files": "datasets:lab/texts", "sequence_length": 64, "max_bytes_per_source": cap}
    study = quick_study(text_file, suite={"folder": str(tmp_path / "local")}, corpus=corpus, analyses=["emergence"])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = hub.run("pack", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    splits = [tmp_path / "run" / "corpus" / split for split in ("train", "held_out")]
    packed = pl.concat(pl.read_parquet(split / "documents.parquet") for split in splits)
    assert packed["source"].unique().to_list() == [f"lab/texts@{commit_of(repo / 'v1')[:12]}"]
    sizes = np.cumsum([len(text.encode()) for text in texts])
    assert len(packed) == 1 + int((sizes < cap).sum())
    hub.stop()
    assert "pack: done already" in hub.run("pack", tmp_path / "study.yaml", "--out", tmp_path / "run").stderr
    offline = hub.run("pack", tmp_path / "study.yaml", "--out", tmp_path / "other", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr


@pytest.mark.parametrize(
    ("files", "cap", "message"),
    [
        ("datasets:lab/texts", None, "say how much of it with corpus.max_bytes_per_source"),
        ("datasets:texts", 1000, "a dataset is datasets:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]"),
        ("datasets:lab/none", 1000, "the dataset lab/none cannot be read: "),
        ("datasets:lab/texts", 1000, "expected rows with `text`, found words"),
        ("datasets:lab/texts#test", 1000, "the dataset lab/texts cannot be read: "),
    ],
)
def test_a_dataset_that_cannot_be_read_is_one_line(
    models: Path, tmp_path: Path, serve: Serve, files: str, cap: int | None, message: str
) -> None:
    repo = tmp_path / "hub" / "datasets" / "lab" / "texts"
    (repo / "v1").mkdir(parents=True)
    (repo / "v1" / "train.jsonl").write_text(json.dumps({"words": "none"}) + "\n")
    (repo / "refs.json").write_text(json.dumps({"branches": {"main": "v1"}}))
    shutil.copytree(models / "step0", tmp_path / "local" / "step0")
    corpus = {"files": files, "sequence_length": 64, "max_bytes_per_source": cap}
    study = quick_study(tmp_path, suite={"folder": str(tmp_path / "local")}, corpus=corpus, analyses=["emergence"])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = serve().run("pack", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1], done.stderr
    assert not list((tmp_path / "cache").rglob("*.partial"))
