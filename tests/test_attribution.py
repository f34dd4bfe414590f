"""The stage attribute of a small study: its tables hold together, it resumes, its report shows it."""

import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from scipy.sparse import csr_array

from conftest import TASKS, Command
from ontogeny import tables
from ontogeny.causal.attribute import spread_features
from ontogeny.causal.effects import Effects
from ontogeny.causal.site import Site, SnapshotEffects
from ontogeny.causal.tables import is_learned, relie_beside, within_clusters
from ontogeny.columns.causal import CAUSAL
from ontogeny.config.attribution import TaskConfig
from ontogeny.config.study import load_study
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import ConfigError
from ontogeny.features.matching import Match
from ontogeny.report.page import _leading_effects
from ontogeny.run import Run
from ontogeny.stages import STAGES
from ontogeny.study import run_study
from ontogeny.tasks import open_task
from ontogeny.tasks.task import UNALIGNED


def test_every_table_is_there_and_as_it_is_described(task_run: Run) -> None:
    for name, columns in CAUSAL.items():
        assert task_run.table(name).columns == list(columns), name
        assert tables.FILES[name] == ("effects.parquet" if name == "effects" else f"attribution/{name}.parquet")
    assert task_run.effects["task"].unique(maintain_order=True).to_list() == ["simple", "pp"]
    assert len(task_run.table("tasks")) == 2 * 4


def test_margins_at_the_end_of_the_path_are_those_without_any_feature_or_error(task_run: Run) -> None:
    gaps = task_run.table("completeness")
    assert gaps["gap_median"].max() < 0.02  # type: ignore[operator]
    clean = task_run.table("tasks").sort("task", "step")["margin"]
    assert gaps.sort("task", "step")["margin_clean"].to_list() == pytest.approx(clean.to_list(), abs=1e-6)


def test_relie_is_the_share_of_the_effects_in_the_table(task_run: Run) -> None:
    shares = task_run.table("relie").filter(task="simple").filter(pl.col("comparison").str.count_matches("/") == 2)
    comparison = shares["comparison"][0]
    steps = [int(step) for step in comparison.split("/")]
    effects = task_run.effects.filter(pl.col("step").is_in(steps), task="simple")
    sizes = effects.with_columns(pl.col("effect").abs())
    total = sizes.group_by("feature").agg(total=pl.col("effect").sum())
    expected = sizes.join(total, on="feature").select("feature", "step", share=pl.col("effect") / pl.col("total"))
    both = shares.join(expected, on=["feature", "step"])
    assert len(both) > 20
    assert both["relie"].to_numpy() == pytest.approx(both["share"].to_numpy(), abs=1e-5)
    assert shares.group_by("feature").agg(pl.col("relie").sum())["relie"].to_numpy() == pytest.approx(1)
    bands = task_run.table("bands")
    assert set(bands.filter(pl.col("probability").is_null())["band"]) <= {"undetermined"}


def test_ablation_begins_with_the_model_and_ends_with_the_error_term(task_run: Run) -> None:
    table = task_run.table("ablation").filter(task="simple", step=60)
    clean, everything = (table.filter(condition=name).row(0, named=True) for name in ("clean", "all"))
    assert clean["items"] == 20
    leading = table.filter(condition="leading", way="removed").sort("k")
    assert leading["k"].to_list()[:2] == [1, 3]
    # removing all that help leaves less than removing those that harm with them
    assert leading["margin"][-1] < everything["margin"] + 0.1
    kept = table.filter(condition="leading", way="kept").sort("k")
    assert kept["margin"][-1] == pytest.approx(clean["margin"], abs=0.1)


