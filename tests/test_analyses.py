"""Analyses against slow references and known answers."""

import shutil
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ontogeny.activations.harvest import harvester_of
from ontogeny.analyses.lineage import lineage, partings
from ontogeny.analyses.ngrams import fit_ngrams, token_pairs
from ontogeny.analyses.phases import _read, _sequences, phases
from ontogeny.analyses.probes import probes
from ontogeny.analyses.turning_point import turning_point
from ontogeny.config.corpus import CorpusConfig
from ontogeny.corpus.pack import Corpus, pack_documents
from ontogeny.corpus.readers import Document
from ontogeny.corpus.tokenizer import train_tokenizer
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.features.codes import stored_codes
from ontogeny.features.kinship import code_correlations, kin_of_births
from ontogeny.features.life import life_history
from ontogeny.intervals import bootstrap_difference, bootstrap_mean, wilson_count
from ontogeny.models.load import load_snapshot
from ontogeny.run import Run
from ontogeny.suites.suite import Snapshot, open_suite, suite_of


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcde fgh"), 60)) for _ in range(30)]
    folder = tmp_path_factory.mktemp("ngrams")
    config = CorpusConfig(files="unused", sequence_length=20, min_tokens=4)
    tokenizer = train_tokenizer(texts, vocab_size=270)
    pack_documents(
        (Document(str(i), "s", t) for i, t in enumerate(texts)), folder / "c", tokenizer=tokenizer, config=config
    )
    return Corpus(folder / "c")


def pairs_of(corpus: Corpus) -> list[tuple[int, int]]:
    return [
        (int(corpus.tokens[s, p - 1]), int(corpus.tokens[s, p]))
        for s in range(len(corpus))
        for p in range(1, corpus.lengths[s])
    ]


def test_kneser_ney_is_what_its_formula_gives(corpus: Corpus) -> None:
    ngrams, vocabulary = fit_ngrams(corpus), corpus.manifest["vocab_size"]
    pairs = Counter(pairs_of(corpus))

    def discount(counts: list[int]) -> float:
        once, twice = counts.count(1), counts.count(2)
        return min(max(once / max(once + 2 * twice, 1), 0.1), 0.9)

    d = discount(list(pairs.values()))
    before = Counter(v for _, v in pairs)
    d_low = discount(list(before.values()))
    for u, v in [(0, 70), *list(pairs)[:25], (5, 5), (vocabulary - 1, 3)]:
        total = sum(count for (a, _), count in pairs.items() if a == u)
        kinds = sum(a == u for a, _ in pairs)
        low = max(before[v] - d_low, 0) / len(pairs) + d_low * len(before) / len(pairs) / vocabulary
        expected = low if total == 0 else (max(pairs[u, v] - d, 0) + d * kinds * low) / total
        assert ngrams.bigram(np.array([u]), np.array([v]))[0] == pytest.approx(expected)


def test_ngram_probabilities_sum_to_one_and_rows_agree_with_pairs(corpus: Corpus) -> None:
    ngrams, vocabulary = fit_ngrams(corpus), corpus.manifest["vocab_size"]
    assert ngrams.unigram.sum() == pytest.approx(1)
    rows = ngrams.bigram_rows(np.arange(vocabulary))
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    current, following = token_pairs(corpus, np.arange(len(corpus)))
    assert list(zip(current.tolist(), following.tolist(), strict=True)) == pairs_of(corpus)
    np.testing.assert_allclose(rows[current, following], ngrams.bigram(current, following), rtol=1e-4)


def test_bootstrap_of_clusters_is_wider_than_of_independent_units() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 10)
    values = rng.normal(size=40)[clusters] + 0.1 * rng.normal(size=400)
    clustered = bootstrap_mean(values, np.ones(400), clusters, samples=2000, seed=0)
    independent = bootstrap_mean(values, np.ones(400), np.arange(400), samples=2000, seed=0)
    assert clustered[0] < values.mean() < clustered[1]
    assert clustered[1] - clustered[0] > 2 * (independent[1] - independent[0])
    spread = values.std() / 20
    assert independent[1] - independent[0] == pytest.approx(2 * 1.96 * spread, rel=0.1)


