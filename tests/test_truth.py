"""Planted suites and their scores: what is planted is there, and a score says what was found."""

import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ontogeny.config.study import TruthConfig, load_study
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.errors import ConfigError
from ontogeny.features.agreement import agreement
from ontogeny.features.life import alive_mask
from ontogeny.features.matching import match_features
from ontogeny.features.probes import (
    auc,
    auc_error,
    confirm_births,
    linear_probe,
    refit_strength,
    there_before,
    token_rates,
)
from ontogeny.run import Run
from ontogeny.study import run_study, with_truth
from ontogeny.truth.memorised import repeated_contexts
from ontogeny.truth.nulls import NoChange, ShuffledRows, matched_lives, specific_share
from ontogeny.truth.planted import FADED, HANDED_SHARE, KIN_COSINE, KIN_SHARE, OWN_SHARE, Planted, plant
from ontogeny.truth.recovery import score_recovery
from ontogeny.truth.relations import score_relations
from ontogeny.truth.trust import MEASURES, trust_levels


def degrees(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


def norms_of(planted: Planted) -> torch.Tensor:
    """The scale of each snapshot: the norm of any feature that neither grows nor shrinks."""
    return planted.W_dec.norm(dim=2).amax(1)


def dictionary_of(planted: Planted, **changes: torch.Tensor) -> Crosscoder:
    """A crosscoder with the planted decoder; its encoder reads the codes off by least squares."""
    n, f, d = planted.W_dec.shape
    scale = 8 / norms_of(planted)
    W_dec = planted.W_dec * scale[:, None, None]
    rows = W_dec.transpose(0, 1).flatten(1)
    W_enc = torch.linalg.pinv(rows).view(n, d, f)
    tensors = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": torch.full((f,), -0.25),
        "b_dec": torch.zeros(n, d),
        "norm_scale": scale,
    }
    return Crosscoder(**tensors | changes, activation="relu").requires_grad_(False)


def test_the_same_arguments_plant_the_same_suite() -> None:
    a, b, other = (plant(seed=seed, related=2) for seed in (3, 3, 4))
    assert torch.equal(a.W_dec, b.W_dec)
    assert not torch.equal(a.W_dec, other.W_dec)
    first, again = (next(iter(suite.batches(64))) for suite in (a, b))
    assert torch.equal(first, again)
    third = a.batches(64).starting_at(2)
    all_batches = list(a.batches(64, n_batches=3))
    assert torch.equal(next(third), all_batches[2])
    assert not torch.equal(next(iter(a.batches(64, seed=1))), first)


def test_the_standard_suite_is_what_the_docs_say() -> None:
    planted = plant(seed=0)
    assert planted.W_dec.shape == (8, 256, 64)
    assert float(planted.frequency.sum()) == pytest.approx(8, rel=1e-5)
    ranked = planted.frequency.sort(descending=True).values
    slope = (ranked[0] / ranked[-1]).log() / math.log(256)
    assert float(slope) == pytest.approx(0.5, abs=0.01)
    assert torch.bincount(planted.birth).tolist() == [32] * 8
    norm = planted.W_dec.norm(dim=2)
    assert torch.equal(norm > 0, planted.there)
    torch.testing.assert_close(norm[:, planted.birth == 0], norms_of(planted)[:, None].expand(-1, 32))
    assert norms_of(planted)[[0, -1]].tolist() == pytest.approx([5, 0.125])
    turns = planted.rotation > 0
    assert 0.35 < float(turns.float().mean()) < 0.6
    assert float(planted.rotation.max()) <= 70
    lasting = planted.birth < 7
    found = degrees(planted.W_dec[planted.birth, torch.arange(256)], planted.W_dec[-1])
    torch.testing.assert_close(found[lasting], planted.rotation[lasting], atol=0.1, rtol=0)