def test_leading_features_of_one_task_are_tried_on_the_others(task_run: Run, tmp_path: Path) -> None:
    table = task_run.table("ablation")
    assert "other task" not in table["condition"].to_list()  # never are two learned here
    shutil.copytree(task_run.folder, tmp_path / "run")
    again = TaskConfig(family="agreement_simple", items=40, name="again", seed=1)
    changes = {"tasks": [TASKS.tasks[0], again], "seeds": [], "exact_features": 0}
    study = load_study(task_run.folder / "study.yaml")
    study = study.model_copy(update={"attribution": TASKS.model_copy(update=changes)})
    run = run_study(study, out=tmp_path / "run", say=lambda line: None)
    last = run.table("ablation").filter(snapshot=3)
    other = last.filter(condition="other task")
    assert sorted(other.select("task", "ranked_on", "way").rows()) == [
        ("again", "simple", "kept"), ("again", "simple", "removed"),
        ("simple", "again", "kept"), ("simple", "again", "removed"),
    ]  # fmt: skip
    clean = dict(last.filter(condition="clean").select("task", "margin").iter_rows())
    for task, margin in other.filter(way="removed").select("task", "margin").iter_rows():
        assert margin < clean[task] - 0.1
    assert last.filter(pl.col("condition") != "other task")["ranked_on"].null_count() == len(last) - 4
    assert 'data-spec="elsewhere"' in run.report_path.read_text(encoding="utf-8")


def test_exact_effects_beside_predicted_ones(task_run: Run) -> None:
    exact = task_run.table("exact")
    assert exact.group_by("task", "snapshot").len()["len"].to_list() == [12] * 8
    predicted = task_run.effects.select("task", "snapshot", "feature", "effect")
    both = exact.join(predicted, on=["task", "snapshot", "feature"])
    assert both["predicted"].to_numpy() == pytest.approx(both["effect"].to_numpy(), abs=1e-6)
    last = task_run.table("prediction").filter(snapshot=3)
    assert (last["spearman"] > 0.5).all()


def test_relie_of_another_seed(task_run: Run) -> None:
    table = task_run.table("relie_seeds")
    compared = task_run.table("relie").select("task", "comparison").unique()
    assert table.select("task", "comparison").sort("task", "comparison").equals(compared.sort("task", "comparison"))
    assert table["seed"].unique().to_list() == [1]
    assert (table["matched"] <= table["features"]).all()
    assert table["matched"].null_count() == 0
    bands = task_run.table("bands").filter(pl.col("band") != "undetermined").group_by("task", "comparison").len()
    both = table.join(bands, on=["task", "comparison"])
    assert both["features"].to_list() == both["len"].to_list()


def test_relie_beside_a_permuted_dictionary_is_the_same(task_run: Run) -> None:
    """A dictionary that differs in the order of its features only agrees with itself in all of them."""
    draw, nothing = np.random.default_rng(0), np.zeros(40)
    means = draw.standard_normal((2, 96))
    found = [
        SnapshotEffects(csr_array(mean + 0.2 * draw.standard_normal((40, 96))), nothing, nothing, nothing)
        for mean in means
    ]
    task = open_task(TASKS.tasks[0], tokenizer=Corpus(task_run.corpus_folder / "train").tokenizer)
    effects = Effects(task, [0, 3], [0, 60], "ig", found, pl.DataFrame())
    order = np.random.default_rng(0).permutation(96)
    match = Match(order, np.arange(96), np.ones(96))
    moved = {place: csr_array(one.features[:, order]) for place, one in enumerate(found)}
    row = relie_beside(effects, moved, match, TASKS)
    assert row["features"] == row["matched"] > 50
    assert row["spearman"] == pytest.approx(1)
    assert row["same_band"] == 1
    wrong = relie_beside(effects, moved, Match(np.arange(96), np.arange(96), np.ones(96)), TASKS)
    assert abs(wrong["spearman"]) < 0.4
    assert relie_beside(effects, moved, Match(order, np.arange(96), np.full(96, 0.6)), TASKS)["matched"] == 0


def test_the_report_shows_tasks(task_run: Run) -> None:
    page = task_run.report_path.read_text(encoding="utf-8")
    for figure in ("accuracy", "effects", "ablation", "half_margin", "prediction", "turnover", "relie"):
        assert f'data-spec="{figure}"' in page
    assert re.search(r"At the last snapshot [12] of 2 tasks are learned beyond doubt: ", page)


