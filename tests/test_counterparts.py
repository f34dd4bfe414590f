"""Features that two runs have in common: by direction, or by what they are active on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

import ontogeny as og
from ontogeny.cli import app
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import RunError
from ontogeny.features.counterparts import Counterparts
from ontogeny.run import Run


def altered(run: Run, folder: Path, **manifest: Any) -> Run:
    """A copy of a run, parts of its manifest changed."""
    shutil.copytree(run.folder, folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | manifest), encoding="utf-8")
    return Run(folder)


@pytest.fixture
def other(small_run: Run, tmp_path: Path) -> Run:
    """The small run, as if of other models, its features in another order and their codes another noise."""
    snapshots = [{**one, "repo": "another/model"} for one in small_run.manifest["snapshots"]]
    run = altered(small_run, tmp_path / "other", snapshots=snapshots)
    study = yaml.safe_load((run.folder / "study.yaml").read_text(encoding="utf-8"))
    study["suite"]["pretrain"]["seed"] = 1
    (run.folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    draw = np.random.default_rng(0)
    order = draw.permutation(len(run.features))
    place = pl.Series(np.argsort(order).astype(np.int32))
    for name in ("features", "codes"):
        table = pl.read_parquet(run.folder / f"{name}.parquet")
        table = table.with_columns(pl.Series("feature", place.to_numpy()[table["feature"].to_numpy()]))
        if name == "codes":
            noise = draw.uniform(0.3, 1.7, len(table)).astype(np.float32)
            table = table.with_columns(code=pl.col("code") * noise)
        table.write_parquet(run.folder / f"{name}.parquet")
    return run


def dense_codes(run: Run) -> np.ndarray:
    """Codes of every held-out position that was looked at [feature, token]."""
    codes, corpus = run.table("codes"), Corpus(run.corpus_folder / "held_out")
    columns = {}
    for sequence in codes["sequence"].unique().sort():
        for position in range(1, int(corpus.lengths[sequence])):
            columns[sequence, position] = len(columns)
    dense = np.zeros((len(run.features), len(columns)))
    for feature, sequence, position, code in codes.select("feature", "sequence", "position", "code").iter_rows():
        dense[feature, columns[sequence, position]] = code
    return dense


def test_features_of_other_models_are_matched_by_what_they_are_active_on(small_run: Run, other: Run) -> None:
    found = og.compare_runs(small_run, other)
    assert (found.by, found.at) == ("correlation", 60)
    mine, theirs = dense_codes(small_run), dense_codes(other)
    assert found.tokens == mine.shape[1]
    living = [np.flatnonzero(~run.features.sort("feature")["dead"].to_numpy()) for run in (small_run, other)]
    assert found.living == (len(living[0]), len(living[1]))
    with np.errstate(invalid="ignore"):
        table = np.nan_to_num(np.corrcoef(np.concatenate([mine, theirs]))[: len(mine), len(mine) :])
    table = table[np.ix_(*living)]
    nearest, back = table.argmax(1), table.argmax(0)
    expected = {(living[0][one], living[1][at]): table[one, at] for one, at in enumerate(nearest) if back[at] == one}
    pairs = {(one, at): similarity for one, at, similarity, *_ in found.pairs.iter_rows()}
    assert pairs == pytest.approx(expected, abs=1e-9)
    assert (found.pairs["similarity"].diff().drop_nulls() <= 0).all()
    agreement = found.agreement(0.7)
    assert agreement["matched"] == sum(value >= 0.7 for value in expected.values()) > 40
    assert agreement["births_same"] == 1
    assert 0.5 < agreement["births_same_low"] < agreement["births_same_high"] == 1


def test_births_of_counterparts_are_compared() -> None:
    births = [(0, 0), (0, 0), (10, 10), (10, 25), (25, 60), (60, 0), (60, 60)]
    pairs = pl.DataFrame(
        [(number, number, 0.8, *pair) for number, pair in enumerate(births)],
        schema=["feature", "other", "similarity", "birth_step", "birth_step_other"], orient="row",
    )  # fmt: skip
    told = Counterparts("cosine", 60, None, (9, 8), pairs, [0, 10, 25, 60]).agreement(0.7)
    assert (told["features"], told["features_other"], told["matched"], told["emergent"]) == (9, 8, 7, 5)
    assert told["births_same"] == pytest.approx(4 / 7)
    assert told["births_near"] == pytest.approx(4 / 5)
    # ranks of births of the five: 1.5, 1.5, 3, 4.5, 4.5 and 2, 3, 4.5, 1, 4.5
    assert told["spearman"] == pytest.approx(np.corrcoef([1.5, 1.5, 3, 4.5, 4.5], [2, 3, 4.5, 1, 4.5])[0, 1])
    nothing = Counterparts("cosine", 60, None, (9, 8), pairs, [0, 10, 25, 60]).agreement(0.9)
    assert (nothing["matched"], nothing["births_same"], nothing["spearman"]) == (0, None, None)


def test_what_cannot_be_matched_is_one_line(small_run: Run, other: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no step in common"):
        og.compare_runs(small_run, altered(small_run, tmp_path / "later", snapshots=[{"step": 7, "repo": "x"}]))
    with pytest.raises(RunError, match="no snapshots yet: ontogeny run"):
        og.compare_runs(altered(small_run, tmp_path / "begun", snapshots=[]), small_run)
    codes = pl.read_parquet(other.folder / "codes.parquet")
    codes.with_columns(pl.col("sequence") + 100_000).write_parquet(other.folder / "codes.parquet")
    with pytest.raises(RunError, match=r"kept the codes of different tokens: set measure\.seed alike"):
        og.compare_runs(small_run, other)
    manifest = other.corpus_folder / "held_out" / "manifest.json"
    told = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**told, "fingerprint": "another"}), encoding="utf-8")
    with pytest.raises(RunError, match="different held-out texts"):
        og.compare_runs(small_run, other)


def test_the_command_tells_both_levels(small_run: Run, other: Run) -> None:
    told = CliRunner().invoke(app, ["compare", str(small_run.folder), str(other.folder)])
    assert told.exit_code == 0
    assert told.stdout.startswith("each other's nearest by correlation of codes over ")
    told = json.loads(
        CliRunner().invoke(app, ["compare", str(small_run.folder), str(small_run.folder), "--json"]).stdout
    )
    assert (told["by"], told["tokens"]) == ("cosine", None)
    assert [level["from"] for level in told["agreement"]] == [0.7, 0.9]
    assert all(pair["feature"] == pair["other"] for pair in told["pairs"])
