"""Reading along with a pre-training: what counts as a whole snapshot, who saves them, and what following leaves."""

import json
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, Trainer, TrainingArguments

import ontogeny as og
from conftest import Command
from ontogeny import live
from ontogeny.config.study import StudyConfig
from ontogeny.errors import ConfigError, CorpusError, RunError, SuiteError
from ontogeny.live import follow
from ontogeny.models.snapshots import powers_of_two
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.suites import suite as suites
from ontogeny.suites.suite import complete_steps
from test_series_study import series_study


def tiny_model() -> torch.nn.Module:
    config = GPTNeoXConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
    )
    return AutoModelForCausalLM.from_config(config)


def test_a_snapshot_counts_when_all_of_it_is_there(small_run: Run, tmp_path: Path) -> None:
    assert complete_steps(tmp_path / "nothing") == []
    for step in (0, 10):
        shutil.copytree(small_run.suite_folder / f"step{step}", tmp_path / f"step{step}")
    assert complete_steps(tmp_path) == [0, 10]
    whole = (tmp_path / "step10" / "model.safetensors").read_bytes()
    for size in (0, 4, 30, len(whole) // 2, len(whole) - 1):
        (tmp_path / "step10" / "model.safetensors").write_bytes(whole[:size])
        assert complete_steps(tmp_path) == [0], size
    (tmp_path / "step10" / "model.safetensors").write_bytes(whole)
    config = (tmp_path / "step10" / "config.json").read_text()
    (tmp_path / "step10" / "config.json").write_text(config[:-5])
    assert complete_steps(tmp_path) == [0]
    (tmp_path / "step10" / "config.json").write_text(config)
    assert complete_steps(tmp_path) == [0, 10]
    (tmp_path / ".step20.1.partial").mkdir()
    (tmp_path / "step30").mkdir()
    assert complete_steps(tmp_path) == [0, 10]


def test_a_snapshot_in_shards_counts_when_all_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model().save_pretrained(tmp_path / "step5", max_shard_size="5KB")  # type: ignore[operator]
    shards = sorted((tmp_path / "step5").glob("*.safetensors"))
    assert len(shards) > 1
    assert complete_steps(tmp_path) == [5]
    shards[-1].rename(tmp_path / "elsewhere")
    assert complete_steps(tmp_path) == []
    torch.save({}, tmp_path / "step5" / "pytorch_model.bin")
    (tmp_path / "step5" / "model.safetensors.index.json").unlink()
    assert complete_steps(tmp_path) == []
    monkeypatch.setattr(suites, "SETTLED_SECONDS", -1)
    assert complete_steps(tmp_path) == [5]


def test_any_loop_saves_snapshots_on_a_schedule(tmp_path: Path) -> None:
    model = tiny_model()
    saved = [og.save_snapshot(model, tmp_path, step=step, schedule=powers_of_two) for step in range(10)]  # type: ignore[arg-type]
    assert [path and path.name for path in saved if path] == ["step0", "step1", "step2", "step4", "step8"]
    assert og.save_snapshot(model, tmp_path, step=4) is None  # type: ignore[arg-type]
    assert og.save_snapshot(model, tmp_path, step=9, schedule=[9]) == tmp_path / "step9"  # type: ignore[arg-type]
    assert og.open_suite(tmp_path).steps == [0, 1, 2, 4, 8, 9] == complete_steps(tmp_path)


def test_the_callback_saves_them_from_a_real_trainer(tmp_path: Path) -> None:
    tokens = torch.randint(0, 50, (64, 12), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in tokens]

    def train(steps: int) -> None:
        torch.manual_seed(0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "trainer"), max_steps=steps, per_device_train_batch_size=4, report_to=[],
            save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=0.01, logging_strategy="no",
        )  # fmt: skip
        callback = og.SnapshotCallback(tmp_path / "suite", schedule=lambda step: step in (2, 3))
        Trainer(model=tiny_model(), args=arguments, train_dataset=rows, callbacks=[callback]).train()  # type: ignore[arg-type]

    train(5)
    suite = og.open_suite(tmp_path / "suite")
    assert suite.steps == [0, 2, 3, 5] == complete_steps(tmp_path / "suite")
    models = [AutoModelForCausalLM.from_pretrained(snapshot.path) for snapshot in suite.snapshots]
    for before, after in pairwise(model.gpt_neox.embed_in.weight for model in models):
        assert not torch.equal(before, after)