@pytest.mark.parametrize("documents", [5, 10, 20, 60])
def test_intervals_of_few_documents_hold_the_mean_as_often_as_they_say(documents: int) -> None:
    draw, inside = np.random.default_rng(documents), []
    for _ in range(400):
        counts = draw.integers(20, 200, documents)
        means = draw.standard_normal(documents)
        low, high = bootstrap_mean(means * counts, counts, np.arange(documents), samples=400, seed=0)
        inside.append(low <= 0 <= high)
    assert 0.91 <= np.mean(inside) <= 0.985


def test_too_few_documents_have_no_interval() -> None:
    assert np.isnan(bootstrap_mean(np.ones(8), np.ones(8), np.arange(8) % 4, samples=10, seed=0)).all()


@pytest.mark.parametrize("sizes", [(5, 5), (5, 400), (12, 20), (60, 90)])
def test_a_difference_of_means_is_held_as_often_as_it_should(sizes: tuple[int, int]) -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        one, other = rng.normal(3, 1, sizes[0]), rng.normal(1, 4, sizes[1])
        low, high = bootstrap_difference(one, other, samples=300, seed=1)
        held.append(low < 2 < high)
    assert 0.92 < np.mean(held) < 0.98


def test_a_difference_of_few_has_no_interval() -> None:
    assert np.isnan(bootstrap_difference(np.array([10.0] * 4), np.arange(50.0), samples=10, seed=0)).all()
    assert bootstrap_difference(np.full(6, 2.0), np.full(7, 1.0), samples=10, seed=0) == (1.0, 1.0)


def test_phases_measure_the_models_loss_and_both_divergences(small_run: Run) -> None:
    table = small_run.analysis("phases")
    assert table["step"].to_list() == [0, 10, 25, 60]
    assert (table["loss_ci_low"] < table["loss"]).all()
    assert (table["loss"] < table["loss_ci_high"]).all()
    assert table["bigram"][0] < table["unigram"][0] < table["loss"][0]
    for bound in ("unigram", "bigram"):
        gap = table["loss"] - table[bound]
        assert ((table[f"above_{bound}_ci_low"] < gap) & (gap < table[f"above_{bound}_ci_high"])).all()
    for name in ("kl_model_unigram", "kl_unigram_model", "kl_model_bigram", "kl_bigram_model"):
        assert (table[name] > 0).all()
    corpus = Corpus(small_run.corpus_folder / "held_out")
    model = load_snapshot(suite_of(small_run).snapshots[-1])
    total, count = 0.0, 0
    settings = small_run.study.analysis
    for sequence in _sequences(corpus, settings.phase_tokens, settings.seed):
        ids = torch.from_numpy(corpus.tokens[[sequence], : corpus.lengths[sequence]].astype(np.int64))
        logits = model(ids).logits
        total += float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    assert table["loss"][-1] == pytest.approx(total / count, rel=1e-4)
    assert table["tokens"][-1] == count


