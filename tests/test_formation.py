"""Progress of formation and its phases: closed forms against pairs, known values, planted curves."""

from itertools import combinations

import numpy as np
import pytest
import torch

from ontogeny.analyses.three_phases import COEFFICIENTS, _bic, find_phases, find_phases_of
from ontogeny.features.formation import (
    between_tokens,
    cosines_by_token,
    expected_at_start,
    mean_cosine,
    mean_jaccard,
    mean_weighted_jaccard,
    random_set,
    same_token_share,
    set_cosines,
)

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1000, 1400, 2000, 2800, 4000, 5000]


def pairs_mean(rows: torch.Tensor, similarity: object) -> float:
    return float(np.mean([similarity(a, b) for a, b in combinations(rows, 2)]))  # type: ignore[operator]


def test_similarities_are_those_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    points[3] = 0
    codes = torch.relu(torch.randn(12, 30, generator=generator, dtype=torch.float64) - 1)
    codes[5] = codes[6] = 0

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm())) if a.any() and b.any() else 0.0

    def jaccard(a: torch.Tensor, b: torch.Tensor) -> float:
        either = int(((a > 0) | (b > 0)).sum())
        return int(((a > 0) & (b > 0)).sum()) / either if either else 0.0

    def weighted(a: torch.Tensor, b: torch.Tensor) -> float:
        most = float(torch.maximum(a, b).sum())
        return float(torch.minimum(a, b).sum()) / most if most else 0.0

    assert float(mean_cosine(points)) == pytest.approx(pairs_mean(points, cosine))
    both = torch.stack([points, points.flip(0) * 3])
    torch.testing.assert_close(mean_cosine(both), mean_cosine(points).expand(2))
    for mean, one in ((mean_jaccard, jaccard), (mean_weighted_jaccard, weighted)):
        assert float(mean(codes)) == pytest.approx(pairs_mean(codes, one))
        two = mean(torch.stack([codes, codes.flip(1) * 2]))
        torch.testing.assert_close(two, mean(codes).expand(2))
    sets = np.array([[0, 1, 2, 4], [7, 8, -1, -1], [5, -1, -1, -1]])
    alike = set_cosines(points, sets)
    assert alike[:2] == pytest.approx([pairs_mean(points[[0, 1, 2, 4]], cosine), cosine(points[7], points[8])])
    assert np.isnan(alike[2])
    with pytest.raises(ValueError, match="two points at least, found 1"):
        mean_cosine(points[:1])


def test_known_values_of_the_progress_of_formation() -> None:
    common = torch.randn(64, generator=torch.Generator().manual_seed(2))
    points = common * 0.1 + torch.randn(1500, 64, generator=torch.Generator().manual_seed(3))
    chance = random_set(points)
    assert chance.low < chance.mean < chance.high
    identical = points[:1].expand(25, -1)
    assert float(mean_cosine(identical)) - chance.mean == pytest.approx(1 - chance.mean)
    other = random_set(points[torch.randperm(1500, generator=torch.Generator().manual_seed(4))[:1000]])
    assert abs(other.mean - chance.mean) < chance.high - chance.low


def test_the_interval_of_a_random_set_holds_its_mean() -> None:
    generator = torch.Generator().manual_seed(5)
    common, held = 0.3 * torch.randn(16, generator=generator), 0
    draws = [common + torch.randn(300, 16, generator=generator) for _ in range(60)]
    truth = float(mean_cosine(torch.cat(draws)))
    for points in draws:
        found = random_set(points, samples=200)
        held += found.low <= truth <= found.high
    assert 51 <= held <= 60


def test_same_tokens_by_hand() -> None:
    sets = ([7, 7, 7, 1], [1, 2, 3, 4], [5, 5, 6, 6], [9, 9, 9, 9])
    assert [same_token_share(np.array(tokens)) for tokens in sets] == [6 / 12, 0, 4 / 12, 1]
    assert expected_at_start(np.array([0.5, 1.0]), 0.01, 0.2) == pytest.approx([0.49 * 0.8, 0.99 * 0.8])


def test_activations_that_are_their_tokens_have_the_expected_progress() -> None:
    rng = np.random.default_rng(0)
    embedding = torch.randn(50, 400, generator=torch.Generator().manual_seed(6)) + 0.5
    unit = torch.nn.functional.normalize(embedding, dim=1)
    between = float((unit.sum(0).square().sum() - 50) / (50 * 49))
    repeated = np.array([3, 3, 8, 9, 9, 9])
    apart = [float(unit[a] @ unit[b]) for a, b in combinations(repeated, 2) if a != b]
    assert between_tokens(embedding[repeated], repeated) == pytest.approx(np.mean(apart))
    chance = rng.integers(0, 50, 2000)
    for share in (0.2, 0.6, 1.0):
        tokens = np.where(rng.random(25) < share, 3, rng.integers(0, 50, 25))
        found = float(mean_cosine(embedding[tokens])) - float(mean_cosine(embedding[chance]))
        expected = expected_at_start(np.array([same_token_share(tokens)]), same_token_share(chance), between)
        assert found == pytest.approx(float(expected[0]), abs=0.03)