def test_tokens_are_what_the_dictionary_makes() -> None:
    planted = plant(n_features=128, related=3, seed=1, noise=0.0)
    codes, x = planted.batches(512).batch(0)
    absorbed = [i for i, relation in enumerate(planted.relation) if relation == "absorption"]
    for snapshot in range(8):
        here = codes.clone()
        for child in absorbed:
            if snapshot >= planted.birth[child]:
                here[codes[:, child] > 0, planted.parent[child]] = 0
        torch.testing.assert_close(x[:, snapshot], here @ planted.W_dec[snapshot], atol=1e-4, rtol=1e-4)
    many = torch.cat([planted.batches(1024, seed=5).batch(number)[0] for number in range(40)])
    found = (many > 0).float().mean(0)
    torch.testing.assert_close(found, planted.frequency, atol=0.015, rtol=0.1)
    assert float(many[many > 0].mean()) == pytest.approx(1, abs=0.02)


def test_noise_has_the_norm_it_says() -> None:
    planted = plant(n_features=16, active=1.0, noise=0.2)
    codes, x = planted.batches(4096).batch(0)
    noise = (x - planted.activations(codes)) / norms_of(planted)[:, None]
    assert float(noise.square().sum(2).mean().sqrt()) == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("relation", ["split", "absorption", "handover"])
def test_related_features_share_tokens_and_direction(relation: str) -> None:
    planted = plant(related=4, seed=2)
    fires = torch.cat([planted.batches(4096).batch(number)[0] for number in range(8)]) > 0
    children = [i for i, kind in enumerate(planted.relation) if kind == relation]
    assert len(children) == 4
    for child in children:
        parent = int(planted.parent[child])
        assert planted.birth[parent] == 0 < planted.birth[child]
        cosine = torch.nn.functional.cosine_similarity(planted.W_dec[0, parent], planted.W_dec[-1, child], dim=0)
        assert float(cosine) == pytest.approx(KIN_COSINE, abs=1e-3)
        both = (fires[:, child] & fires[:, parent]).sum()
        assert float(both / fires[:, parent].sum()) == pytest.approx(
            HANDED_SHARE if relation == "handover" else KIN_SHARE, abs=0.05
        )
        own = float((fires[:, child] & ~fires[:, parent]).sum() / (~fires[:, parent]).sum())
        if relation == "handover":
            assert own == pytest.approx(OWN_SHARE * float(planted.frequency[parent]), rel=0.3)
            assert planted.death[parent] == planted.birth[child]
        else:
            assert own == 0
            assert planted.death[parent] == 8


def test_features_die_grow_shrink_and_fire_together() -> None:
    planted = plant(seed=4, dying=0.3, growing=0.3, shrinking=0.3, correlated=0.5, norms=(1.0, 1.0))
    dies = planted.death < 8
    assert 0.15 < float(dies.float().mean()) < 0.4
    norm = planted.W_dec.norm(dim=2)
    feature = torch.arange(256)
    ends = norm[planted.death - 1, feature] / norm[planted.birth, feature]
    long = planted.death - planted.birth > 1
    kinds = torch.tensor([FADED, 1.0, 1 / FADED])
    assert bool(((ends[long, None] - kinds).abs() < 1e-4).any(1).all())
    assert (ends[long] < 0.5).any()
    assert (ends[long] > 2).any()
    fires = torch.cat([planted.batches(4096).batch(number)[0] for number in range(8)]).gt(0).float()
    copies = (planted.copied >= 0).nonzero().flatten()
    correlation = np.corrcoef(fires.T.numpy())[copies, planted.copied[copies]]
    assert 0.3 < correlation.mean() < 0.7


def test_a_hard_suite_shares_directions_in_pairs() -> None:
    planted = plant(pair_cosine=0.5, rotating=0.0, seed=5, births=torch.tensor([1.0] + [0.0] * 7))
    cosine = torch.nn.functional.cosine_similarity(planted.W_dec[0, 0::2], planted.W_dec[0, 1::2], dim=1)
    torch.testing.assert_close(cosine, torch.full((128,), 0.5))


def test_too_many_relations_are_refused() -> None:
    with pytest.raises(ConfigError, match="60 related features were asked for, but only"):
        plant(n_features=64, related=20)