def test_phases_read_each_snapshot_once(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(shutil.copytree(small_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("phases")))
    steps = []

    def counted(snapshot: Snapshot, *given: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        steps.append(snapshot.step)
        return _read(snapshot, *given, **options)

    monkeypatch.setattr(sys.modules[phases.__module__], "_read", counted)
    first = phases(run)
    assert first.equals(small_run.analysis("phases"))
    shutil.rmtree(run.folder / "phases" / "step25")
    assert phases(run).equals(first)
    assert steps == [0, 10, 25, 60, 25]
    (run.folder / "phases" / "step10" / "key").write_text("of other tokens", encoding="utf-8")
    assert phases(run).equals(first)
    assert steps == [0, 10, 25, 60, 25, 10]


def test_emergence_counts_agree_with_the_features_table(small_run: Run) -> None:
    every, features = small_run.analysis("emergence"), small_run.features
    assert every["alive_threshold"].unique().to_list() == [0.3, 0.5, 0.7]
    table = every.filter(pl.col("alive_threshold") == 0.5)
    living = features.filter(~pl.col("dead"))
    assert table["births"].sum() == len(living)
    assert table["births"][0] == (living["origin"] == "initial").sum()
    assert table["deaths"].sum() == living["death_step"].is_not_null().sum()
    alive_at_the_end = living["death_step"].is_null().sum()
    assert table["alive"][-1] == alive_at_the_end
    assert table["born_share"][-1] == 1
    assert ((every["births_ci_low"] <= every["births"]) & (every["births"] <= every["births_ci_high"])).all()
    # a lower threshold is passed no later
    shares = every.pivot("alive_threshold", index="step", values="born_share").sort("step")
    assert (shares["0.3"] >= shares["0.7"]).all()


def test_births_by_kind_add_up_to_the_living_features(small_run: Run) -> None:
    table, features = small_run.analysis("births"), small_run.features
    living = features.filter(~pl.col("dead"))
    at = table.filter(pl.col("alive_threshold") == 0.5)
    for rows in (at.filter(pl.col("birth_step").is_null()), at.filter(pl.col("birth_step").is_not_null())):
        assert rows["features"].sum() == len(living)
    for (origin, fate), rows in living.group_by("origin", "fate"):
        row = at.filter(pl.col("origin") == origin, pl.col("fate") == fate, pl.col("birth_step").is_null())
        assert row["features"].to_list() == [len(rows)]
        assert row["ci_low"][0] < len(rows) < row["ci_high"][0] or len(rows) == len(living)


def test_wilson_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for share in (0.005, 0.05, 0.5):
        counts = rng.binomial(400, share, size=2000)
        covered = [low <= 400 * share <= high for low, high in (wilson_count(int(count), 400) for count in counts)]
        assert np.mean(covered) > 0.93
    assert wilson_count(0, 400)[0] == 0 < wilson_count(0, 400)[1] < 5


def test_code_correlations_are_those_of_the_dense_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.relu(torch.randn(30, 500, generator=generator) - 1)
    dense[7] = 0
    dense[8] = dense[9] * 2
    found = code_correlations(dense.to_sparse(), np.array([3, 7, 9]), dense.to_sparse(), tokens=500)
    expected = np.nan_to_num(np.corrcoef(np.delete(dense.double().numpy(), 7, 0)))
    np.testing.assert_allclose(np.delete(found[0], 7), expected[3], atol=1e-6)
    assert not found[1].any()
    assert found[2, 8] == pytest.approx(1)
    other = torch.relu(dense + torch.randn(30, 500, generator=generator))
    crossed = code_correlations(dense.to_sparse(), np.array([3]), other.to_sparse(), tokens=500)
    np.testing.assert_allclose(crossed[0, 5], np.corrcoef(dense[3].numpy(), other[5].numpy())[0, 1], atol=1e-6)


def test_kin_of_a_series_are_told_by_the_codes_at_the_birth() -> None:
    # 0 says what 2 will say until 2 is born, and falls silent; 1 is active elsewhere all the time
    tokens, n = 400, 4
    says, elsewhere = (np.arange(tokens) % 8 == which for which in (0, 1))
    active = np.zeros((n, 3, tokens), dtype=np.float32)
    active[:, 1], active[:2, 0], active[1:, 2] = elsewhere, says, says
    W_dec = torch.eye(3)[None].repeat(n, 1, 1)
    W_dec[:, 2] = 0.8 * W_dec[:, 0] + 0.6 * W_dec[:, 2]
    relative = np.ones((n, 3))
    relative[2:, 0], relative[0, 2] = 0.01, 0.0
    codes = [torch.from_numpy(one).to_sparse() for one in active]
    birth = np.array([0, 0, 1])
    kin = list(
        kin_of_births(W_dec, codes.__getitem__, tokens=tokens, relative=relative, birth=birth, kin_threshold=0.4)
    )
    assert [(one.feature, one.parent, one.label) for one in kin] == [(2, 0, "handover")]
    assert kin[0].code_correlation == pytest.approx(1)
    # with the codes of the end, where the parent is silent, it would be new
    at_end = kin_of_births(
        W_dec, lambda _: codes[-1], tokens=tokens, relative=relative, birth=birth, kin_threshold=0.45
    )
    assert next(iter(at_end)).label == "novel"


def test_a_newborn_feature_finds_the_one_it_split_from_or_took_over_from(small_run: Run) -> None:
    rng = np.random.default_rng(0)
    n_features, n = 12, len(small_run.steps)
    unit = np.eye(n_features, 32, dtype=np.float32)
    # 0 lives on, 1 and 5 fade; 2 is like 0, 3 like 1 and 6 like 5, gone when 6 is born; 4 is like none; 7 to 10 live on
    relative = np.ones((n, n_features), dtype=np.float32)
    relative[2:, 1] = 0.1
    relative[2:, 5] = 0
    relative[:1, 2] = relative[:1, 3] = relative[:2, 4] = relative[:2, 6] = 0
    unit[2] = 0.8 * unit[0] + 0.6 * unit[2]
    unit[3] = 0.8 * unit[1] + 0.6 * unit[3]
    unit[6] = 0.8 * unit[5] + 0.6 * unit[6]
    active = rng.random((n_features, 2500)) < 0.1
    active[2] = active[0] & (rng.random(2500) < 0.8)
    active[3] = active[1]
    active[6] = active[5]
    run = stand_in(small_run, unit * relative[..., None], relative, active)
    table = lineage(run)
    assert table["feature"].to_list() == [2, 3, 4, 6]
    assert table["label"].to_list() == ["split", "handover", "novel", "handover"]
    assert table["parent"].to_list()[:2] == [0, 1]
    assert table["parent"][3] == 5
    assert table["cosine"].gather([0, 1, 3]).to_list() == pytest.approx([0.8, 0.8, 0.8], abs=1e-5)
    assert table["code_correlation"][1] == pytest.approx(1, abs=1e-5)
    assert table["birth_step"].to_list() == [10, 10, 25, 25]
    assert table["lost"].gather([0, 3]).to_list() == [0, 0]


def test_a_parent_that_turns_into_the_newborn_hands_over_and_a_copy_does_not() -> None:
    n, tokens = 4, 2000
    directions = np.repeat(np.eye(6, 16, dtype=np.float32)[None], n, 0)
    # 0 turns into 3 when that is born, 1 has 4's direction all the time, 2 keeps its own
    directions[:, 3] = 0.5 * directions[:, 0] + 0.8 * directions[:, 3]
    directions[2:, 0] = -directions[2:, 3]
    directions[:, 4] = directions[:, 1]
    directions[:, 5] = 0.5 * directions[:, 2] + 0.8 * directions[:, 5]
    active = np.random.default_rng(0).random((3, tokens)) < 0.1
    codes = torch.from_numpy(np.concatenate([active, active]).astype(np.float32)).to_sparse()
    relative = np.ones((n, 6), dtype=np.float32)
    relative[:2, 3:] = 0
    kin = kin_of_births(
        torch.from_numpy(directions * relative[..., None]),
        lambda _: codes,
        tokens=tokens,
        relative=relative,
        birth=np.array([0, 0, 0, 2, 2, 2]),
        kin_threshold=0.4,
    )
    assert [(one.parent, one.label) for one in kin] == [(0, "handover"), (1, "split"), (2, "split")]


def test_what_was_one_direction_and_became_two_is_a_split_or_an_absorption(small_run: Run) -> None:
    n_features, n, tokens = 9, len(small_run.steps), 2500
    unit = np.repeat(np.eye(n_features, 32, dtype=np.float32)[None], n, 0)
    # 0 and 1 are one until 1 adds to it, 2 and 3 until 3 becomes another; 4 and 5 stay one; 6 and 7 never were
    unit[:, 1] = unit[:, 0] + (np.arange(n) >= 2)[:, None] * 1.2 * unit[:, 1]
    unit[:, 3] = np.where((np.arange(n) < 3)[:, None], unit[:, 2], 0.3 * unit[:, 2] + unit[:, 3])
    unit[:, 5] = unit[:, 4]
    active = np.zeros((n_features, tokens), dtype=bool)
    active[:8] = np.arange(tokens) % 16 == np.arange(8)[:, None]
    run = stand_in(small_run, unit, np.ones((n, n_features), dtype=np.float32), active)
    table = partings(run)
    assert table.select("feature", "other", "step", "label").rows() == [
        (1, 0, run.steps[2], "split"),
        (3, 2, run.steps[3], "absorption"),
    ]
    assert table["lost"].to_list() == pytest.approx([0, 0.5], abs=0.02)
    assert table["cosine_before"].to_list() == pytest.approx([1, 1], abs=1e-5)


def stand_in(
    run: Run, directions: np.ndarray, relative: np.ndarray, active: np.ndarray, *, steps: list[int] | None = None
) -> Run:
    """A run with the corpus of `run` and given directions [snapshot, feature, d_model], strengths and codes; its last
    feature is dead."""
    n_features = directions.shape[1]
    dead = np.array([i == n_features - 1 for i in range(n_features)])
    life = life_history(relative, steps or run.steps, dead=dead)
    feature, token = active.nonzero()
    lengths = Corpus(run.corpus_folder / "held_out").lengths
    sequence = np.repeat(np.arange(len(lengths)), lengths - 1)[token]
    position = np.concatenate([np.arange(1, length) for length in lengths])[token]
    codes = {"sequence": sequence, "position": position, "feature": feature, "code": np.ones(len(token), np.float32)}
    held = {"features": life, "codes": pl.DataFrame(codes).with_columns(snapshot=pl.lit(None, pl.Int16))}
    other = Run(run.folder)
    study = run.study.model_copy(
        update={"analysis": run.study.analysis.model_copy(update={"independent_start": False})}
    )
    other.__class__ = type("StandIn", (Run,), {"steps": steps or run.steps, "study": study})
    dictionary = SimpleNamespace(W_dec=torch.from_numpy(directions))
    other.scan = lambda name: held[name].lazy()  # type: ignore[method-assign]
    other.matrix = lambda column: relative  # type: ignore[method-assign]
    other.dictionary = lambda: dictionary  # type: ignore[method-assign,return-value]
    return other


def test_cosines_are_the_mean_over_living_directions(small_run: Run) -> None:
    table = small_run.analysis("cosines")
    directions = small_run.dictionary().W_dec.numpy()
    dead = small_run.features.sort("feature")["dead"].to_numpy()
    strength = np.linalg.norm(directions, axis=2)
    alive = (strength >= 0.5 * strength.max(0)) & ~dead
    assert len(table) == 10
    for row in table.iter_rows(named=True):
        a, b = row["snapshot_a"], row["snapshot_b"]
        both = np.flatnonzero(alive[a] & alive[b])
        cosines = [directions[a, f] @ directions[b, f] / (strength[a, f] * strength[b, f]) for f in both]
        assert row["features"] == len(both)
        assert row["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
        assert row["cosine_ci_low"] - 1e-6 <= row["cosine"] <= row["cosine_ci_high"] + 1e-6


def test_drift_is_the_angle_by_which_living_directions_turn_over_the_interval(small_run: Run) -> None:
    table = small_run.analysis("drift")
    assert table["variant"].unique(maintain_order=True).to_list() == ["all", "thinned", "independent"]
    assert table.filter(pl.col("variant") == "thinned")["step_a"].to_list() == [10]
    directions, strength = small_run.dictionary().W_dec.double(), small_run.matrix("strength_relative")
    dead = small_run.features.sort("feature")["dead"].to_numpy()
    for row, (a, b) in zip(
        table.filter(pl.col("variant") == "all").iter_rows(named=True), pairwise(range(4)), strict=True
    ):
        both = np.flatnonzero((strength[a] >= 0.5) & (strength[b] >= 0.5) & ~dead)
        cosine = torch.nn.functional.cosine_similarity(directions[a, both], directions[b, both])
        assert row["angle"] == pytest.approx(float(cosine.clamp(-1, 1).acos().mul(180 / np.pi).mean()), rel=1e-4)
        log_steps = np.log2((1 + row["step_b"]) / (1 + row["step_a"]))
        assert row["per_log_step"] == pytest.approx(row["angle"] / log_steps)
        assert row["per_thousand_steps"] == pytest.approx(1000 * row["angle"] / (row["step_b"] - row["step_a"]))
        assert row["angle_ci_low"] < row["angle"] < row["angle_ci_high"]
    independent = table.filter(pl.col("variant") == "independent")
    assert (independent["angle"] > table.filter(pl.col("variant") == "all")["angle"]).any()
    found = small_run.analysis("turning_point")
    assert found["intervals"].to_list() == [3, 1, 3]
    assert found["step"].null_count() == 3


def test_a_break_in_how_fast_directions_turn_is_found_at_its_snapshot(small_run: Run) -> None:
    steps = [0, *(2**power for power in range(20))]
    rates = np.where(np.arange(20) < 11, 16.0, 2.0) * np.exp(0.02 * np.random.default_rng(0).standard_normal(20))
    angle = np.radians(np.concatenate([[0], np.cumsum(rates)]))
    directions = np.zeros((21, 4, 32), dtype=np.float32)
    directions[:, :, 0], directions[:, :, 1] = np.cos(angle)[:, None], np.sin(angle)[:, None]
    run = stand_in(small_run, directions, np.ones((21, 4), dtype=np.float32), np.ones((4, 1), dtype=bool), steps=steps)
    row = turning_point(run).row(0, named=True)
    assert row["step"] == steps[11]
    assert row["step_ci_low"] <= steps[11] <= row["step_ci_high"]
    assert row["p_value"] < 0.02
    assert row["shift"] == pytest.approx(-3, abs=0.2)


@pytest.mark.shared
def test_the_reference_suites_losses_are_what_its_readme_says(shared: Path, tmp_path: Path) -> None:
    suite = open_suite(shared / "suites" / "english-neox", steps=[0, 5000])
    config = CorpusConfig(
        files="unused", sequence_length=256,
    )  # fmt: skip
    from ontogeny.corpus.readers import Documents

    documents = Documents([str(shared / "data" / "corpus" / "valid" / "*.jsonl.xz")])
    pack_documents(documents, tmp_path / "valid", tokenizer=suite.tokenizer(), config=config)
    corpus = Corpus(tmp_path / "valid")
    losses = []
    for snapshot in suite.snapshots:
        model = load_snapshot(snapshot)
        ids = torch.from_numpy(corpus.tokens[:64].astype(np.int64))
        inside = torch.arange(1, 256) < torch.from_numpy(corpus.lengths[:64])[:, None]
        logits = model(ids).logits[:, :-1][inside]
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[:, 1:][inside])))
    assert losses[0] == pytest.approx(8.33, abs=0.05)
    assert losses[1] == pytest.approx(3.83, abs=0.15)


