"""RelIE with its certainty, the choice of snapshots, ablations: by hand and on random input with a known answer."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from ontogeny.causal.ablation import ablate, ablate_elsewhere, features_for_half, figures, matched, rank
from ontogeny.causal.bands import (
    OTHER,
    SHARED,
    SIGN_CHANGE,
    UNBANDED,
    UNDETERMINED,
    band_names,
    bands,
    cluster_error,
    combined,
    swapped,
)
from ontogeny.causal.choice import expected_overlap, overlap, propose
from ontogeny.intervals import cluster_draws
from test_effects import B_DEC, W_DEC, _by_hand


def _effects(means: list[list[float]], *, noise: float = 0.01, items: int = 40) -> list[csr_array]:
    """Items whose effects scatter a little about given means [snapshot][feature]."""
    draw = np.random.default_rng(0)
    return [csr_array(np.asarray(row) * (1 + noise * draw.standard_normal((items, len(row))))) for row in means]


def test_bands_of_two_snapshots() -> None:
    early, late = [8.0, 5.0, 2.0, -4.0, 5.0, 0.0], [2.0, 5.0, 8.0, -6.0, -5.0, 0.0]
    found = bands(_effects([early, late]), [10, 60], np.arange(40), samples=200)
    assert found.band.tolist() == ["only 10", SHARED, "only 60", SHARED, SIGN_CHANGE, UNDETERMINED]
    assert found.share[0, :4] == pytest.approx([0.2, 0.5, 0.8, 0.6], abs=0.01)
    assert np.isnan(found.share[0, 5])
    assert found.probability[:4] == pytest.approx([1, 1, 1, 1])
    assert (found.low[0, :5] <= found.share[0, :5]).all()
    assert (found.share[0, :5] <= found.high[0, :5]).all()


def test_bands_of_three_snapshots_and_of_four() -> None:
    means = [[8.0, 3.4, 4.0, 1.0, 3.5, 6.0], [1.0, 3.3, 4.0, 8.0, 1.0, 2.0], [1.0, 3.3, 1.0, 1.0, 3.5, 2.0]]
    found = bands(_effects(means, noise=0.001), [1, 2, 3], np.arange(40), samples=100)
    assert found.band.tolist() == ["only 1", SHARED, "1 and 2", "only 2", "1 and 3", OTHER]
    assert band_names([1, 2, 3]) == ["only 1", "only 2", "only 3", SHARED, "1 and 2", "1 and 3", "2 and 3", OTHER]
    assert found.share.sum(0) == pytest.approx(1)
    four = bands(_effects([*means, means[0]]), [1, 2, 3, 4], np.arange(40), samples=100)
    assert set(four.band) == {UNBANDED}
    assert np.isnan(four.probability).all()


def test_noise_alone_is_undetermined_though_its_shares_look_like_bands() -> None:
    draw = np.random.default_rng(1)
    noise = [csr_array(draw.standard_normal((80, 400))) for _ in range(2)]
    found = bands(noise, [1, 2], np.arange(80), samples=50)
    assert (found.band != UNDETERMINED).mean() <= 0.01
    looks_specific = ((found.share[0] < 0.3) | (found.share[0] > 0.7)).mean()
    assert 0.4 < looks_specific < 0.65  # the ratio of two half-normals lies outside .3 … .7 half of the time


def test_intervals_cover_the_true_share() -> None:
    draw, items, clusters = np.random.default_rng(2), 120, np.repeat(np.arange(40), 3)
    of_cluster = draw.standard_normal((2, 40, 300)).repeat(3, axis=1)
    means = np.asarray([1.0, 2.0])[:, None, None]
    effects = [csr_array(one) for one in means + of_cluster + draw.standard_normal((2, items, 300))]
    found = bands(effects, [1, 2], clusters, samples=400)
    covered = ((found.low[0] <= 2 / 3) & (found.high[0] >= 2 / 3)).mean()
    assert 0.9 <= covered <= 0.98


def test_the_probability_of_a_band_is_even_on_its_border() -> None:
    draw = np.random.default_rng(3)
    effects = [csr_array(mean + 0.3 * draw.standard_normal((200, 400))) for mean in (3.0, 7.0)]
    found = bands(effects, [1, 2], np.arange(200), samples=300)
    assert set(found.band) == {SHARED, "only 2"}
    # the estimate is on one side of the border by chance, and its bootstrap is centred on the estimate
    assert 0.4 <= found.probability.min() <= 0.6
    assert (found.share[0] > 0.7).mean() == pytest.approx(0.5, abs=0.1)


def test_errors_of_clusters_are_those_of_their_sums() -> None:
    draw = np.random.default_rng(4)
    one = draw.standard_normal((30, 5))
    repeated = csr_array(np.repeat(one, 4, axis=0))
    clusters = np.repeat(np.arange(30), 4)
    expected = one.std(0, ddof=1) / np.sqrt(30)
    assert cluster_error(repeated, clusters) == pytest.approx(expected)
    assert cluster_error(csr_array(one), np.arange(30)) == pytest.approx(expected)
    draws = cluster_draws(clusters, samples=4000, seed=0)
    spread = (draws @ repeated.toarray() / draws.sum(1, keepdims=True)).std(0)
    assert spread == pytest.approx(expected, rel=0.06)


def test_combined_p_of_equal_ones_is_the_same_and_of_one_small_one_small() -> None:
    assert combined(np.full((3, 1), 0.2)) == pytest.approx([0.2])
    assert combined(np.asarray([[1e-6], [0.9], [0.9]]))[0] < 1e-5
    uniform = combined(np.random.default_rng(0).random((5, 20_000)))
    assert (uniform < 0.05).mean() == pytest.approx(0.05, abs=0.01)


def test_a_snapshot_without_any_effect_hides_nothing() -> None:
    nothing = csr_array((40, 2))
    later = _effects([[5.0, 0.0]])[0]
    found = bands([nothing, later], [10, 60], np.arange(40), samples=50)
    assert found.band.tolist() == ["only 60", UNDETERMINED]
    assert found.share[0, 0] == 1
    scaled = bands([nothing, later], [10, 60], np.arange(40), samples=50, normalise=True)
    assert scaled.band.tolist() == ["only 60", UNDETERMINED]
    assert combined(np.asarray([[1e-9, np.nan], [np.nan, np.nan]])) == pytest.approx([1e-9, 1.0], rel=1e-3)
    assert combined(np.asarray([[1e-9], [1.0]]))[0] < 1e-7


def test_a_change_of_sign_has_the_probability_of_one() -> None:
    draw = np.random.default_rng(0)
    effects = [csr_array(mean + draw.standard_normal((100, 1))) for mean in (5.0, -0.4)]
    found = bands(effects, [1, 2], np.arange(100), samples=400)
    assert found.band.tolist() == [SIGN_CHANGE]
    drawn = effects[1].toarray()[:, 0]
    weights = cluster_draws(np.arange(100), samples=400, seed=0)
    assert found.probability[0] == pytest.approx((weights @ drawn < 0).mean())


def test_effects_can_be_taken_as_shares_of_their_snapshot() -> None:
    effects = _effects([[1.0, 3.0], [10.0, 30.0]], noise=0.001)
    plain = bands(effects, [1, 2], np.arange(40), samples=50)
    scaled = bands(effects, [1, 2], np.arange(40), samples=50, normalise=True)
    assert plain.share[0] == pytest.approx([10 / 11, 10 / 11], abs=0.01)
    assert scaled.share[0] == pytest.approx([0.5, 0.5], abs=0.01)
    assert scaled.low[0] == pytest.approx([0.5, 0.5], abs=0.01)


def test_effects_of_both_signs_cancel_unless_their_sizes_are_taken() -> None:
    """A feature that helps on half of the items as much as it hurts on the others at the first snapshot, and always
    helps at the second."""
    mixed, helps = np.tile([[1.0], [-0.9]], (50, 1)), np.full((100, 1), 0.5)
    of, clusters = [csr_array(mixed), csr_array(helps)], np.arange(100)
    for absolute, share in ((False, 0.5 / 0.55), (True, 0.5 / 1.45)):
        for scale in (False, True):
            found = bands(of, [1, 2], clusters, samples=200, absolute=absolute, normalise=scale)
            wanted = share if not scale else 0.5 if not absolute else 1 / (1 + 0.95 / 0.05)
            assert found.share[0, 0] == pytest.approx(wanted)
    assert found.low[0, 0] <= found.share[0, 0] <= found.high[0, 0]


def test_swapped_snapshots_are_even() -> None:
    effects = _effects([[8.0] * 20, [1.0] * 20], items=400)
    found = bands(swapped(effects, np.arange(400), seed=0), [1, 2], np.arange(400), samples=50)
    assert found.share[0] == pytest.approx(np.full(20, 0.5), abs=0.07)
    assert set(found.band) == {SHARED}
    one, other = swapped(effects, np.arange(400), seed=0)
    assert (one + other).toarray() == pytest.approx((effects[0] + effects[1]).toarray())


def test_snapshots_are_proposed_where_accuracy_and_activations_both_shift() -> None:
    accuracy = np.asarray([0.5, 0.5, 0.9, 0.9, 0.9])
    cka = np.ones((5, 5))
    cka[:3, 3:] = cka[3:, :3] = 0.5  # activations turn between 2 and 3
    cka[:2, 2] = cka[2, :2] = 0.9
    pair = propose(accuracy, cka, size=2)
    assert pair is not None
    assert pair.places in {(0, 3), (0, 4), (1, 3), (1, 4)}
    assert pair.accuracy == pytest.approx((0.4,))
    assert pair.distance == pytest.approx((0.5,))
    assert propose(accuracy[:1], cka[:1, :1], size=2) is None
    flat = propose(np.full(5, 0.5), cka, size=2)
    assert flat is not None
    assert flat.distance == pytest.approx((0.5,))


def test_overlap_of_leading_features_and_what_chance_gives() -> None:
    assert overlap(np.asarray([1, 2, 3]), np.asarray([2, 3, 4])) == 0.5
    assert np.isnan(overlap(np.asarray([]), np.asarray([])))
    draw = np.random.default_rng(0)
    found = [overlap(draw.choice(60, 20, replace=False), draw.choice(60, 20, replace=False)) for _ in range(2000)]
    assert expected_overlap(20, 20, np.arange(60), np.arange(60)) == pytest.approx(np.mean(found), abs=0.01)
    own, other = np.arange(100), np.arange(90, 190)
    found = [overlap(draw.choice(own, 20, replace=False), draw.choice(other, 20, replace=False)) for _ in range(4000)]
    assert expected_overlap(20, 20, own, other) == pytest.approx(np.mean(found), abs=0.002)


def test_matched_features_are_active_as_often_and_are_others() -> None:
    counts = np.concatenate([np.arange(1, 101), [0, 0]])
    chosen = np.asarray([10, 50, 90])
    found = matched(chosen, counts, np.random.default_rng(0))
    assert len(set(found)) == 3
    assert not set(found) & set(chosen)
    assert np.abs(counts[found] - counts[chosen]).max() <= 10
    assert len(matched(np.arange(60), counts, np.random.default_rng(0))) == 40  # no more are left


def test_ranked_features_are_those_that_help_most_first() -> None:
    assert rank(np.asarray([0.0, -1.0, 3.0, 2.0])).tolist() == [2, 3]


def test_removing_and_keeping_features_by_hand() -> None:
    codes = torch.tensor([[1.0, 2.0, 0.5]])
    slope = torch.tensor([2.0, 1.0, 1.0])
    site, kept = _by_hand(codes, lambda total: total @ slope)
    share = (codes * (W_DEC @ slope))[0].tolist()  # 2, 4, 2
    base = float(B_DEC @ slope)
    assert site.margins_with(kept, torch.tensor([0.0, 1, 1])) == pytest.approx([base + share[1] + share[2]])
    assert site.margins_with(kept, torch.tensor([0.0, 1, 0])) == pytest.approx([base + share[1]])
    ranked = rank(np.asarray(share))
    assert ranked.tolist() == [1, 0, 2]
    rows = list(ablate(site, kept, ranked, leading=[1, 2, 50], draws=2, samples=10, seed=0))
    at = {(row["condition"], row["way"], row["k"]): row["margin"] for row in rows}
    assert at["clean", "none", 0] == pytest.approx(base + 8)
    assert at["leading", "removed", 1] == pytest.approx(base + 4)
    assert at["leading", "kept", 1] == pytest.approx(base + 4)
    assert at["leading", "removed", 2] == pytest.approx(base + 2)
    assert at["leading", "removed", 3] == pytest.approx(base)
    assert at["all", "removed", 3] == pytest.approx(base)
    assert at["matched", "removed", 1] == pytest.approx(base + 6)
    assert ("matched", "removed", 2) not in at  # one is left
    others = {"one": np.asarray([2]), "both": np.asarray([0, 2])}
    elsewhere = {
        (row["ranked_on"], row["way"], row["k"]): row["margin"]
        for row in ablate_elsewhere(site, kept, others, samples=10, seed=0)
    }
    assert elsewhere == pytest.approx(
        {
            ("one", "removed", 1): base + 6,
            ("one", "kept", 1): base + 2,
            ("both", "removed", 2): base + 4,
            ("both", "kept", 2): base + 4,
        }
    )
    # without the strongest base + 4 is left of base + 8, more than half where base > 0
    assert base > 0
    assert features_for_half(site, kept, ranked, base + 8) == 2
    assert features_for_half(site, kept, ranked[2:], base + 8) is None


def test_figures_of_margins() -> None:
    margins = np.asarray([[1.0, -1.0, 0.0, 2.0], [1.0, 1.0, 0.0, 2.0]])
    found = figures(margins, np.arange(4), cluster_draws(np.arange(4), samples=500, seed=0))
    assert found["margin"] == pytest.approx(0.75)
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert found["accuracy_ci_low"] < found["accuracy"] < found["accuracy_ci_high"]
    # sixteen right ones of sixteen: Clopper and Pearson
    sixteen = figures(np.ones((1, 16)), np.arange(16), cluster_draws(np.arange(16), samples=100, seed=0))
    assert sixteen["accuracy_ci_low"] == pytest.approx(0.025 ** (1 / 16))
    assert sixteen["accuracy_ci_high"] == 1
    none = figures(-np.ones((1, 16)), np.arange(16), cluster_draws(np.arange(16), samples=100, seed=0))
    assert none["accuracy_ci_low"] == 0
    assert none["accuracy_ci_high"] == pytest.approx(1 - 0.025 ** (1 / 16))


def test_intervals_hold_a_share_of_nothing() -> None:
    # no effect at the first snapshot: all of it is the second's
    draw = np.random.default_rng(5)
    effects = [csr_array(mean + draw.standard_normal((100, 400))) for mean in (0.0, 2.0)]
    found = bands(effects, [1, 2], np.arange(100), samples=400)
    assert 0.9 <= (found.high[0] == 1).mean() <= 0.99
    assert (found.low[0] <= found.share[0]).all()
    assert (found.share[0] <= found.high[0]).all()


def test_absolute_effects_of_both_signs_have_a_band() -> None:
    draw = np.random.default_rng(6)
    signs = draw.choice([-1.0, 1.0], (200, 3))
    early, late = csr_array(0.1 * signs), csr_array(2 * signs)
    found = bands([early, late], [512, 5000], np.arange(200), samples=100, absolute=True)
    assert found.band.tolist() == ["only 5000"] * 3
    assert found.share[0] == pytest.approx([2 / 2.1] * 3)
    assert np.isnan(found.p).all()