def test_the_planted_dictionary_scores_full_marks() -> None:
    planted = plant(n_features=48, n_snapshots=6, d_model=64, active=3.0, seed=0, noise=0.0)
    score = score_recovery(planted, dictionary_of(planted), tokens=4096)
    assert score.recovered == 1
    assert score.births_exact == 1
    assert (score.false_emergent, score.false_features, score.false_births) == (0, 0, 0)
    assert score.strength_error == pytest.approx(0, abs=1e-5)
    assert score.rotations_right == 1
    assert score.by_birth()["n"].to_list() == [8] * 6
    assert score.by_frequency()["n"].to_list() == [12] * 4
    assert float(score.reconstruction.min()) > 0.8


def test_what_is_wrong_is_counted() -> None:
    planted = plant(n_features=48, n_snapshots=6, d_model=64, active=3.0, seed=0, noise=0.0, rotating=1.0)
    right = dictionary_of(planted)
    W_dec = right.W_dec.clone()
    initial = (planted.birth == 0).nonzero().flatten()
    late = (planted.birth == 3).nonzero().flatten()
    W_dec[:2, initial[:2]] = 0.01 * W_dec[:2, initial[:2]]
    W_dec[:, late[0]] = torch.randn(6, 64)
    W_dec[:, late[1]] = W_dec[3, late[1]]
    W_dec[:3, late[1]] = 0
    W_dec[5, late[2]] *= 0.7
    score = score_recovery(planted, dictionary_of(planted, W_dec=W_dec, W_enc=right.W_enc), tokens=4096)
    assert score.recovered == pytest.approx(47 / 48)
    assert score.false_emergent == pytest.approx(2 / 8)
    assert score.births_exact == pytest.approx(45 / 47)
    assert score.birth_error == pytest.approx(4 / 47)
    assert score.false_features == pytest.approx(1 / 48)
    assert score.strength_error > 0.05
    assert score.rotations_right == pytest.approx(
        1 - 1 / int(((planted.rotation > 0) & (planted.birth != 3)).sum() + 7)
    )


def test_scores_do_not_depend_on_the_order_of_features() -> None:
    planted = plant(n_features=32, n_snapshots=4, d_model=64, active=2.0, seed=1)
    right = dictionary_of(planted)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    turned = dictionary_of(planted, W_dec=right.W_dec[:, order], W_enc=right.W_enc[:, :, order])
    a, b = (score_recovery(planted, one, tokens=2048).figures() for one in (right, turned))
    assert a == pytest.approx(b)


def test_planted_relations_are_called_by_their_names() -> None:
    planted = plant(n_features=60, n_snapshots=6, d_model=80, active=3.0, related=2, seed=2, noise=0.0, rotating=0.0)
    rows = score_relations(planted, dictionary_of(planted), tokens=8192)
    for relation in ("split", "handover", ""):
        assert rows.filter(relation=relation)["right"].to_list() == [True] * len(rows.filter(relation=relation))
    assert len(rows.filter(relation="split")) == len(rows.filter(relation="handover")) == 2
    assert "parted" not in rows["relation"]
    # the absorbing feature of this dictionary adds to its parent, as a split does: it must not pass
    assert not rows.filter(relation="absorption")["right"].any()


# nulls


def test_no_change_turns_and_scales_the_same_activations() -> None:
    x = [torch.randn(32, 1, 16) for _ in range(3)]
    null = NoChange(x, n_snapshots=4, seed=1)
    batches = list(null)
    assert len(batches) == 3
    assert batches[0].shape == (32, 4, 16)
    gram = x[1][:, 0] @ x[1][:, 0].T
    for snapshot, scale in enumerate(null.scales):
        own = batches[1][:, snapshot] / scale
        torch.testing.assert_close(own @ own.T, gram, atol=1.0, rtol=0.05)
        assert float((own - x[1][:, 0]).norm() / own.norm()) > 0.5
    noise = batches[2][:, 0] / null.scales[0] - x[2][:, 0] @ null.rotations(16)[0]
    assert float(noise.norm(dim=1).mean() / x[2].norm(dim=2).mean()) == pytest.approx(0.01, rel=0.15)
    assert torch.equal(next(null.starting_at(2)), batches[2])