def test_following_gives_what_a_run_of_the_whole_suite_gives(
    small_run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    suite = tmp_path / "suite"
    said: list[str] = []
    study = series_study(small_run.suite_folder, text_file)
    series = study.series.model_copy(update={"next_tokens": [10_240, 5120]})
    study = study.model_copy(
        update={"analyses": ["emergence", "turning_point", "formation"], "report": True, "series": series}
    )

    def pretraining() -> None:
        while not any(line.startswith("pack") for line in said):
            if stopped.wait(0.05):
                return
        for step in (0, 10, 25, 60):
            shutil.copytree(small_run.suite_folder / f"step{step}", suite / f".part{step}")
            (suite / f".part{step}").rename(suite / f"step{step}")
            while sum(line.startswith("report") for line in said) < (0, 10, 25, 60).index(step) + 1:
                if stopped.wait(0.05):
                    return

    corpus = study.corpus.model_copy(update={"tokenizer": small_run.suite_folder / "step0"})
    study = study.model_copy(update={"corpus": corpus})
    suite.mkdir()
    stopped = threading.Event()
    trainer = threading.Thread(target=pretraining)
    trainer.start()
    try:
        run = follow(study, suite, out=tmp_path / "run", until=60, say=said.append)
    finally:
        stopped.set()
        trainer.join()
    assert run is not None
    told = [line for line in said if line.startswith("follow")]
    assert told[0] == f"follow: {suite} has no whole snapshot yet: waiting for one"
    # the text is packed while nothing is there
    assert said[1].startswith("pack: ")
    assert said[2:4] == ["follow: step 0", next(line for line in said if line.startswith("settings changed"))]
    assert told[1:] == [f"follow: step {step}" for step in (0, 10, 25, 60)]
    whole = run_study(
        study.model_copy(update={"suite": run.study.suite.model_copy(update={"steps": "all"})}),
        out=tmp_path / "whole", say=lambda line: None,
    )  # fmt: skip
    for name in ("features", "trajectories", "quality", "codes", "emergence", "formed", "levels"):
        assert run.table(name).equals(whole.table(name)), name
    page = " ".join(run.report_path.read_text(encoding="utf-8").split())
    assert "30,000 training tokens for the first SAE, 5,120 to 10,240 for each of the next" in page


def test_snapshots_that_came_together_are_taken_a_few_at_a_time(
    small_run: Run, text_file: Path, tmp_path: Path
) -> None:
    study = series_study(small_run.suite_folder, text_file).model_copy(update={"analyses": ["emergence"]})
    said: list[str] = []
    run = follow(study, small_run.suite_folder, out=tmp_path / "run", idle=0.0, say=said.append)
    assert [line for line in said if line.startswith("follow")] == [
        "follow: steps 0, 10 (2 more are waiting)", "follow: steps 25, 60",
    ]  # fmt: skip
    assert run is not None
    assert run.steps == [0, 10, 25, 60]


def test_following_ends_with_the_step_that_is_asked_for(small_run: Run, text_file: Path, tmp_path: Path) -> None:
    study = series_study(small_run.suite_folder, text_file).model_copy(update={"analyses": ["emergence"]})
    said: list[str] = []
    run = follow(study, small_run.suite_folder, out=tmp_path / "run", until=5, say=said.append)
    assert [line for line in said if line.startswith("follow")] == ["follow: steps 0, 10"]
    assert run is not None
    assert run.steps == [0, 10]
    # what is read stays read, whatever the next call ends with; steps that are no longer asked for are not missed
    run = follow(study, small_run.suite_folder, out=tmp_path / "run", until=0, say=said.append)
    assert run is not None
    assert run.steps == [0, 10]
    fewer = study.model_copy(update={"suite": study.suite.model_copy(update={"steps": [0, 25]})})
    run = follow(fewer, small_run.suite_folder, out=tmp_path / "run", idle=0.0, say=said.append)
    assert run is not None
    assert run.steps == [0, 25]


def test_a_folder_without_snapshots_leaves_a_run_as_it_is(small_run: Run, text_file: Path, tmp_path: Path) -> None:
    corpus = series_study(small_run.suite_folder, text_file).corpus
    corpus = corpus.model_copy(update={"tokenizer": small_run.suite_folder / "step0"})
    study = series_study(small_run.suite_folder, text_file).model_copy(update={"analyses": [], "corpus": corpus})
    run = follow(study, small_run.suite_folder, out=tmp_path / "run", until=0, say=lambda line: None)
    assert run is not None
    before = run.study_path.read_text(encoding="utf-8")
    with pytest.raises(SuiteError, match=r"step0 of .*empty are gone"):
        follow(study, tmp_path / "empty", out=tmp_path / "run", idle=0.0, say=lambda line: None)
    assert run.study_path.read_text(encoding="utf-8") == before
    other = study.model_copy(update={"name": "another"})
    with pytest.raises(RunError, match="is a run of"):
        follow(other, small_run.suite_folder, out=tmp_path / "run", idle=0.0, say=lambda line: None)


def test_following_goes_on_after_it_was_stopped(
    small_run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    suite = tmp_path / "suite"
    study = series_study(small_run.suite_folder, text_file).model_copy(update={"analyses": ["emergence"]})
    for step in (0, 10):
        shutil.copytree(small_run.suite_folder / f"step{step}", suite / f"step{step}")

    def stop(line: str) -> None:
        if line.startswith("train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(study, suite, out=tmp_path / "run", idle=0.0, say=stop)
    shutil.copytree(small_run.suite_folder / "step25", suite / "step25")
    said: list[str] = []
    run = follow(study, suite, out=tmp_path / "run", idle=0.0, say=said.append)
    assert said[0] == "follow: steps 0, 10, 25"
    assert run is not None
    assert run.steps == [0, 10, 25]
    again = follow(study, suite, out=tmp_path / "run", idle=0.0, say=said.append)
    assert again is not None
    assert said[-1].endswith("done already")
    # a relative folder is the same folder, and a step that no snapshot has is passed by the next
    monkeypatch.chdir(tmp_path)
    said.clear()
    assert follow(study, "suite", out=tmp_path / "run", until=12, say=said.append) is not None
    assert not [line for line in said if line.startswith("settings")]
    assert run.study.suite.folder == suite
    shutil.move(suite / "step10", tmp_path / "step10")
    with pytest.raises(SuiteError, match=r"step10 of .*suite are gone: .*bring them back"):
        follow(study, suite, out=tmp_path / "run", idle=0.0, say=said.append)
    assert run.steps == [0, 10, 25]
    assert follow(study, tmp_path / "none", out=tmp_path / "other", idle=0.0) is None


def test_text_that_cannot_be_packed_is_told_before_the_first_snapshot(
    small_run: Run, text_file: Path, tmp_path: Path
) -> None:
    study = series_study(tmp_path / "suite", text_file)
    (tmp_path / "empty.jsonl").touch()
    corpus = study.corpus.model_copy(
        update={"files": str(tmp_path / "empty.jsonl"), "tokenizer": small_run.suite_folder / "step0"}
    )
    with pytest.raises(CorpusError):
        follow(study.model_copy(update={"corpus": corpus}), tmp_path / "suite", out=tmp_path / "run", idle=0.0)
    assert not (tmp_path / "run").exists()


def test_what_cannot_follow_is_refused(command: Command, small_run: Run, text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only an SAE series can follow"):
        follow(small_run.study, tmp_path, idle=0.0)
    suite = small_run.study.suite.model_copy(update={"drift": 0.1})
    dictionary = small_run.study.dictionary.model_copy(update={"kind": "sae_series"})
    with pytest.raises(ConfigError, match=r"leave out suite\.drift"):
        follow(small_run.study.model_copy(update={"suite": suite, "dictionary": dictionary}), tmp_path, idle=0.0)
    series = series_study(small_run.suite_folder, text_file)

    def changed(section: str, **values: object) -> StudyConfig:
        return series.model_copy(update={section: getattr(series, section).model_copy(update=values)})

    for study, until, said in (
        (changed("series", direction="reverse"), None, r"leave out series\.direction: reverse"),
        (changed("suite", revisions="run-(?P<step>.*)"), None, r"leave out suite\.revisions"),
        (changed("suite", steps=[0, 10]), 20, "step 20 comes after the last of suite.steps, 10"),
    ):
        with pytest.raises(ConfigError, match=said):
            follow(study, tmp_path, out=tmp_path / "run", until=until, idle=0.0)
    code, lines = command("track", small_run.folder, "--follow", tmp_path)
    assert code == 2
    said = f"{small_run.folder}: track is for an SAE series: set dictionary.kind: sae_series, or use ontogeny run"
    assert lines == [f"ontogeny: {said}"]
    assert json.loads((small_run.folder / "manifest.json").read_text())["name"] == "small"
