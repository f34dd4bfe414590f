"""Features that two runs have in common: by direction, or by what they are active on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from typer.testing import CliRunner

import ontogeny as og
from ontogeny.cli import app
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import RunError
from ontogeny.features import counterparts, matching
from ontogeny.features.counterparts import LEAST_ACTIVE, Counterparts
from ontogeny.run import Run


def altered(run: Run, folder: Path, **manifest: Any) -> Run:
    """A copy of a run, parts of its manifest changed."""
    shutil.copytree(run.folder, folder)
    change(folder / "manifest.json", **manifest)
    return Run(folder)


def change(manifest: Path, **changes: Any) -> None:
    manifest.write_text(json.dumps(json.loads(manifest.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def study_changed(run: Run, **suite: Any) -> None:
    """Another suite in a run's study."""
    study = yaml.safe_load((run.folder / "study.yaml").read_text(encoding="utf-8")) | {"suite": suite}
    (run.folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def pulled(run: Run, folder: Path) -> Run:
    """A run as it comes from a hub: without models and corpus."""
    copy = altered(run, folder)
    shutil.rmtree(copy.corpus_folder)
    shutil.rmtree(copy.suite_folder)
    return copy


@pytest.fixture
def other(small_run: Run, tmp_path: Path) -> Run:
    """The small run as if of other models: features in another order, some codes and births otherwise, some missing."""
    run = altered(small_run, tmp_path / "other")
    for file in run.suite_folder.rglob("model.safetensors"):
        file.write_bytes(file.read_bytes() + b" ")
    stages = run.manifest["stages"]
    change(run.folder / "manifest.json", stages=stages | {"pretrain": stages["pretrain"] | {"key": "another"}})
    draw = np.random.default_rng(0)
    place = np.argsort(draw.permutation(len(run.features))).astype(np.int32)
    features = pl.read_parquet(run.folder / "features.parquet")
    dead = (features["feature"] % 11 == 5) | features["dead"]
    born = pl.when(pl.col("feature") % 3 == 0).then(60).otherwise(pl.col("birth_step"))
    features = features.with_columns(
        dead=dead, birth_step=born, feature=pl.Series(place[features["feature"].to_numpy()])
    )
    features.write_parquet(run.folder / "features.parquet")
    codes = pl.read_parquet(run.folder / "codes.parquet")
    noise = draw.uniform(0.3, 1.7, len(codes)).astype(np.float32)
    codes = codes.with_columns(feature=pl.Series(place[codes["feature"].to_numpy()]), code=pl.col("code") * noise)
    sequences = codes["sequence"].unique().sort()
    codes = codes.filter(pl.col("sequence").is_in(sequences[2:].to_list()))
    own = pl.lit(len(run.steps) - 1, pl.Int16)  # codes of each snapshot's own, as a series has them
    other_steps = codes.with_columns(snapshot=pl.lit(0, pl.Int16), code=pl.col("code") * 0 + 1)
    pl.concat([other_steps, codes.with_columns(snapshot=own)]).write_parquet(run.folder / "codes.parquet")
    return run


def dense_codes(run: Run, sequences: list[int]) -> np.ndarray:
    """Codes at every position of some sequences at the last step [feature, token]."""
    codes, corpus = run.table("codes"), Corpus(run.corpus_folder / "held_out")
    places = [(sequence, position) for sequence in sequences for position in range(1, int(corpus.lengths[sequence]))]
    columns = {place: number for number, place in enumerate(places)}
    dense = np.zeros((len(run.features), len(columns)))
    last = codes.filter(pl.col("snapshot").is_null() | (pl.col("snapshot") == len(run.steps) - 1))
    for feature, sequence, position, code in last.select("feature", "sequence", "position", "code").iter_rows():
        if (sequence, position) in columns:
            dense[feature, columns[sequence, position]] = code
    return dense


@pytest.mark.parametrize("at_once", [1 << 24, 1000])
def test_features_of_other_models_are_matched_by_what_they_are_active_on(
    at_once: int, small_run: Run, other: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counterparts, "SIMILARITIES_AT_ONCE", at_once)
    found = og.compare_runs(small_run, other)
    assert (found.by, found.step) == ("correlation", 60)
    sequences = other.table("codes")["sequence"].unique().sort().to_list()
    assert len(sequences) == small_run.table("codes")["sequence"].n_unique() - 2
    codes = [dense_codes(run, sequences) for run in (small_run, other)]
    assert found.tokens == codes[0].shape[1]
    tables = [run.features.sort("feature") for run in (small_run, other)]
    can = [
        np.flatnonzero(~table["dead"].to_numpy() & ((code > 0).sum(1) >= LEAST_ACTIVE))
        for table, code in zip(tables, codes, strict=True)
    ]
    assert found.features == (len(can[0]), len(can[1]))
    table = np.corrcoef(np.concatenate([codes[0][can[0]], codes[1][can[1]]]))[: len(can[0]), len(can[0]) :]
    nearest, back = table.argmax(1), table.argmax(0)
    expected = {(can[0][one], can[1][at]): table[one, at] for one, at in enumerate(nearest) if back[at] == one}
    pairs = {(one, at): similarity for one, at, similarity, *_ in found.pairs.iter_rows()}
    assert pairs == pytest.approx(expected, abs=1e-5)
    assert (found.pairs["similarity"].diff().drop_nulls() <= 0).all()
    births = [dict(table.select("feature", "birth_step").iter_rows()) for table in tables]
    for one, at, _, birth, birth_other in found.pairs.iter_rows():
        assert (birth, birth_other) == (births[0][one], births[1][at])
    loose = found.agreement()[0]
    assert loose["matched"] == pytest.approx(sum(value >= 0.7 for value in expected.values()) / len(can[0]))
    assert loose["matched"] > 0.5
    assert 0 < loose["births_same"] < 1


def test_births_count_at_the_first_snapshot_that_both_runs_have() -> None:
    births = [(0, 0), (10, 15), (15, 20), (20, 40), (60, 0), (50, 50)]
    pairs = pl.DataFrame(
        [(number, number, 0.8, *pair) for number, pair in enumerate(births)],
        schema=["feature", "other", "similarity", "birth_step", "birth_step_other"], orient="row",
    )  # fmt: skip
    loose, strict = Counterparts("cosine", 40, None, (12, 8), 5, pairs, [0, 20, 40]).agreement()
    # places 0 0, 1 1, 1 1, 1 2; the last two are born after the last common step in one
    assert (loose["matched"], loose["features_other"], loose["births_same"]) == (0.5, 8, 0.75)
    assert (loose["emergent"], loose["emergent_both"]) == (3, 3)
    assert loose["births_spearman"] is None
    assert (strict["matched"], strict["births_same"]) == (0, None)


def test_the_same_models_are_known_as_such(small_run: Run, other: Run, tmp_path: Path) -> None:
    by = lambda run, another: og.compare_runs(run, another).by  # noqa: E731
    copy = altered(small_run, tmp_path / "copy")
    assert by(small_run, copy) == "cosine"
    assert by(small_run, other) == "correlation"
    assert by(pulled(small_run, tmp_path / "a"), pulled(small_run, tmp_path / "b")) == "cosine"
    # another study of the suite that the first one pre-trained, by whatever path
    study_changed(copy, folder=str(small_run.suite_folder))
    repo = f"{small_run.suite_folder.parent}/../{small_run.folder.name}/suite"
    change(copy.folder / "manifest.json", snapshots=[{**one, "repo": repo} for one in copy.manifest["snapshots"]])
    assert by(small_run, Run(copy.folder)) == "cosine"
    assert by(other, Run(copy.folder)) == "correlation"
    hub = altered(small_run, tmp_path / "hub")
    study_changed(hub, repo="lab/models")
    for commit, repo, expected in (("abc", "lab/models", "cosine"), ("def", "lab/models", "correlation")):
        runs = []
        for number, one in enumerate(("abc", commit)):
            at = {"repo": repo, "commit": one}
            snapshots = [{**snapshot, **at} for snapshot in hub.manifest["snapshots"]]
            runs.append(altered(hub, tmp_path / f"{commit}{number}", snapshots=snapshots))
        assert by(*runs) == expected
    layer = altered(small_run, tmp_path / "layer")
    study = yaml.safe_load((layer.folder / "study.yaml").read_text(encoding="utf-8")) | {"hookpoint": "resid_post.1"}
    (layer.folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    assert by(small_run, Run(layer.folder)) == "correlation"


def test_what_cannot_be_matched_is_one_line(small_run: Run, other: Run, tmp_path: Path) -> None:
    later = [{**small_run.manifest["snapshots"][0], "step": 7}]
    with pytest.raises(RunError, match="no step in common"):
        og.compare_runs(small_run, altered(small_run, tmp_path / "later", snapshots=later))
    with pytest.raises(RunError, match="no snapshots yet: ontogeny run"):
        og.compare_runs(altered(small_run, tmp_path / "begun", snapshots=[]), small_run)
    with pytest.raises(RunError, match=r"has no held-out text, .*a run from a hub comes without it"):
        og.compare_runs(pulled(small_run, tmp_path / "pulled"), other)
    codes = pl.read_parquet(other.folder / "codes.parquet")
    codes.with_columns(pl.col("feature") + 1).write_parquet(other.folder / "codes.parquet")
    with pytest.raises(RunError, match="codes and features are of different trainings"):
        og.compare_runs(small_run, other)
    codes.with_columns(pl.col("sequence") + 100_000).write_parquet(other.folder / "codes.parquet")
    with pytest.raises(RunError, match=r"kept the codes of different tokens at step 60: .* same measure\.seed"):
        og.compare_runs(small_run, other)
    change(other.corpus_folder / "held_out" / "manifest.json", fingerprint="another")
    with pytest.raises(RunError, match="different held-out texts"):
        og.compare_runs(small_run, other)


def test_the_command_tells_both_levels(small_run: Run, other: Run) -> None:
    told = CliRunner().invoke(app, ["compare", str(small_run.folder), str(other.folder)])
    assert told.exit_code == 0
    assert told.stdout.startswith("features that are each other's nearest by correlation of codes over ")
    asked = ["compare", str(small_run.folder), str(small_run.folder), "--json"]
    found = json.loads(CliRunner().invoke(app, asked).stdout)
    assert (found["by"], found["tokens"]) == ("cosine", None)
    assert [level["similarity"] for level in found["levels"]] == [0.7, 0.9]
    assert [level["matched"] for level in found["levels"]] == [1, 1]
    assert all(pair["feature"] == pair["other"] for pair in found["pairs"])


def test_assigned_among_the_nearest_are_those_assigned_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, order = torch.randn(300, 24, generator=draw), torch.randperm(300, generator=draw)
    others = rows[order] + 2 * torch.rand(300, 1, generator=draw) * torch.randn(300, 24, generator=draw)
    living, living_other = np.arange(280), np.arange(20, 300)
    every = matching.match_rows(rows, others, living=living, living_other=living_other)
    monkeypatch.setattr(matching, "MOST_PAIRS", 0)
    monkeypatch.setattr(matching, "ROWS_AT_ONCE", 64)
    near = matching.match_rows(rows, others, living=living, living_other=living_other)
    pairs, sure = dict(zip(near.feature, near.other, strict=True)), every.cosine > 0.8
    assert sure.sum() > 50
    assert all(pairs[a] == b for a, b in zip(every.feature[sure], every.other[sure], strict=True))
    assert near.cosine.sum() == pytest.approx(every.cosine.sum(), rel=0.01)
    assert len(set(near.other)) == len(near.other)
    alone = matching.match_rows(torch.eye(4)[:3], -torch.eye(4)[1:], living=np.arange(3), living_other=np.arange(3))
    assert (alone.cosine <= 0).all()