def test_cards_tell_what_features_do_for_learned_tasks(task_run: Run) -> None:
    found = _leading_effects(task_run, list(range(96)))
    assert len(found) > 5
    learned = dict(task_run.table("tasks").filter("learned").group_by("task").agg(pl.col("step").max()).iter_rows())
    for feature, rows in found.items():
        assert [row["feature"] for row in rows] == [feature] * len(rows)
        assert len({row["task"] for row in rows}) == len(rows) <= 3
        for row in rows:
            assert row["step"] == learned[row["task"]]
            assert row["ci_low"] > 0 or row["ci_high"] < 0


def test_a_killed_stage_goes_on_where_it_was(task_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the third of eight effects, it makes the other five and all trials; the tables are the same."""
    folder = tmp_path / "run"
    shutil.copytree(task_run.folder, folder)
    shutil.rmtree(folder / "attribution")
    study = load_study(folder / "study.yaml")
    made: list[str] = []
    plain = Site.effects

    def counted(self: Site, *args: object, **kwargs: object) -> object:
        if kwargs.get("method") != "exact":
            made.append(self.task.name)
            if len(made) == 3:
                raise KeyboardInterrupt
        return plain(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Site, "effects", counted)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, out=folder, until="attribute", say=lambda line: None)
    run = run_study(study, out=folder, until="attribute", say=lambda line: None)
    compared = {step for steps in run.table("bands")["comparison"].unique() for step in steps.split("/")}
    assert len(made) == 3 + 6 + 2 * len(compared)  # the last are the other seed's
    for name in CAUSAL:
        assert run.table(name).equals(task_run.table(name)), name


@pytest.mark.parametrize("replacement", ["mean", "corrupted"])
def test_other_replacements(task_run: Run, tmp_path: Path, replacement: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(task_run.folder, folder)
    changes = {"replacement": replacement, "seeds": [], "exact_features": 6, "tasks": TASKS.tasks[:1], "steps": 32}
    study = load_study(folder / "study.yaml").model_copy(update={"attribution": TASKS.model_copy(update=changes)})
    run = run_study(study, out=folder, say=lambda line: None)
    kept = {path.name.split("-")[0] for path in (folder / "attribution" / "kept").iterdir()}
    assert kept == {"effects", "trials", "elsewhere"}
    assert len(list((folder / "attribution" / "kept").iterdir())) == 3 * len(run.steps)  # what was for others has gone
    gaps = run.table("completeness")
    assert gaps["gap_median"].max() < 0.02  # type: ignore[operator]
    assert (run.table("prediction").filter(snapshot=3)["spearman"] > 0.5).all()
    ends = task_run.table("completeness").filter(task="simple")["margin_end"]
    assert gaps["margin_end"].to_list() != pytest.approx(ends.to_list())
    if replacement == "corrupted":
        dropped = dict(run.table("task_dropped").select("reason", "pairs").iter_rows())
        assert dropped[UNALIGNED] > 0
        assert run.table("tasks")["items"].unique().item() > 10
    assert len(run.table("relie_seeds")) == 0


def test_tables_go_with_the_tasks(task_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(task_run.folder, folder)
    study = load_study(folder / "study.yaml").model_copy(update={"attribution": None})
    run = run_study(study, out=folder, say=lambda line: None)
    assert not (folder / "effects.parquet").exists()
    assert 'id="tasks"' not in run.report_path.read_text(encoding="utf-8")


def test_task_files_count_by_what_they_hold_wherever_they_lie(task_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(task_run.folder, folder)
    run = Run(folder)
    keys = []
    for place, text in (("here", "one"), ("there", "one"), ("there", "two")):
        file = tmp_path / place / "t.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        values = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
        values["attribution"] = {"tasks": [{"family": "sva", "files": str(file)}]}
        (folder / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        keys.append(STAGES["attribute"].key(run))
    assert keys[0] == keys[1] != keys[2]


def test_the_command_prints_tasks_and_asks_for_them(
    task_run: Run, small_run: Run, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = command("attribute", task_run.folder)
    assert code == 0
    code, said = command("attribute", small_run.folder)
    assert code == 2
    assert "names no tasks: add `attribution" in said[0]


def test_settings_of_tasks_are_read_from_yaml(tmp_path: Path, small_run: Run) -> None:
    values = yaml.safe_load((small_run.folder / "study.yaml").read_text(encoding="utf-8"))
    (tmp_path / "t.jsonl").write_text("{}", encoding="utf-8")
    values["attribution"] = {"tasks": [{"family": "sva", "files": "t.jsonl"}]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    study = load_study(path)
    assert study.attribution is not None
    assert study.attribution.tasks[0].patterns == [str(tmp_path / "t.jsonl")]
    assert study.attribution.tasks[0].title == "sva t"
    values["attribution"] = {"tasks": [{"family": "ioi"}], "comparisons": [[0, 11]]}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ConfigError, match="comparisons asks for step 11, which the study does not have: it has 0, 10"):
        run_study(path, out=tmp_path / "run")
    for changes, said in (
        ({"comparisons": [[10, 10]]}, "names a step twice"),
        ({"seeds": [0]}, "0 is the study's own seed"),
        ({"seeds": [1], "replacement": "mean"}, "leave out seeds, or replacement"),
    ):
        values["attribution"] = {"tasks": [{"family": "ioi"}], **changes}
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            load_study(path)
    values["attribution"] = {"tasks": [{"family": "sva", "files": "t.jsonl"}] * 2}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ConfigError, match="two tasks are called sva t: give each a `name`"):
        load_study(path)


def test_a_task_is_learned_where_its_accuracy_is_beyond_doubt() -> None:
    draw, clusters = np.random.default_rng(0), np.arange(200)
    good = np.where(draw.random(200) < 0.9, 1.0, -1.0)
    assert is_learned(good, clusters, above=0.5, snapshots=20)
    assert not is_learned(good, clusters, above=0.9, snapshots=20)
    chance = [is_learned(draw.standard_normal(200), clusters, above=0.5, snapshots=20) for _ in range(400)]
    assert np.mean(chance) <= 0.01
    # what never fails may still be chance
    assert not is_learned(np.ones(12), np.repeat(np.arange(3), 4), above=0.5, snapshots=20)
    assert not is_learned(np.ones(20), np.arange(20), above=0.9, snapshots=20)
    assert is_learned(np.ones(20), np.arange(20), above=0.5, snapshots=20)
    few = [is_learned(draw.standard_normal(6), np.arange(6), above=0.5, snapshots=20) for _ in range(2000)]
    assert np.mean(few) <= 0.0025
    # ten items that all say the same are one
    assert not is_learned(np.repeat(good[:6], 10), np.repeat(np.arange(6), 10), above=0.5, snapshots=20)


def test_halves_within_clusters_have_as_many_of_each() -> None:
    clusters = np.repeat([3, 5, 8, 9], [3, 3, 6, 1])
    first, second = within_clusters(clusters, seed=0)
    assert clusters[first].tolist() == clusters[second].tolist() == [3, 5, 8, 8, 8]
    assert not set(first) & set(second)
    assert len(within_clusters(np.arange(5), seed=0)[0]) == 0


def test_features_of_all_sizes_are_chosen() -> None:
    size = np.geomspace(1, 1e-6, 500)
    array = np.stack([np.r_[size, np.zeros(50)], np.zeros(550)])
    chosen = spread_features(array, 20)
    assert len(chosen) == 20
    assert chosen[0] == 0
    assert chosen[-1] == 499
    assert (np.diff(chosen) > 0).all()
    assert len(spread_features(array, 0)) == 0
    assert spread_features(np.zeros((2, 5)), 3).size == 0
