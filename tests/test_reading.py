"""What features are about: complexity, senses, strength as a proxy; and dictionaries beside single SAEs."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import pearsonr, spearmanr

from endpoint_server import Endpoint as Server
from ontogeny.config.analysis import AnalysesConfig, EndpointConfig
from ontogeny.config.study import load_study
from ontogeny.features.reading import (
    complexity_questions,
    marked_examples,
    mean_span,
    sense_entropy,
    sense_features,
    weighted_kappa,
)
from ontogeny.intervals import correlations
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.tables import TABLES

PARETO = {"pareto_features": [32, 96], "pareto_k": [4, 12], "pareto_tokens": 10_000}
NEW = ("complexity", "senses", "probes", "pareto")


def test_spans_by_hand() -> None:
    # sequences of four tokens; the second feature's run ends with its sequence, the third never fires
    codes = torch.tensor([[1.0, 1, 0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 1, 0], [0.0] * 8]).to_sparse().coalesce()
    span = mean_span(codes, np.asarray([0, 0, 0, 0, 1, 1, 1, 1]))
    assert span[0] == pytest.approx(1.5)  # 2 and 1
    assert span[1] == pytest.approx(4 / 3)  # 2, 1 and 1
    assert np.isnan(span[2])


def test_sense_entropy_by_hand() -> None:
    even = np.asarray([[1.0, 0], [0, 2], [3, 0], [0, 1], [0, 0]])
    assert sense_entropy(even) == pytest.approx(np.log(2))  # the last occurrence is told by none
    assert sense_entropy(even * [0, 1]) == 0
    assert np.isnan(sense_entropy(even * 0))


def test_features_that_tell_senses_are_active_on_some_occurrences() -> None:
    token = np.repeat([7, 8], 100)
    always, some, other, rare = (np.zeros(200) for _ in range(4))
    always[:] = 1
    some[:40], other[40:90], rare[0] = 1, 1, 1
    found = sense_features(csr_array(np.stack([always, some, other, rare], axis=1)), token, least=50)
    assert list(found) == [7]
    assert found[7][1].tolist() == [1, 2]
    assert not sense_features(csr_array(np.stack([some, other], axis=1)), token, least=101)


def test_kappa_is_that_of_the_confusion_table() -> None:
    draw = np.random.default_rng(0)
    one = draw.integers(1, 6, 200)
    other = np.clip(one + draw.integers(-1, 2, 200), 1, 5)
    assert weighted_kappa(one, other) == pytest.approx(_kappa_of_table(one, other))
    assert weighted_kappa(one, one) == 1
    assert abs(weighted_kappa(one, draw.permutation(one))) < 0.2
    assert np.isnan(weighted_kappa(np.full(4, 3), np.full(4, 3)))


def _kappa_of_table(one: np.ndarray, other: np.ndarray) -> float:
    """1 - Σ w O / Σ w E, w the squared distance, E from the margins."""
    table = np.zeros((5, 5))
    np.add.at(table, (one - 1, other - 1), 1)
    weight = np.square(np.subtract.outer(np.arange(5), np.arange(5)))
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    return 1 - (weight * table).sum() / (weight * expected).sum()


def test_correlations_are_scipys_and_the_adjusted_one_removes_a_common_cause() -> None:
    draw = np.random.default_rng(0)
    cause = draw.normal(size=400)
    one, other = cause + 0.5 * draw.normal(size=400), cause + 0.5 * draw.normal(size=400)
    found = correlations(one, other, given=cause, samples=300)
    assert found["pearson"].value == pytest.approx(pearsonr(one, other).statistic)
    assert found["spearman"].value == pytest.approx(spearmanr(one, other).statistic)
    assert found["spearman"].low < found["spearman"].value < found["spearman"].high
    assert found["pearson"].p < 1e-6
    # by regression of the ranks
    ranks = np.argsort(np.argsort([one, other, cause], axis=1), axis=1).astype(float)
    x, y = (row - np.polyval(np.polyfit(ranks[2], row, 1), ranks[2]) for row in ranks[:2])
    assert found["adjusted"].value == pytest.approx(pearsonr(x, y).statistic)
    assert found["adjusted"].low < 0 < found["adjusted"].high


def test_questions_name_every_level_in_two_wordings() -> None:
    first, second = complexity_questions(["a «cat» sat", "two «cats»"])
    assert first.messages[0]["content"] != second.messages[0]["content"]
    for question in (first, second):
        assert "diverse contexts under one theme" in question.messages[0]["content"]
        assert question.messages[1]["content"] == "1. a «cat» sat\n2. two «cats»"
    good = {"complexity": 3, "consistency": 5, "description": "cats", "interpretability": 1, "languages": []}
    assert first.read(json.dumps(good)).complexity == second.read(json.dumps(good)).complexity == 3
    for wrong in ({"complexity": 6}, {"consistency": True}, {"interpretability": 2}, {"languages": "en"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            first.read(json.dumps(good | wrong))


@pytest.fixture(scope="module")
def read_run(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small study with what is new here, its complexity scored by a scripted model: 1 + a digit of the prompt."""

    def script(number: int, messages: list[dict[str, str]]) -> str:
        level = 1 + len(messages[1]["content"]) % 5
        described = {"description": "scripted", "interpretability": 0.5, "languages": ["en"]}
        return json.dumps({"complexity": level, "consistency": 3, **described})

    server = Server(script)
    folder = tmp_path_factory.mktemp("read") / "run"
    shutil.copytree(small_run.folder, folder)
    study = load_study(folder / "study.yaml")
    endpoint = EndpointConfig(url=server.url, model="scripted", key_variable=None, options={"max_tokens": 50})
    analysis = study.analysis.model_copy(
        update={
            "endpoint": endpoint,
            "scored_features": 20,
            "single_sae_steps": [0, 60],
            **PARETO,
        }
    )
    study = study.model_copy(update={"analyses": [*study.analyses, *NEW], "analysis": analysis})
    run = run_study(study, out=folder, say=lambda line: None)
    server.shutdown()
    server.server_close()
    return run