def test_undone_a_dictionary_says_of_the_activations_what_it_said_of_the_turned_ones() -> None:
    x = torch.randn(64, 16)
    null = NoChange([x[:, None]], n_snapshots=3, seed=2)
    draw = torch.Generator().manual_seed(0)
    W_enc, W_dec = torch.randn(3, 16, 40, generator=draw) / 4, torch.randn(3, 40, 16, generator=draw)
    norm_scale, b_dec = torch.tensor([0.5, 2.0, 3.0]), torch.randn(3, 16, generator=draw)
    dictionary = Crosscoder(
        W_enc=W_enc, W_dec=W_dec, b_enc=torch.zeros(40), b_dec=b_dec, activation="topk", k=5, norm_scale=norm_scale,
        apply_b_dec_to_input=True,
    )  # fmt: skip
    turned = torch.einsum("bd,sde->bse", x, null.rotations(16)) * null.scales[:, None]
    undone = null.undone(dictionary)
    code = dictionary.encode(turned * norm_scale[:, None])
    same = x[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(undone.encode(same), code, atol=1e-4, rtol=1e-4)
    back = dictionary.decode(code) / norm_scale[:, None] / null.scales[:, None]
    expected = torch.einsum("bse,sde->bsd", back, null.rotations(16))
    torch.testing.assert_close(undone.decode(code), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(undone.strength(), dictionary.strength())


def test_shuffled_rows_keep_every_snapshots_rows() -> None:
    planted = plant(n_features=16, active=1.0, n_snapshots=3, d_model=8)
    given = list(planted.batches(64, n_batches=2))
    shuffled = list(ShuffledRows(planted.batches(64, n_batches=2), seed=0))
    for before, after in zip(given, shuffled, strict=True):
        for snapshot in range(3):
            rows, others = before[:, snapshot], after[:, snapshot]
            assert not torch.equal(rows, others)
            assert torch.equal(rows[rows[:, 0].argsort()], others[others[:, 0].argsort()])
        assert not torch.equal(after[:, 0, 0].argsort(), after[:, 1, 0].argsort())


def test_specific_share_by_hand() -> None:
    strength = np.array([[1.0, 0.0, 3.0, 0.0], [1.0, 2.0, 0.9, 0.0]])
    assert specific_share(strength) == pytest.approx(2 / 3)


def test_chains_reach_back_to_where_a_direction_is() -> None:
    planted = plant(n_features=24, n_snapshots=5, d_model=64, active=2.0, rotating=0.0, norms=(1.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    rows = []
    for snapshot in range(5):
        row = planted.W_dec[snapshot].clone()
        gone = ~planted.there[snapshot]
        row[gone] = torch.randn(int(gone.sum()), 64, generator=generator)
        rows.append(row[torch.randperm(24, generator=generator)] if snapshot < 4 else row)
    lives = matched_lives(rows)
    assert np.array_equal(lives, planted.there.numpy())
    fewer = [row[planted.there[place]] if place == 4 else row[: 20 + place] for place, row in enumerate(rows)]
    assert (matched_lives(fewer)[:4] <= matched_lives(fewer)[1:]).all()
    permuted = matched_lives([rows[place] for place in (2, 0, 3, 1, 4)])
    assert permuted[0].sum() < lives[2].sum()


# probes


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    score = torch.from_numpy(rng.integers(0, 5, (60, 4))).float()
    active = torch.from_numpy(rng.random((60, 4)) < 0.3)
    active[:, 3] = False
    areas = auc(score, active)
    for feature in range(3):
        own = score[:, feature]
        pairs = own[active[:, feature]][:, None] - own[~active[:, feature]]
        assert areas[feature] == pytest.approx(float((pairs > 0).float().mean() + 0.5 * (pairs == 0).float().mean()))
    assert np.isnan(areas[3])


def test_error_of_an_auc_covers_its_scatter() -> None:
    rng = np.random.default_rng(1)
    active = torch.zeros(300, 400, dtype=torch.bool)
    active[:40] = True
    score = torch.from_numpy(rng.standard_normal((300, 400)) + active.numpy())
    areas = auc(score, active)
    said = auc_error(np.array([areas.mean()]), np.array([40]), 300)[0]
    assert areas.std() == pytest.approx(said, rel=0.2)


def test_probes_find_what_is_there_and_tokens_what_they_tell() -> None:
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(0, 10, (4000,), generator=generator)
    of_token, of_context = token == 3, torch.rand(4000, generator=generator) < 0.2
    active = torch.stack([of_token, of_context], dim=1)
    x = torch.randn(4000, 8, generator=generator)
    x[:, 0] += 4 * of_context
    weights, mean = linear_probe(x[:2000], active[:2000])
    areas = auc((x[2000:] - mean) @ weights, active[2000:])
    assert areas[1] > 0.98
    assert 0.4 < areas[0] < 0.6
    rates = token_rates(token[:2000], active[:2000], vocabulary=10)
    areas = auc(rates[token[2000:]], active[2000:])
    assert areas[0] == 1
    assert 0.4 < areas[1] < 0.6


def test_births_are_confirmed_by_their_own_snapshot_alone() -> None:
    areas = np.array([[0.5, 0.97, 0.5, 0.9, 0.5], [0.5, 0.98, 0.98, 0.9, 0.51], [0.95, 0.98, 0.98, 0.97, 0.52]])
    found = confirm_births(
        areas,
        np.array([0.5, 0.6, 0.5, 0.99, 0.5]),
        np.array([2, 1, 1, 2, 1]),
        positives=np.array([200, 200, 200, 200, 20]),
        tokens=10_000,
    )
    assert found.confirmed.tolist() == [True, False, True, False, False]
    assert found.rise[:3] == pytest.approx([0.45, 0.01, 0.48])
    nothing = confirm_births(areas, np.full(5, np.nan), np.zeros(5, int), positives=np.full(5, 9), tokens=99)
    assert not nothing.confirmed.any()
    assert np.isnan(nothing.rise).all()


def test_a_shrunken_decoder_is_refitted_to_its_length_and_an_absent_one_to_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(5, 16, generator=generator)
    truth[3] = 0
    code = torch.rand(5, 6000, generator=generator) * (torch.rand(5, 6000, generator=generator) < 0.2)
    code[4] = 0
    x = code.T @ truth + 1 + 0.3 * torch.randn(6000, 16, generator=generator)
    shrunken = truth * torch.tensor([1.0, 0.0, 0.3, 0.0, 1.0])[:, None]
    for_test = torch.arange(6000) % 2 == 0
    found = refit_strength(x, code.to_sparse(), truth, torch.ones(16), for_test=for_test)
    assert found[:3] == pytest.approx(truth.norm(dim=1)[:3].numpy(), rel=0.02)
    assert found[3] < 0.1
    assert np.isnan(found[4])
    for feature in (1, 2):
        rows = truth.clone()
        rows[feature] = shrunken[feature]
        found = refit_strength(x, code.to_sparse(), rows, torch.ones(16), for_test=for_test)
        assert found[feature] == pytest.approx(float(truth[feature].norm()), rel=0.05)


def test_what_refits_before_its_birth_was_there_before() -> None:
    refit = np.array([[1.0, 0.1, 0.6, np.nan, 0.5], [1.0, 0.2, 0.7, np.nan, 0.52], [0.9, 1.0, 1.0, np.nan, 1.0]])
    strength = np.array([[1.0, 0.1, 0.1, 0.0, 0.45], [1.0, 0.2, 0.2, 1.0, 0.48], [0.9, 1.0, 1.0, 1.0, 1.0]])
    found = there_before(refit, strength, np.array([0, 2, 2, 1, 2]), alive_threshold=0.5)
    np.testing.assert_array_equal(found, [np.nan, 0, 1, np.nan, 0])


# stability


def test_the_same_dictionary_in_another_order_is_matched() -> None:
    planted = plant(n_features=40, n_snapshots=5, d_model=64, active=3.0)
    a = dictionary_of(planted)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    W_dec = a.W_dec[:, order].clone()
    W_dec[:, 0] = torch.randn(5, 64)
    b = dictionary_of(planted, W_dec=W_dec, W_enc=a.W_enc[:, :, order])
    everything = np.arange(40)
    match = match_features(a, b, living=everything, living_other=everything)
    births = (alive_mask(one.strength().numpy(), 0.5).argmax(0) for one in (a, b))
    born, born_other = births
    row = agreement(match.cosine, born[match.feature], born_other[match.other], n_features=40, n_emergent=32, level=0.9)
    assert row["matched"] == pytest.approx(39 / 40)
    assert (row["births_same"], row["emergent_same"], row["emergent_near"]) == (1, 1, 1)
    assert row["births_spearman"] == pytest.approx(1)
    assert row["emergent"] in (31, 32)
    same = match.cosine >= 0.9
    assert same.sum() == 39
    assert np.array_equal(order.numpy()[match.other[same]], match.feature[same])


def test_agreement_by_hand() -> None:
    similarity = np.array([0.95, 0.8, 0.75, 0.9, 0.7, 0.85, 0.2, 0.9])
    birth, other = np.array([0, 1, 3, 2, 4, 0, 0, 2]), np.array([0, 1, 1, 4, 3, 2, 2, -1])
    row = agreement(similarity, birth, other, n_features=10, n_emergent=5, level=0.7)
    assert (row["matched"], row["emergent"], row["emergent_both"]) == (0.7, 5, 4)
    assert row["emergent_matched"] == 1  # those born at 1, 3, 2, 4 and 2
    assert row["births_same"] == pytest.approx(2 / 6)
    assert row["births_same_ci_low"] == pytest.approx(0.0968, abs=1e-4)  # Wilson, of 2 in 6
    assert row["births_same_ci_high"] == pytest.approx(0.7000, abs=1e-4)
    assert (row["emergent_same"], row["emergent_near"]) == (1 / 5, 2 / 5)
    # ranks of 1, 3, 2, 4 and of 1, 1, 4, 3
    assert row["births_spearman"] == pytest.approx(np.corrcoef([1, 3, 2, 4], [1.5, 1.5, 4, 3])[0, 1])
    assert agreement(similarity, birth, other, n_features=20, n_emergent=5, level=0.9)["matched"] == 0.15
    nothing = agreement(similarity, birth, other, n_features=0, n_emergent=0, level=0.99)
    assert np.isnan(
        [nothing["matched"], nothing["emergent_matched"], nothing["births_same"], nothing["births_spearman"]]
    ).all()


def test_births_that_have_nothing_to_do_with_each_other_are_not_correlated() -> None:
    draw = np.random.default_rng(0)
    births = [draw.integers(1, 9, 4000) * (draw.random(4000) < 0.5) for _ in range(2)]
    row = agreement(np.ones(4000), *births, n_features=4000, n_emergent=2000, level=0.7)
    assert abs(row["births_spearman"]) < 0.08
    assert row["births_spearman_ci_low"] < 0 < row["births_spearman_ci_high"]


# a study's own checks


@pytest.fixture(scope="module")
def checked_run(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small study with its checks."""
    folder = tmp_path_factory.mktemp("checked") / "run"
    shutil.copytree(small_run.folder, folder)
    study = load_study(folder / "study.yaml").model_copy(
        update={"truth": TruthConfig(seeds=[1], null_tokens=20_000, planted_tokens=30_000)}
    )
    return run_study(with_truth(study), out=folder, say=lambda line: None)


def test_checks_of_a_study(checked_run: Run) -> None:
    n = int((~checked_run.features["dead"]).sum())
    stability = checked_run.table("stability")
    assert stability["cosine"].to_list() == [0.7, 0.9]
    assert stability["matched"][0] >= stability["matched"][1]
    matches = checked_run.table("seed_matches")
    assert matches["other"].n_unique() == len(matches) <= n
    nulls = {row["null"]: row for row in checked_run.table("nulls").iter_rows(named=True)}
    assert nulls["study"]["births"] == int((checked_run.features["origin"] == "emergent").sum())
    assert nulls["no change"]["births"] <= 0.05 * nulls["no change"]["features"]
    assert nulls["study"]["births_ci_low"] <= nulls["study"]["births"] <= nulls["study"]["births_ci_high"]
    recovery = checked_run.table("recovery")
    everything = recovery.filter(pl.col("birth_step").is_null(), pl.col("frequency_part").is_null())
    assert everything["features"].to_list() == [n]
    by_birth = recovery.filter(pl.col("birth_step").is_not_null(), pl.col("frequency_part").is_null())
    assert by_birth["features"].sum() == n
    assert float((by_birth["features"] * by_birth["recovered"]).sum()) == pytest.approx(n * everything["recovered"][0])


def test_every_living_feature_has_a_level_of_trust(checked_run: Run) -> None:
    trust = checked_run.table("trust")
    living = checked_run.features.filter(~pl.col("dead"))
    assert trust["feature"].to_list() == living["feature"].to_list()
    assert set(trust["level"]) <= {"high", "medium", "low"}
    assert trust.filter(pl.col("level") == "high")["reasons"].eq("").all()
    assert trust.filter(pl.col("level") != "high")["reasons"].ne("").all()
    assert trust.filter(pl.col("seed_cosine") < 0.7)["level"].eq("low").all()
    page = checked_run.report_path.read_text(encoding="utf-8")
    assert "Can this be trusted?" in page
    assert "Trained again with 1 other seed," in page


def test_a_study_without_checks_has_none_of_their_tables(checked_run: Run, tmp_path: Path) -> None:
    shutil.copytree(checked_run.folder, tmp_path / "run")
    study = load_study(tmp_path / "run" / "study.yaml").model_copy(update={"truth": None})
    run = run_study(study, out=tmp_path / "run", say=lambda line: None)
    assert not list((tmp_path / "run" / "truth").iterdir())
    assert "Can this be trusted?" not in run.report_path.read_text(encoding="utf-8")


def test_levels_of_trust_by_hand() -> None:
    fine = {
        "emergent": True,
        "seed_cosine": 0.95,
        "confirmed": True,
        "there_before": False,
        "same_at_thresholds": True,
        "same_rescaled": True,
        "expected_recovery": 0.9,
        "memorised": 0.1,
    }
    changes: list[tuple[dict[str, object], str, str]] = [
        ({}, "high", ""),
        ({"seed_cosine": 0.5}, "low", "not found under other seeds"),
        ({"confirmed": False}, "low", "birth not seen from its own snapshot"),
        ({"confirmed": False, "emergent": False}, "high", ""),
        ({"there_before": True}, "low", "there before its birth, shrunken"),
        ({"same_at_thresholds": False}, "medium", "birth moves with the threshold"),
        (
            {"same_rescaled": False, "memorised": 0.8},
            "medium",
            "birth moves with the scale; examples repeated in the text",
        ),
        ({"expected_recovery": 0.2}, "medium", "its like is seldom recovered"),
        ({"expected_recovery": None, "memorised": None}, "high", ""),
        ({"seed_cosine": None}, "medium", "seeds not measured"),
        ({"confirmed": None}, "medium", "birth not probed"),
    ]
    found = trust_levels(pl.DataFrame([fine | change for change, _, _ in changes], schema=MEASURES))
    assert found["level"].to_list() == [level for _, level, _ in changes]
    assert found["reasons"].to_list() == [reasons for _, _, reasons in changes]


def test_repeated_contexts_are_found(small_run: Run) -> None:
    corpus = Corpus(small_run.corpus_folder / "train")
    repeated = repeated_contexts(corpus)
    seen: Counter[tuple[int, ...]] = Counter()
    places = []
    for sequence in range(len(corpus)):
        row = corpus.tokens[sequence]
        for position in range(8, int(corpus.lengths[sequence])):
            context = tuple(row[position - 7 : position + 1].tolist())
            seen[context] += 1
            places.append((sequence, position, context))
    assert 0 < sum(repeated[sequence, position] for sequence, position, _ in places) < len(places)
    assert all(repeated[sequence, position] == (seen[context] > 1) for sequence, position, context in places)