def test_pairs_of_one_token_and_of_two() -> None:
    rng = np.random.default_rng(1)
    x, token = torch.randn(200, 12, generator=torch.Generator().manual_seed(7)), rng.integers(0, 6, 200)
    sets = np.array([rng.permutation(200)[:9] for _ in range(40)])
    sets[0, 4:], sets[1, :], sets[2, :] = -1, -1, -1
    sets[1, :3] = np.flatnonzero(token == 2)[:3]
    sets[2, :2] = np.flatnonzero(token == 3)[0], np.flatnonzero(token == 4)[0]
    pairs, unit = cosines_by_token(x, sets, token), torch.nn.functional.normalize(x, dim=1)
    for place, members in enumerate(sets):
        both = list(combinations(members[members >= 0], 2))
        cosines = {
            kind: [float(unit[a] @ unit[b]) for a, b in both if (token[a] == token[b]) == kind] for kind in (0, 1)
        }
        assert pairs.share[place] == pytest.approx(len(cosines[1]) / len(both))
        for found, expected in ((pairs.same, cosines[1]), (pairs.other, cosines[0])):
            assert found[place] == pytest.approx(np.mean(expected) if expected else np.nan, nan_ok=True, abs=1e-6)
    whole = pairs.share * np.nan_to_num(pairs.same) + (1 - pairs.share) * np.nan_to_num(pairs.other)
    assert whole == pytest.approx(set_cosines(x, sets), abs=1e-6)


def wiggles(rng: np.random.Generator, coefficient: float, size: float) -> np.ndarray:
    series = np.zeros(len(STEPS))
    series[0] = rng.normal() * size
    for place in range(1, len(series)):
        series[place] = coefficient * series[place - 1] + np.sqrt(1 - coefficient**2) * size * rng.normal()
    return series


def test_three_phases_are_found_in_ramps_and_not_in_wanders() -> None:
    rng, u = np.random.default_rng(0), np.log2(1 + np.array(STEPS))
    found, near = 0, 0
    for _ in range(40):
        start, length = rng.uniform(4, 7), rng.uniform(1.5, 4)
        phases = find_phases(STEPS, 0.05 + 0.4 * np.clip((u - start) / length, 0, 1) + wiggles(rng, 0.3, 0.03))
        assert phases is not None
        found += phases.shape == "three_phases"
        near += abs(u[phases.rise_from] - start) < 1.2 and abs(u[phases.rise_to] - start - length) < 1.2
    assert found >= 38
    assert near >= 36
    for coefficient, size in ((0.0, 0.05), (0.6, 0.1), (0.9, 0.2)):
        shapes = [find_phases(STEPS, 0.1 + wiggles(rng, coefficient, size)) for _ in range(40)]
        assert sum(one is not None and one.shape == "three_phases" for one in shapes) <= 2


def test_shapes_by_hand() -> None:
    u = np.log2(1 + np.array(STEPS))
    noise = 0.003 * np.random.default_rng(1).standard_normal(len(STEPS))
    shapes = {
        "flat": np.full(len(u), 0.2),
        "linear": 0.05 * u,
        "two_piece": 0.05 * np.clip(u - 6, 0, None),
        "three_phases": 0.1 + 0.4 * np.clip((u - 5) / 3, 0, 1),
    }
    for shape, values in shapes.items():
        phases = find_phases(STEPS, values + noise)
        assert phases is not None
        assert phases.shape == shape
    small = find_phases(STEPS, 0.1 + 0.05 * np.clip((u - 5) / 3, 0, 1) + noise)
    assert small is not None
    assert small.shape != "three_phases"
    values = shapes["three_phases"] + noise
    values[[2, 5]] = np.nan
    masked = find_phases(STEPS, values)
    assert masked is not None
    assert masked.shape == "three_phases"
    assert masked.high - masked.low == pytest.approx(0.4, abs=0.02)
    assert find_phases(STEPS[:7], values[:7]) is None


def test_many_curves_at_once_have_the_shapes_that_each_has_alone() -> None:
    rng = np.random.default_rng(3)
    curves = np.stack([wiggles(rng, 0.5, 0.1) + rng.random() * np.clip(np.arange(21) - 5, 0, 8) / 8 for _ in range(30)])
    curves[4, 2] = curves[7, :15] = np.nan
    together = find_phases_of(STEPS, curves)
    assert together[7] is None
    for curve, found in zip(curves, together, strict=True):
        alone = find_phases(STEPS, curve)
        assert (alone is None) == (found is None)
        if alone is not None and found is not None:
            assert found[:3] == alone[:3]
            assert found[3:] == pytest.approx(alone[3:])
    assert len({found.shape for found in together if found is not None}) >= 2


def test_shapes_are_those_of_least_squares_with_autoregressive_residuals() -> None:
    rng = np.random.default_rng(4)
    y, u = wiggles(rng, 0.6, 0.1), np.log2(1 + np.array(STEPS, dtype=float))
    design = np.stack([np.ones_like(u), u], 1)
    scores = []
    for coefficient in COEFFICIENTS:
        power = np.abs(np.subtract.outer(np.arange(21), np.arange(21)))
        covariance = coefficient**power / (1 - coefficient**2)
        weight = np.linalg.inv(covariance)
        beta = np.linalg.solve(design.T @ weight @ design, design.T @ weight @ y)
        left = y - design @ beta
        variance = left @ weight @ left / 21
        scores.append(21 * np.log(variance) + np.linalg.slogdet(covariance)[1])
    assert _bic(y[:, None], design, 0)[0] == pytest.approx(min(scores) + 4 * np.log(21))