def test_complexity_has_proxies_for_all_and_scores_for_some(read_run: Run) -> None:
    table = read_run.table("complexity")
    assert len(table) == len(read_run.features.filter(~pl.col("dead")))
    assert table["score"].is_not_null().sum() == 20
    scored = table.drop_nulls("score")
    assert (scored["first"] == scored["second"]).all()
    assert set(scored["description"]) == {"scripted"}
    known = table.drop_nulls("words")
    assert (known["words"] >= 1 - 1e-9).all()
    assert (table.drop_nulls("span")["span"] >= 1).all()
    agreement = read_run.table("complexity_agreement").row(0, named=True)
    assert (agreement["asked"], agreement["scored"], agreement["kappa"]) == (20, 20, 1)
    assert agreement["tokens"] > 0
    births = read_run.table("complexity_births")
    row = births.row(by_predicate=(pl.col("measure") == "words") & (pl.col("group") == "living"), named=True)
    known = table.drop_nulls(["words", "density"])
    assert row["features"] == len(known)
    if known["birth_step"].n_unique() > 1:
        assert row["spearman"] == pytest.approx(spearmanr(known["words"], known["birth_step"]).statistic)


def test_passages_mark_what_is_active_at_the_last_snapshot(read_run: Run) -> None:
    features = read_run.features.filter(~pl.col("dead"))["feature"].head(5).to_list()
    for passages in marked_examples(read_run, features, count=6).values():
        assert 1 <= len(passages) <= 6
        assert all("«" in passage and "\n" not in passage for passage in passages)
        assert len(set(passages)) == len(passages)


def test_a_change_of_the_endpoint_repeats_what_asks_it_alone(read_run: Run) -> None:
    study = read_run.study
    before = {path.name: path.stat().st_mtime_ns for path in (read_run.folder / "analyses").iterdir()}
    analysis = read_run.study.analysis.model_copy(update={"endpoint": None})
    run = run_study(
        read_run.study.model_copy(update={"analysis": analysis}),
        out=read_run.folder,
        until="analyse",
        say=lambda line: None,
    )
    after = {path.name: path.stat().st_mtime_ns for path in (run.folder / "analyses").iterdir()}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"complexity.parquet", "complexity_births.parquet", "complexity_agreement.parquet"}
    assert not len(run.table("complexity_agreement"))
    run_study(study, out=read_run.folder, say=lambda line: None)


def test_senses_are_of_sampled_tokens(read_run: Run) -> None:
    table = read_run.table("token_senses")
    for _, rows in table.group_by("token"):
        assert rows["snapshot"].to_list() == list(range(len(read_run.steps)))
    known = table.drop_nulls("entropy")
    assert (known["entropy"] >= 0).all()
    assert (known["senses"] <= known["features"] + 1e-9).all()
    senses = read_run.table("senses")
    if len(senses):
        last = senses.row(-1, named=True)
        assert last["change_to_last"] == 0
        assert last["entropy_ci_low"] <= last["entropy"] <= last["entropy_ci_high"]


def test_the_proxy_is_spearmans_over_all_pairs(read_run: Run) -> None:
    from ontogeny.analyses.proxy import pairs

    table = read_run.table("proxy")
    assert table["measure"].to_list() == ["auc", "auc_above_token", "strength_refit"]
    found = pairs(read_run)
    assert set(found["feature"]) <= set(read_run.features.filter(~pl.col("dead"))["feature"])
    for row in table.iter_rows(named=True):
        own = found.drop_nulls([row["measure"]])
        assert row["spearman"] == pytest.approx(spearmanr(own["strength_relative"], own[row["measure"]]).statistic)
        assert row["spearman_ci_low"] <= row["spearman"] <= row["spearman_ci_high"]
    own = read_run.table("proxies").drop_nulls("auc").row(0, named=True)
    rows = found.filter(feature=own["feature"])
    if len(rows) > 3:
        assert own["auc"] == pytest.approx(spearmanr(rows["strength"], rows["auc"]).statistic)


def test_every_size_and_sparsity_is_held_against_saes_on_the_same_tokens(read_run: Run) -> None:
    table = read_run.table("pareto")
    assert len(table) == 2 * 2 * 2 * 2
    assert table["tokens"].n_unique() == 1
    assert table.schema == {name: column.dtype for name, column in TABLES["pareto"].items()}
    # more active features explain more, SAE or crosscoder, at each size and snapshot
    for _, rows in table.group_by("kind", "features", "snapshot"):
        rows = rows.sort("k")
        assert rows["explained_variance"][-1] > rows["explained_variance"][0]
        assert rows["l0"].is_sorted()
    kept = {path.name for path in (read_run.folder / "variants").iterdir()}
    assert {"pareto-32-4", "pareto-96-12-step0"} <= kept


def test_the_report_shows_them(read_run: Run) -> None:
    page = Path(read_run.report_path).read_text(encoding="utf-8")
    for words in ("How complex features are", "Is strength a good proxy?", 'data-spec="pareto"', "weighted κ of 1.00"):
        assert words in page


def test_settings_of_dictionaries_to_compare_have_defaults_from_the_study(small_run: Run) -> None:
    study = small_run.study.model_copy(update={"analysis": AnalysesConfig()})
    assert study.pareto.features == [48, 96, 192]
    assert study.pareto.k == [4, 8, 16, 32]
    assert study.pareto.steps == 60_000 // 5 // 512
