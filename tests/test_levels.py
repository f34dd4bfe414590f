"""Levels, patterns and formed steps: by hand, against brute force, and planted by construction."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from ontogeny import tables
from ontogeny.analyses.formation import collapsed, formation, progress, similarity
from ontogeny.analyses.formed import formed, pattern_of, patterns
from ontogeny.analyses.levels import levels
from ontogeny.config.analysis import AnalysesConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.features.codes import StoredCodes, code_correlations, stored_codes
from ontogeny.features.formation import set_cosines
from ontogeny.features.levels import (
    Kinds,
    RandomContexts,
    _leading_along,
    against_random_directions,
    composition,
    level_of_kinds,
    significant,
)
from ontogeny.features.levels import levels as levels_of
from ontogeny.features.sample import contexts_of, leading_tokens, stems_of, stored_activations, words_of
from ontogeny.run import Run

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
N, LENGTH, SEQUENCES, WIDTH = len(STEPS), 64, 300, 128


def test_composition_by_hand() -> None:
    leading = np.array([[0, 1, 2, 3], [4, 5, -1, -1], [-1, -1, -1, -1]])
    token, word, stem = np.array([7, 7, 7, 8, 1, 2]), np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 0, 3, 3])
    found = composition(leading, Kinds(token, word, stem, token))
    assert found.token[:2] == pytest.approx([0.75, 0.5])
    assert found.word[:2] == pytest.approx([1, 0.5])
    assert found.stem[:2] == pytest.approx([1, 1])
    assert found.effective[:2] == pytest.approx([1, 2])
    assert np.isnan([found.token[2], found.word[2], found.stem[2], found.effective[2]]).all()
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    both = composition(leading[:1], Kinds(token, token, token, token))
    assert both.effective[0] == pytest.approx(np.exp(entropy))


def test_false_discoveries_by_hand() -> None:
    assert significant(np.array([0.001, 0.02, 0.03, 0.5])).tolist() == [True, True, True, False]
    assert significant(np.array([0.04, 0.05, 0.9, 0.8])).tolist() == [False] * 4
    rng = np.random.default_rng(0)
    false = [significant(rng.random(200)).any() for _ in range(400)]
    assert np.mean(false) < 0.09


def test_leading_tokens_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    dense = np.where(rng.random((6, 400)) < 0.2, rng.random((6, 400)), 0)
    sequence, context = np.arange(400) // 20, rng.integers(0, 60, 400)
    dense[5] = rng.random(400) + np.where(sequence < 2, 2.0, 0.0)  # its first forty stand in two sequences
    dense[4] = np.where(np.arange(400) % 20 == 0, 2.0, dense[4])
    context[::20] = 7  # the best of every sequence is a copy of one context
    found = leading_tokens(torch.from_numpy(dense).to_sparse(), sequence=sequence, context=context, ranks=8)
    for feature in range(6):
        kept: list[int] = []
        for token in np.argsort(-dense[feature], kind="stable").tolist():
            taken = {sequence[one] for one in kept}, {context[one] for one in kept}
            if dense[feature, token] > 0 and sequence[token] not in taken[0] and context[token] not in taken[1]:
                kept.append(token)
        assert found[feature].tolist() == kept[:8] + [-1] * (8 - len(kept[:8]))
    assert (found[4] >= 0).all()


def test_code_correlations_are_those_of_dense_codes() -> None:
    rng = np.random.default_rng(2)
    a, b = (np.where(rng.random((5, 300)) < 0.3, rng.random((5, 300)), 0) for _ in range(2))
    b[1], b[2] = a[1] * 2, 0
    found = code_correlations(*(torch.from_numpy(one).to_sparse().coalesce() for one in (a, b)))
    assert found[[0, 3, 4]] == pytest.approx([np.corrcoef(a[i], b[i])[0, 1] for i in (0, 3, 4)])
    assert found[1] == pytest.approx(1)
    assert np.isnan(found[2])


def test_contexts_and_words_of_real_text(small_run: Run) -> None:
    stored, corpus = stored_codes(small_run), Corpus(small_run.corpus_folder / "held_out")
    context = contexts_of(stored)
    for a, b in ((30, 31), (5, 700)):
        assert context[a] != context[b]
    for number, count in Counter(context.tolist()).most_common(3):
        same = np.flatnonzero(context == number)
        texts = set()
        for token in same:
            before = [t for t in range(max(0, token - 7), token + 1) if stored.sequence[t] == stored.sequence[token]]
            texts.add(tuple(stored.token[before]))
        assert len(texts) == 1
        assert count == len(same)
    words, word = words_of(stored, corpus, corpus.tokenizer)
    for sequence in (0, 3):
        at = np.flatnonzero(stored.sequence == sequence)
        text = str(corpus.tokenizer.decode(stored.token[at]))
        runs = [words[word[first]] for first in at if first == at[0] or word[first] != word[first - 1]]
        assert "".join("".join(runs).split()) in "".join(text.casefold().split()) or len(runs) > len(text.split()) / 2
        for one in runs[1:6]:
            assert one in text.casefold()
    stems = stems_of(["running", "runs", "table"], language="english")
    assert stems[0] == stems[1] != stems[2]


def test_activations_of_the_sample_are_kept_and_are_the_models(small_run: Run) -> None:
    from ontogeny.activations.harvest import harvester_of

    stored, corpus = stored_codes(small_run), Corpus(small_run.corpus_folder / "held_out")
    first = stored_activations(small_run, 2, stored.sequences)
    again = stored_activations(small_run, 2, stored.sequences)
    assert torch.equal(first, again)
    tokens = torch.from_numpy(corpus.tokens[stored.sequences[:1]].astype(np.int64))
    expected = harvester_of(small_run).read(2, tokens)[0, 1 : corpus.lengths[stored.sequences[0]]]
    torch.testing.assert_close(first[: len(expected)], expected, rtol=2e-3, atol=2e-3)
    assert first.shape == (stored.tokens, 32)


def test_a_collapse_is_flagged_for_as_long_as_it_lasts() -> None:
    random = np.array([0.05, 0.06, 0.05, 0.07, 0.6, 0.62, 0.58, 0.1, 0.09, 0.1])
    ratio = np.array([30, 30, 31, 29, 4, 4, 4, 28, 29, 30.0])
    assert np.flatnonzero(collapsed(random, ratio)).tolist() == [4, 5, 6]
    assert not collapsed(random, np.arange(10.0)).any()
    assert collapsed(np.array([0.2, 0.95]), np.array([3.0, 3.0])).tolist() == [False, True]
    steady = np.random.default_rng(0).normal(0.1, 0.01, (200, 21))
    assert np.mean([collapsed(one, one * 0 + np.arange(21)[::-1]).any() for one in steady]) < 0.1


# a planted suite: what each feature is about at each snapshot is decided here

KINDS = {
    "maintaining": ("token", "token"),
    "shifting_to_concept": ("token", "concept"),
    "shifting_to_token": ("token", "other token"),
    "grouping_to_token": ("noise", "token"),
    "grouping_to_concept": ("noise", "concept"),
    "dissolving": ("concept", "noise"),
    "unformed": ("noise", "noise"),
    "rare": ("token", "nothing"),
}
EACH = 12


class PlantedRun(Run):
    """What the analyses of formation read of a run, made up: a shift of all features at known snapshots."""

    steps = STEPS  # type: ignore[assignment]
    corpus_folder = Path()  # type: ignore[assignment]
    study = SimpleNamespace(  # type: ignore[assignment]
        analysis=AnalysesConfig(feature_space_features=8, bootstrap=100), analyses=["formation"]
    )

    def __init__(self, *, collapse: bool = False) -> None:
        super().__init__("planted")
        rng = np.random.default_rng(0)
        n_tokens = SEQUENCES * LENGTH
        n_features = EACH * len(KINDS)
        frequency = 1 / np.arange(8, 308)
        self.token = rng.choice(300, n_tokens, p=frequency / frequency.sum())
        self.sequence = np.arange(n_tokens) // LENGTH
        self.kinds = np.repeat(list(KINDS), EACH)
        self.turn = rng.integers(3, 7, n_features)
        embedding, concepts = rng.normal(size=(300, WIDTH)), rng.normal(size=(n_features, WIDTH))
        there = rng.random((n_features, n_tokens)) < 0.01
        shuffled = rng.random((N, n_features, n_tokens)) < 0.01
        common = 3 * rng.normal(size=WIDTH)
        self.codes, self.x, self.about = [], [], np.empty((N, n_features), dtype=object)
        own = rng.permutation(np.arange(40, 300))[: 2 * n_features].reshape(2, -1)
        for t in range(N):
            active = np.zeros((n_features, n_tokens), dtype=bool)
            x = embedding[self.token] + 1.0 * rng.normal(size=(n_tokens, WIDTH))
            for feature, kind in enumerate(self.kinds):
                about = KINDS[kind][int(t >= self.turn[feature])]
                self.about[t, feature] = about
                if about in ("token", "other token"):
                    active[feature] = self.token == own[int(about == "other token"), feature]
                elif about == "concept":
                    active[feature] = there[feature]
                    x += np.outer(there[feature], 1.5 * concepts[feature])
                elif about == "noise":
                    active[feature] = shuffled[t, feature]
            if collapse and t in (4, 5):
                x = 0.1 * x + 5 * common
            codes = active * (1 + rng.random(active.shape))
            self.codes.append(torch.from_numpy(codes).to_sparse().coalesce())
            self.x.append(torch.from_numpy(x).float())
        self.directions = np.tile(rng.normal(size=(n_features, WIDTH)), (N, 1, 1))
        before = np.arange(N)[:, None] < self.turn + 1  # directions settle one snapshot after meanings
        self.directions = np.where(before[..., None], rng.normal(size=(N, n_features, WIDTH)), self.directions)
        self.held: dict[str, pl.DataFrame] = {
            "features": pl.DataFrame({"feature": np.arange(n_features), "dead": [False] * n_features})
        }

    def table(self, name: str) -> pl.DataFrame:
        return self.held[name]

    def keep(self, name: str, table: pl.DataFrame) -> pl.DataFrame:
        self.held[name] = tables.conform(name, table)
        return self.held[name]

    def matrix(self, column: str) -> np.ndarray:
        assert column == "firing_rate"
        return np.stack([np.bincount(one.indices()[0], minlength=len(self.kinds)) for one in self.codes])

    def dictionary(self) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(W_dec=torch.from_numpy(self.directions))


@pytest.fixture(scope="module", params=[False, True], ids=["", "collapse"])
def planted(request: pytest.FixtureRequest) -> PlantedRun:
    run = PlantedRun(collapse=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ontogeny.features.codes.stored_codes",
            lambda _, snapshot=-1: StoredCodes(run.codes[snapshot], np.arange(SEQUENCES), run.token, run.sequence),
        )
        patch.setattr("ontogeny.features.sample.stored_activations", lambda _, snapshot, sequences: run.x[snapshot])
        patch.setattr(
            "ontogeny.features.sample.words_of", lambda stored, *_: ([f"word{i}" for i in range(300)], stored.token)
        )
        patch.setattr(sys.modules["ontogeny.analyses.levels"], "Corpus", lambda _: SimpleNamespace(tokenizer=None))
        for name, analysis in (
            ("similarity", similarity), ("formation", formation), ("progress", progress), ("levels", levels),
            ("formed", formed), ("patterns", patterns),
        ):  # fmt: skip
            run.keep(name, analysis(run))
    return run


def test_planted_levels_are_found(planted: PlantedRun) -> None:
    if planted.held["similarity"]["collapsed"].any():
        pytest.skip("levels are read where nothing collapses")
    found = planted.held["levels"].sort("snapshot", "feature")["level"].to_numpy().reshape(N, -1)
    expected = np.where(planted.about == "other token", "token", planted.about)
    for level in ("token", "concept", "noise"):
        at = expected == level
        assert np.mean(found[at] == level) >= 0.9, level
    assert all(one is None for one in found[expected == "nothing"])


def test_planted_patterns_are_found(planted: PlantedRun) -> None:
    table = planted.held["formed"].sort("feature")
    assert np.mean(table["pattern"].to_numpy() == planted.kinds) >= 0.9
    shares = planted.held["patterns"]
    assert shares["features"].sum() == len(planted.kinds)
    assert ((shares["share_ci_low"] <= shares["share"]) & (shares["share"] <= shares["share_ci_high"])).all()
    row = shares.row(by_predicate=pl.col("pattern") == "maintaining", named=True)
    assert row["features"] == (table["pattern"] == "maintaining").sum()


def test_planted_formed_steps_are_found_within_a_snapshot(planted: PlantedRun) -> None:
    table = planted.held["formed"].sort("feature")
    places = {step: place for place, step in enumerate(STEPS)}
    settles = np.isin(
        planted.kinds, ["shifting_to_concept", "shifting_to_token", "grouping_to_token", "grouping_to_concept"]
    )
    for column, expected in (("meaning_step", planted.turn), ("direction_step", planted.turn + 1)):
        found = np.array([places.get(step, -9) for step in table[column]])
        assert np.mean(np.abs(found - expected)[settles] <= 1) >= 0.9, column
        assert np.mean((found == expected)[settles]) >= 0.9, column
    rises = planted.kinds == "grouping_to_concept"
    found = np.array([places.get(step, -9) for step in table["progress_step"]])
    if not planted.held["similarity"]["collapsed"].any():
        assert np.mean(np.abs(found - planted.turn)[rises] <= 1) >= 0.9
    after = table.filter(pl.Series(settles)).drop_nulls("lag_high")
    assert (after["lag_low"] <= after["lag_high"]).all()
    lags = np.log2(1 + np.array(STEPS))
    one = table.row(int(np.flatnonzero(planted.kinds == "shifting_to_token")[0]), named=True)
    at = places[one["meaning_step"]]
    assert one["lag_high"] == pytest.approx(lags[at + 1] - lags[at - 1], abs=1e-5)
    assert one["lag_low"] == pytest.approx(0, abs=1e-5)
    assert one["path_after"] > 20


def test_a_planted_collapse_is_flagged_and_masked(planted: PlantedRun) -> None:
    flagged = np.flatnonzero(planted.held["similarity"].sort("snapshot")["collapsed"].to_numpy()).tolist()
    assert flagged in ([], [4, 5])
    assert planted.held["progress"]["collapsed"].to_list() == [place in flagged for place in range(N)]
    if flagged:
        table = planted.held["progress"]
        assert table["progress"][4] < 0.5 * table["progress"][3]


def test_progress_of_what_is_a_token_is_what_tokens_foretell(planted: PlantedRun) -> None:
    first = planted.held["progress"].row(0, named=True)
    assert first["expected_correlation"] > 0.9
    sampled = planted.held["formation"].filter(snapshot=0).drop_nulls("jaccard")
    assert len(sampled) == 8
    assert np.isfinite(sampled.select("code_cosine", "jaccard", "weighted_jaccard").to_numpy()).all()


@pytest.mark.parametrize("n_tokens", [300, 4000])
def test_leading_tokens_of_a_direction_are_those_among_all(n_tokens: int) -> None:
    rng = np.random.default_rng(0)
    projected = torch.from_numpy(rng.normal(size=(60, n_tokens))).float()
    sequence, context = np.arange(n_tokens) // 40, rng.integers(0, n_tokens // 3, n_tokens)
    found = _leading_along(projected, sequence, context, ranks=12)
    codes = (projected - projected.min() + 1).to_sparse().coalesce()
    assert (found == leading_tokens(codes, sequence=sequence, context=context, ranks=12)).all()
    assert (found[:, -1] < 0).all() == (n_tokens == 300)  # few sequences give few


@pytest.mark.parametrize("vocabulary", [None, 2000, 400])
def test_random_directions_are_no_concepts(vocabulary: int | None) -> None:
    # activations of noise alone, or of what token it is and as much noise: nothing in them is a concept
    draw, rng = torch.Generator().manual_seed(7), np.random.default_rng(7)
    x, token = torch.randn(8000, 64, generator=draw), rng.integers(0, 4000, 8000)
    if vocabulary is not None:
        rate = 1.0 / np.arange(1, vocabulary + 1)
        token = rng.choice(vocabulary, 8000, p=rate / rate.sum())
        x = (x + torch.randn(vocabulary, 64, generator=draw)[token]) / 2**0.5
    kinds = Kinds(token, token, token, np.arange(8000) // 40)
    codes = torch.relu(x @ torch.randn(64, 300, generator=draw) - 16).T.to_sparse().coalesce()
    context = np.arange(8000)
    leading = leading_tokens(codes, sequence=kinds.sequence, context=context, ranks=25)
    leading = leading[(leading >= 0).all(1)]
    leading = leading[level_of_kinds(composition(leading, kinds)) == ""]
    within = set_cosines(x, leading)
    assert len(within) > 150
    assert within.min() > 0.05
    chance = against_random_directions(within, leading, x, kinds, context=context, seed=0)
    for p in chance:
        assert np.mean(p > 0.5) == pytest.approx(0.5, abs=0.1)
        assert np.mean(p < 0.05) < 0.15
    p = np.maximum(*chance)  # what counts
    assert np.mean(p < 0.05) < 0.1
    assert np.mean(p < 0.001) < 0.01
    assert np.mean(levels_of(composition(leading, kinds), p) == "concept") < 0.01


def test_similarity_of_the_same_tokens_in_random_contexts_is_that_of_draws() -> None:
    draw, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    x, kind = torch.randn(60, 5, generator=draw), rng.integers(0, 6, 60)
    kind[0] = 6  # the only one of its kind
    places = {one: np.flatnonzero(kind == one) for one in range(7)}
    tokens = np.concatenate([places[1][:3], [0], places[2][:2]])[None]
    drawn = np.array(
        [np.concatenate([rng.choice(places[1], 3, replace=False), [0], rng.choice(places[2], 2, replace=False)])
         for _ in range(4000)]
    )  # fmt: skip
    alike = set_cosines(x, drawn)
    assert RandomContexts(x, kind).cosines(tokens)[0] == pytest.approx(alike.mean(), abs=4 * alike.std() / 4000**0.5)


def test_patterns_by_hand() -> None:
    def pattern(level: list[str | None], first: float) -> str:
        return pattern_of(np.array(level, dtype=object), np.array([first, 1.0, 1.0]), same=0.7)

    assert pattern(["token", "noise", "token"], 0.9) == "maintaining"
    assert pattern(["token", "noise", "concept"], 0.2) == "shifting_to_concept"
    assert pattern(["noise", None, "weak_concept"], 0.9) == "grouping_to_concept"
    assert pattern(["weak_concept", None, "noise"], 0.9) == "dissolving"
    assert pattern(["noise", None, "noise"], 0.9) == "unformed"
    assert pattern(["token", "token", None], 0.9) == "rare"
    assert pattern_of(np.array([None, None, "token"], dtype=object), np.array([np.nan, np.nan, 1.0]), same=0.7) == (
        "maintaining"
    )


def test_steps_are_found_beside_snapshots_that_are_masked() -> None:
    nan = np.nan
    formed_at = sys.modules["ontogeny.analyses.formed"]
    curve = np.array([0.1, nan, nan, 0.3, 0.9, nan, 0.9])
    place = formed_at._risen(curve)
    assert (place, formed_at._before(place, curve)) == (4, 3)
    late = np.array([0.1, 0.2, nan, nan, 0.9])
    assert formed_at._before(formed_at._risen(late), late) == 1
    assert formed_at._risen(np.array([nan, 0.5, 0.55, nan])) is None
    assert formed_at._risen(np.full(3, nan)) is None
    assert formed_at._before(0, np.zeros(3)) is None
    assert formed_at._before(0, None) is None
    assert formed_at._before(2, None) == 1


def test_directions_settle_where_retraining_alone_would_leave_them(planted: PlantedRun) -> None:
    formed_at = sys.modules["ontogeny.analyses.formed"]
    low = np.linspace(0.4, 0.95, N - 1)
    null = [
        {"variant": "null", "link": link, "angle": 3.0 + link, "cosine_last": 0.99, "cosine_last_low": float(low[link])}
        for link in range(N - 1)
    ]
    planted.held["track_drift"] = tables.from_rows("track_drift", null)
    study = planted.study
    try:
        planted.study = SimpleNamespace(analysis=study.analysis, analyses=["tracking"])  # type: ignore[assignment]
        near, retraining = formed_at._null_track(planted)
    finally:
        planted.study = study
        del planted.held["track_drift"]
    np.testing.assert_allclose(near, [*np.minimum(low, 0.9), 0.9])
    np.testing.assert_allclose(retraining, 3.0 + np.arange(N - 1))
    assert (formed_at._null_track(planted)[0] == 0.9).all()
