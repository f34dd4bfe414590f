"""What a study takes: the plan's arithmetic against real modules, and its refusals."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from conftest import Command, small_study
from ontogeny.config.attribution import AttributionConfig, TaskConfig
from ontogeny.config.learner import CrosscoderConfig, DictionaryConfig
from ontogeny.config.study import load_study
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.machine import Room
from ontogeny.models.hookpoints import truncate
from ontogeny.models.names import parse_hookpoint
from ontogeny.plan import plan as plan_module
from ontogeny.plan.plan import Plan, plan_study
from ontogeny.plan.sizes import Model, dictionary_parameters, model_sizes
from ontogeny.run import Run
from ontogeny.study import run_study


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def study_file(folder: Path, text_file: Path, **changes: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(small_study(text_file, **changes)), encoding="utf-8")
    return path


@pytest.mark.parametrize("activation", ["relu", "topk", "batch_topk", "jumprelu"])
def test_counts_the_dictionarys_parameters(activation: str) -> None:
    sizes: dict[str, Any] = {"n_features": 24, "activation": activation, "k": 4}
    if activation in ("relu", "jumprelu"):
        sizes = {"n_features": 24, "activation": activation}
    batches = [torch.randn(32, 3, 8) for _ in range(2)]
    crosscoder = train_crosscoder(batches, CrosscoderConfig(**sizes, steps=2, norm_tokens=32))
    thresholds = crosscoder.threshold if activation == "jumprelu" else None
    held = sum(tensor.numel() for tensor in crosscoder.parameters()) + (0 if thresholds is None else thresholds.numel())
    assert dictionary_parameters(DictionaryConfig(**sizes), n_snapshots=3, d_model=8) == held


@pytest.mark.parametrize("hookpoint", ["resid_pre.1", "attn_out.1", "resid_post.2"])
def test_counts_the_models_parameters(hookpoint: str) -> None:
    config = GPTNeoXConfig(
        hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, vocab_size=50
    )
    model = AutoModelForCausalLM.from_config(config)
    planned = model_sizes(config.to_dict(), hookpoint)
    assert planned.parameters == sum(tensor.numel() for tensor in model.parameters())
    truncate(model, parse_hookpoint(hookpoint))
    kept = sum(tensor.numel() for tensor in model.get_decoder().parameters())
    assert planned.truncated_parameters == pytest.approx(kept, rel=0.01)


def test_arithmetic_by_hand(text_file: Path, tmp_path: Path) -> None:
    changes = {
        "dictionary": {"n_features": 1000, "activation": "batch_topk", "k": 8},
        "train": {"tokens": 10_000, "batch_size": 1000},
        "measure": {"tokens": 2000, "held_out_tokens": 500},
        "analyses": ["single_saes"],
        "truth": {"seeds": [1, 2], "null_tokens": 5000, "planted_tokens": 20_000},
    }
    study = load_study(study_file(tmp_path, text_file, **changes))
    plan = Plan(study, tmp_path, Model(32, 64, 1, 2, 512), n_snapshots=3, corpus=None, config={})
    encode, token = 2 * 3 * 32 * 1000, 2 * (4 * 32 * 32 + 2 * 32 * 64) + 4 * 64 * 32
    read = 3 * token * 64 / 63
    flop = plan.flop()
    assert flop["harvest"] == pytest.approx(10_000 * read)
    assert flop["train"] == 5 * 10_000 * encode
    assert flop["measure"] == pytest.approx(2500 * (read + encode) + 500 * encode)
    assert flop["analyse"] == pytest.approx(10_000 * (read + 5 * encode))
    assert flop["truth"] == pytest.approx((2 + 1 + 2) * 10_000 * (read + 5 * encode))
    assert flop["attribute"] == 0
    asked = AttributionConfig(tasks=[TaskConfig(family="induction", items=50)], method="ig", steps=4, seeds=[1])
    tried = replace(plan, study=study.model_copy(update={"attribution": asked}))
    block = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 4 * 16 * 32
    once = block + 3 * 4 * (block + 2 * 32 * 512)
    assert tried.flop()["attribute"] == 50 * 16 * once * (3 + 3)


def test_a_series_reads_one_snapshot_at_a_time(text_file: Path, tmp_path: Path) -> None:
    changes = {
        "dictionary": {"kind": "sae_series", "n_features": 1000, "activation": "jumprelu", "gate": "shared"},
        "train": {"tokens": 10_000, "batch_size": 1000},
        "series": {"next_tokens": [2000, 1000]},
        "measure": {"tokens": 2000, "held_out_tokens": 500},
        "analyses": ["single_saes", "tracking"],
        "analysis": {"single_sae_steps": [0, 5], "track_controls": ["reverse", "null"]},
    }
    study = load_study(study_file(tmp_path, text_file, **changes))
    plan = Plan(study, tmp_path, Model(32, 64, 1, 2, 512), n_snapshots=4, corpus=None, config={})
    assert study.sae_series.steps == [10, 2, 1]
    encode, token = 2 * 32 * 1000, 2 * (4 * 32 * 32 + 2 * 32 * 64) + 4 * 64 * 32
    read = token * 64 / 63
    flop = plan.flop()
    assert flop["train"] == 5 * 14_000 * encode
    assert flop["harvest"] == pytest.approx(14_000 * read)
    assert flop["analyse"] == pytest.approx((2 * 10_000 + 2 * 14_000) * (read + 5 * encode))
    assert plan.tokens_passed == 10_000 + 2000 + 1000 + 1000
    assert plan.parameters == 4 * (2 * 32 * 1000 + 2 * 1000 + 32)
    parts = plan.parts("train")
    assert parts["gradients"].bytes == plan.parameters
    assert parts["finished SAEs"].bytes == 8 * plan.parameters


def test_has_no_part_in_batch_snapshot_and_feature(text_file: Path, tmp_path: Path) -> None:
    def peak(batch: int, snapshots: int, features: int) -> float:
        train = {"tokens": 1_000_000, "batch_size": batch, "window_tokens": 4096}
        dictionary = {"n_features": features, "activation": "batch_topk", "k": 8}
        study = load_study(study_file(tmp_path, text_file, dictionary=dictionary, train=train))
        return Plan(study, tmp_path, Model(32, 64, 1, 2, 512), n_snapshots=snapshots, corpus=None, config={}).peak(
            "train"
        )

    corners = [
        (1 if (batch, snapshots, features).count(0) % 2 == 0 else -1, batch, snapshots, features)
        for batch in (0, 1)
        for snapshots in (0, 1)
        for features in (0, 1)
    ]
    mixed = sum(sign * peak(1024 * (1 + b), 4 * (1 + s), 1000 * (1 + f)) for sign, b, s, f in corners)
    assert mixed == 0


def test_counts_the_larger_dictionaries_that_are_held_against_others(text_file: Path, tmp_path: Path) -> None:
    def plan(**changes: object) -> Plan:
        return plan_study(load_study(study_file(tmp_path, text_file, **changes)), tmp_path / "run")

    plain = plan(analyses=["emergence"])
    analysis = {"pareto_features": [64, 9600], "pareto_k": [4, 8], "single_sae_steps": [0, 60]}
    asked = plan(analyses=["pareto"], analysis=analysis)
    weights = 4 * plain.parameters
    assert asked.disk()["dictionaries"] == pytest.approx(weights * (1 + 2 * (1 + 2 / 4) * (64 + 9600) / 96))
    assert asked.parts("analyse")["weights"].bytes == pytest.approx(weights * 100, rel=0.01)
    assert asked.peak("analyse") > asked.peak("train")
    assert "analyse" not in plain.heavy_stages


def test_prints_a_table_and_what_to_run(command: Command, text_file: Path, tmp_path: Path) -> None:
    path = study_file(tmp_path, text_file)
    code, lines = command("plan", path, "--out", tmp_path / "run")
    assert (code, lines) == (0, [])
    assert not (tmp_path / "run").exists()


def test_as_json_without_torch(text_file: Path, tmp_path: Path) -> None:
    path = study_file(tmp_path, text_file)
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]; from ontogeny.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    arguments = ["plan", str(path), "--json", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    rows = {row["item"]: row for row in json.loads(done.stdout)}
    assert rows["snapshots"]["amount"] == 4
    assert rows["train: peak memory"]["amount"] > 0.1


def test_refuses_more_features_than_fit(command: Command, text_file: Path, tmp_path: Path) -> None:
    path = study_file(tmp_path, text_file, dictionary={"n_features": 10**9, "activation": "batch_topk", "k": 8})
    for verb in ("plan", "run"):
        code, lines = command(verb, path, "--out", tmp_path / "run")
        assert code == 2
        assert len(lines) == 1
        assert "1,000,000,000 features over 4 snapshots of width 32 takes about" in lines[0]
        assert "set dictionary.n_features to" in lines[0]
        assert not (tmp_path / "run").exists()
    advised = int(lines[0].rsplit("n_features to ", 1)[1].split(" ")[0].replace(",", ""))
    for features, fits in ((advised, True), (int(advised * 1.25), False)):
        changed = {"n_features": features, "activation": "batch_topk", "k": 8}
        code, _ = command("plan", study_file(tmp_path, text_file, dictionary=changed), "--out", tmp_path / "run")
        assert (code == 0) is fits


def test_advises_the_setting_that_takes_the_memory(
    monkeypatch: pytest.MonkeyPatch, text_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan_module, "available_memory", lambda: Room(2e9, "this machine"))
    train = {"tokens": 10**9, "batch_size": 1024, "window_tokens": 50_000_000}
    plan = plan_study(load_study(study_file(tmp_path, text_file, train=train)), tmp_path / "run")
    with pytest.raises(
        plan_module.ConfigError, match=r"has 2 GB available: lower train.window_tokens \(25.6 GB of it\)$"
    ):
        plan.require_room()


def test_refuses_a_full_disk(monkeypatch: pytest.MonkeyPatch, text_file: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**9, 10**9, 1000))
    with pytest.raises(plan_module.ConfigError, match=r"GB of disk, 1e-06 GB are free at .*run"):
        run_study(study_file(tmp_path, text_file), out=tmp_path / "run")


def test_finished_stages_need_no_memory(monkeypatch: pytest.MonkeyPatch, small_run: Run, tmp_path: Path) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    monkeypatch.setattr(plan_module, "available_memory", lambda: Room(1000, "this machine"))
    run_study(tmp_path / "run" / "study.yaml", out=tmp_path / "run")


def test_what_does_not_exist_is_refused_as_a_run_would(text_file: Path, tmp_path: Path, command: Command) -> None:
    for number, changes in enumerate(({"analyses": ["lineages"]}, {"corpus": {"files": str(tmp_path / "none-*.txt")}})):
        (tmp_path / str(number)).mkdir()
        code, said = command("plan", study_file(tmp_path / str(number), text_file, **changes))
        assert code == 2
        assert "no analysis 'lineages'" in said[0] or "no file matches" in said[0]
