"""The store gives what the stream gives, keeps to its budget, and notices damage."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import Command
from ontogeny.activations import store as module
from ontogeny.activations.harvest import harvester_of
from ontogeny.activations.store import ActivationStore, rounded
from ontogeny.activations.stream import ActivationStream, store_of, stream_of, verify_store
from ontogeny.config.study import TrainConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import StoreError
from ontogeny.files import file_hash
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.suites.suite import suite_of

BATCHES = 30


def store(run: Run, folder: Path, *, dtype: str = "float32", max_bytes: int = 10**9, key: str = "k") -> ActivationStore:
    suite, corpus = suite_of(run), Corpus(run.corpus_folder / "held_out")
    return ActivationStore(
        folder, key=key, steps=suite.steps, width=suite.width(), dtype=dtype, n_sequences=len(corpus),
        max_bytes=max_bytes,
    )  # fmt: skip


def stream(
    run: Run, kept: ActivationStore | None, *, seed: int = 0, snapshots: list[int] | None = None
) -> ActivationStream:
    suite = suite_of(run)
    places = list(range(len(suite.snapshots))) if snapshots is None else snapshots
    return ActivationStream(
        harvester_of(run, suite=suite.only(places)), Corpus(run.corpus_folder / "held_out"), batch_size=64,
        window_tokens=256, model_batch_size=5, seed=seed, store=None if kept is None else kept.view(places),
    )  # fmt: skip


def take(batches: ActivationStream, count: int = BATCHES) -> Tensor:
    return torch.stack(list(islice(batches.starting_at(0), count)))


def forbid_harvest(batches: ActivationStream, monkeypatch: pytest.MonkeyPatch) -> None:
    def harvested(*arguments: object) -> None:
        raise AssertionError("harvested again")

    monkeypatch.setattr(batches.harvester, "read", harvested)


def test_a_float32_store_gives_the_streams_batches_bit_for_bit_and_harvests_once(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = take(stream(small_run, None))
    assert torch.equal(take(stream(small_run, store(small_run, tmp_path))), expected)
    again = store(small_run, tmp_path)
    again.verify()
    batches = stream(small_run, again)
    forbid_harvest(batches, monkeypatch)
    assert torch.equal(take(batches), expected)
    for place in (0, len(small_run.steps) - 1):
        one = stream(small_run, again, snapshots=[place])
        forbid_harvest(one, monkeypatch)
        assert torch.equal(take(one)[:, :, 0], expected[:, :, place])


def test_one_of_many_snapshots_is_harvested_again_and_rounded_alike(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store(small_run, tmp_path, dtype="float16")
    take(stream(small_run, kept))
    stored = take(stream(small_run, kept, snapshots=[1]))
    monkeypatch.setattr("ontogeny.activations.store.MANY", len(small_run.steps))
    one = stream(small_run, kept, snapshots=[1])
    forbid_harvest(one, monkeypatch)
    with pytest.raises(AssertionError, match="harvested again"):
        take(one, 1)
    before = kept.nbytes
    torch.testing.assert_close(take(stream(small_run, kept, snapshots=[1])), stored, rtol=2**-10, atol=1e-3)
    assert kept.nbytes == before


def test_another_order_is_served_from_the_same_store(small_run: Run, tmp_path: Path) -> None:
    kept = store(small_run, tmp_path)
    take(stream(small_run, kept), 5)
    assert 0 < kept.has(np.arange(len(kept.shard_of))).sum() < len(kept.shard_of)
    other = take(stream(small_run, kept, seed=1))
    assert torch.equal(other, take(stream(small_run, None, seed=1)))
    entered = [sequence for shard in kept.shards for sequence in shard["sequences"]]
    assert len(entered) == len(set(entered))


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8), ("int8", 1 / 254)])
def test_stored_values_are_as_near_as_their_dtype_says(
    small_run: Run, tmp_path: Path, dtype: str, error: float
) -> None:
    exact = take(stream(small_run, None))
    first = take(stream(small_run, store(small_run, tmp_path, dtype=dtype)))
    assert torch.equal(take(stream(small_run, store(small_run, tmp_path, dtype=dtype))), first)
    scale = exact.abs().amax(-1, keepdim=True) if dtype == "int8" else exact.abs()
    assert float(((first - exact).abs() / scale.clamp_min(1e-3)).max()) <= 1.01 * error
    assert float((first - exact).abs().max()) > 0


def test_float16_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(StoreError, match="bfloat16"):
        rounded(torch.full((1, 1, 2), 1e5), "float16")


def test_the_budget_is_never_exceeded_and_the_batches_are_the_same(small_run: Run, tmp_path: Path) -> None:
    budget = 100_000
    kept = store(small_run, tmp_path, dtype="float16", max_bytes=budget)
    found = take(stream(small_run, kept))
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert 0.5 * budget < kept.nbytes == on_disk <= budget
    assert torch.equal(found, take(stream(small_run, store(small_run, tmp_path / "all", dtype="float16"))))


def test_damage_is_found_before_training(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(stream(small_run, store(small_run, tmp_path / "whole")))
    shard = sorted((tmp_path / "whole").glob("*.safetensors"))[1].name
    content = (tmp_path / "whole" / shard).read_bytes()
    flipped = bytearray(content)
    flipped[-7] ^= 1
    for name, damaged, said in (
        ("flipped", bytes(flipped), "has changed"),
        ("short", content[:-8], "bytes, not"),
        ("missing", None, "is missing"),
    ):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / shard).unlink()
        if damaged is not None:
            (tmp_path / name / shard).write_bytes(damaged)
        with pytest.raises(StoreError, match=said):
            store(small_run, tmp_path / name).verify()
    kept, read = store(small_run, tmp_path / "whole"), []
    original = module.file_hash
    monkeypatch.setattr(module, "file_hash", lambda path: read.append(path) or original(path))
    kept.verify(again=True)
    kept.verify()
    assert len(read) == len(kept.shards)
    kept.shards[0]["sha256"], was = "other", kept.shards[0]["sha256"]
    with pytest.raises(StoreError, match="has changed"):
        kept.verify()
    kept.shards[0]["sha256"] = was
    (tmp_path / "whole" / shard).write_bytes(bytes(flipped))
    with pytest.raises(StoreError, match="has changed"):
        kept.verify()
    with pytest.raises(StoreError, match="holds activations of key k, this study has other"):
        store(small_run, tmp_path / "whole", key="other")
    (tmp_path / "whole" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="is damaged"):
        store(small_run, tmp_path / "whole")


@pytest.mark.parametrize("killed_at", [1, 2, 4])
def test_what_a_kill_left_half_done_is_neither_lost_nor_doubled(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    written = 0

    def killed(*arguments: object) -> None:
        nonlocal written
        written += 1
        if written == killed_at:
            raise KeyboardInterrupt
        original(*arguments)  # type: ignore[arg-type]

    original = module.write_json
    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        take(stream(small_run, store(small_run, tmp_path)))
    monkeypatch.setattr(module, "write_json", original)
    again = store(small_run, tmp_path)
    assert len(again.shards) == killed_at - 1 == len(list(tmp_path.glob("*.safetensors"))) - 1
    assert torch.equal(take(stream(small_run, again)), take(stream(small_run, None)))
    again.verify()
    assert len(again.shards) == len(list(tmp_path.glob("*.safetensors")))
    entered = [sequence for shard in again.shards for sequence in shard["sequences"]]
    assert len(entered) == len(set(entered))


@pytest.fixture(scope="module")
def stored_run(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small study, trained from a float32 store."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    shutil.copytree(small_run.folder, folder)
    train = TrainConfig(**{**small_run.study.train.model_dump(), "store_gb": 1.0, "store_dtype": "float32"})
    study = small_run.study.model_copy(update={"train": train})
    return run_study(study, out=folder, until="train", say=lambda line: None)


def test_a_study_trained_from_its_store_ends_in_the_same_bits(small_run: Run, stored_run: Run) -> None:
    one, other = stored_run.dictionary(), small_run.dictionary()
    assert torch.equal(one.W_dec, other.W_dec)
    assert torch.equal(one.W_enc, other.W_enc)
    assert (stored_run.folder / "activations" / "manifest.json").is_file()
    assert not (small_run.folder / "activations").exists()
    stored = stream_of(stored_run)
    assert stored.store is not None
    assert stored.store.has(stored._window(0).sequences).all()


def test_store_verify_compares_the_store_with_the_models(
    small_run: Run, stored_run: Run, tmp_path: Path, command: Command
) -> None:
    assert command("store", "verify", stored_run.folder) == (0, [])
    found = verify_store(stored_run, compared=3)
    assert found.difference < 1e-4
    assert found.sequences == int((store_of(stored_run).shard_of >= 0).sum()) > 3
    code, lines = command("store", "verify", small_run.folder)
    assert (code, len(lines)) == (2, 1)
    assert "keeps no activations: set train.store_gb" in lines[0]
    run = Run(shutil.copytree(stored_run.folder, tmp_path / "run"))
    path = run.folder / "activations" / "000000.safetensors"
    values = load_file(path)["values"]
    values[:, [1, 2]] = values[:, [2, 1]]
    save_file({"values": values}, path)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = file_hash(path)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    code, lines = command("store", "verify", run.folder)
    assert (code, len(lines)) == (2, 1)
    assert f"at step {run.steps[1]} is not what the model gives" in lines[0]