def test_stored_codes_are_the_dictionarys(small_run: Run) -> None:
    stored, corpus = stored_codes(small_run), Corpus(small_run.corpus_folder / "held_out")
    harvester, crosscoder = harvester_of(small_run), small_run.dictionary()
    assert isinstance(crosscoder, Crosscoder)
    start = 0
    for sequence in stored.sequences[:5]:
        length = int(corpus.lengths[sequence])
        tokens = torch.from_numpy(corpus.tokens[sequence, :length].astype(np.int64))[None]
        x = torch.stack([harvester.read(snapshot, tokens)[0, 1:] for snapshot in range(4)], dim=1)
        code = crosscoder.encode(x * crosscoder.norm_scale[:, None])
        own = stored.codes.to_dense()[:, start : start + length - 1].T
        torch.testing.assert_close(own, code, atol=1e-3, rtol=1e-3)
        assert stored.token[start : start + length - 1].tolist() == tokens[0, 1:].tolist()
        start += length - 1


def test_probes_know_of_a_feature_what_its_snapshot_knows(small_run: Run) -> None:
    table = probes(small_run)
    assert len(table) == len(small_run.trajectories)
    by_hand = table.filter(pl.col("snapshot") == 3, pl.col("positives") >= 20).sort("positives", descending=True)
    stored, crosscoder, harvester = stored_codes(small_run), small_run.dictionary(), harvester_of(small_run)
    corpus = Corpus(small_run.corpus_folder / "held_out")
    read = []
    for sequence in stored.sequences:
        length = int(corpus.lengths[sequence])
        tokens = torch.from_numpy(corpus.tokens[sequence, :length].astype(np.int64))[None]
        read.append(harvester.read(3, tokens)[0, 1:])
    number = np.repeat(np.arange(len(read)), [len(one) for one in read])
    x = torch.cat(read)[torch.from_numpy(number % 2 == 1)] * crosscoder.norm_scale[3]
    feature = by_hand["feature"][0]
    active = (stored.codes[feature].to_dense() > 0)[torch.from_numpy(number % 2 == 1)]
    score = x @ crosscoder.W_enc[3][:, feature]
    pairs = score[active][:, None] - score[~active]
    assert by_hand["auc_own"][0] == pytest.approx(float((pairs > 0).float().mean()), abs=1e-4)
    assert by_hand["positives"][0] == int(active.sum())
    assert by_hand["auc"].mean() > 0.85
    known = table.filter(pl.col("positives") >= 20)
    assert known["auc"].is_between(0, 1).all()
    assert known.group_by("feature").agg(pl.col("auc_token").n_unique())["auc_token"].max() == 1
