"""The test for a turning point: false positives, power and place on simulated curves, and hand-computed rates."""

import subprocess
import sys
from collections import defaultdict
from itertools import product

import numpy as np
import pytest

from ontogeny.analyses.change_point import ChangePoint, find_break, find_change, turning_rates

PYTHIA = [0, *(2**i for i in range(10)), *range(1000, 11000, 1000)]
PYTHIA += [1000 * k for k in (14, 20, 27, 34, 47, 60, 74, 87, 100, 114, 127, 143)]
DENSE = [0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1000, 1400, 2000, 2800, 4000, 5000]
BREAK = np.log2(1001)


def log_steps(steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Midpoint and length of each interval."""
    edges = np.log2(1 + np.array(steps))
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def changes(
    steps: list[int], curve: np.ndarray, coefficient: float, repeats: int, *, degree: int = 3, spacing: bool = True
) -> list[ChangePoint]:
    """What is found in the curve plus AR(1) wiggles with a standard deviation of .15."""
    wiggles = np.random.default_rng(0).standard_normal((repeats, len(curve)))
    for j in range(1, len(curve)):
        wiggles[:, j] = coefficient * wiggles[:, j - 1] + np.sqrt(1 - coefficient**2) * wiggles[:, j]
    series = curve + 0.15 * wiggles
    found = [find_change(steps, 2**y, samples=199, degree=degree, spacing=spacing) for y in series]
    return [change for change in found if change]


def share_found(found: list[ChangePoint]) -> float:
    return float(np.mean([change.p_value <= 0.05 for change in found]))


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("steps", [PYTHIA, DENSE])
def test_smooth_curves_are_rarely_called_changes(steps: list[int], coefficient: float) -> None:
    t, _ = log_steps(steps)
    for curve in (-0.3 * t, -0.03 * (t - 6) ** 2):
        assert share_found(changes(steps, curve, coefficient, 100)) <= 0.07


def test_a_slow_sigmoid_around_step_1000_is_rarely_called_a_change() -> None:
    t, _ = log_steps(PYTHIA)
    sigmoid = -2 / (1 + np.exp(-(t - BREAK) / 1.4))  # 8 log-steps from 5 % to 95 %
    assert share_found(changes(PYTHIA, sigmoid, 0.3, 100)) <= 0.07
    assert share_found(changes(PYTHIA, sigmoid, 0.3, 100, degree=2)) > 0.15


def test_the_change_of_spacing_at_step_1000_alone_is_no_change() -> None:
    t, lengths = log_steps(PYTHIA)
    wandering = -0.3 * t - 0.5 * np.log2(lengths)  # angles grow with the square root of the length
    assert share_found(changes(PYTHIA, wandering, 0.3, 100)) <= 0.07
    assert share_found(changes(PYTHIA, wandering, 0.3, 100, spacing=False)) > 0.15


@pytest.mark.parametrize("steps", [PYTHIA, DENSE])
@pytest.mark.parametrize("kind", ["slope", "rate"])
def test_a_strong_break_is_found_within_one_snapshot_of_its_place(steps: list[int], kind: str) -> None:
    t, _ = log_steps(steps)
    found = changes(steps, -0.3 * t - 2 * (np.maximum(t - BREAK, 0) if kind == "slope" else t > BREAK), 0.3, 100)
    assert share_found(found) > 0.8
    assert np.mean([abs(change.snapshot - steps.index(1000)) <= 1 for change in found]) > 0.9


def test_an_exact_break_is_described_exactly() -> None:
    t, _ = log_steps(PYTHIA)
    y = np.where(t < BREAK, 1 - 0.25 * (t - BREAK), -1 - 0.75 * (t - BREAK))
    change = find_change(PYTHIA, 2**y)
    assert change is not None
    assert PYTHIA[change.snapshot] == 1000
    assert change.p_value == 1 / 1000
    assert change.statistic == pytest.approx(1)
    assert (change.slope_before, change.slope_after, change.shift) == pytest.approx((-0.25, -0.75, -2))


def test_a_constant_rate_has_no_change() -> None:
    change = find_change(DENSE, np.full(20, 3.0))
    assert change is not None
    assert change.p_value == 1


def test_the_autocorrelation_is_corrected_for_the_fit() -> None:
    t, _ = log_steps(PYTHIA)
    for coefficient in (0.3, 0.6):
        estimates = [change.autocorrelation for change in changes(PYTHIA, 0 * t, coefficient, 100)]
        assert np.mean(estimates) == pytest.approx(coefficient, abs=0.07)


def test_the_statistic_is_the_drop_of_the_residual_sum_of_squares_in_a_plain_regression() -> None:
    t, lengths = log_steps(DENSE)
    y = np.random.default_rng(1).standard_normal(20)
    drift = np.column_stack([np.ones(20), t, t**2, t**3, np.log2(lengths)])

    def rss(*columns: np.ndarray) -> float:
        return float(np.linalg.lstsq(np.column_stack([drift, *columns]), y)[1][0])

    shares = {k: 1 - rss(np.arange(20) >= k, t * (np.arange(20) >= k)) / rss() for k in range(3, 18)}
    change = find_change(DENSE, 2**y)
    assert change is not None
    assert change.snapshot == max(shares, key=lambda k: shares[k])
    assert change.statistic == pytest.approx(max(shares.values()))


def test_a_turning_rate_is_the_mean_angle_of_living_features_per_log_step() -> None:
    angles = np.array([[10.0, 20.0, np.nan], [np.nan, np.nan, np.nan], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(turning_rates(angles, [0, 3, 7, 15]), [15 / 2, np.nan, 0])


def test_identical_directions_and_intervals_without_features_are_left_out() -> None:
    rates = 2.0 ** np.random.default_rng(0).standard_normal(20)
    rates[[0, 9]] = 0, np.nan
    change = find_change(DENSE, rates)
    assert change is not None
    assert change.snapshot not in (0, 9)
    assert 0 < change.p_value <= 1


def test_too_few_positive_rates_are_not_tested() -> None:
    angles = np.full((10, 5), 20.0)
    angles[:3] = 0
    assert find_change(DENSE[:11], turning_rates(angles, DENSE[:11])) is None
    assert find_change(DENSE[:11], np.full(10, 20.0)) is not None


def test_eight_intervals_are_tested_without_a_warning() -> None:
    steps = [0, 16, 32, 64, 96, 128, 176, 240, 320]
    for seed in range(20):
        change = find_change(steps, 2.0 ** np.random.default_rng(seed).standard_normal(8), samples=99)
        assert change is not None
        assert change.low <= change.high


def test_the_steps_must_rise_and_bound_the_intervals() -> None:
    with pytest.raises(ValueError, match="2 intervals need 3 rising steps: found \\[0, 1\\]"):
        find_change([0, 1], np.ones(2))
    with pytest.raises(ValueError, match="rising"):
        find_change([0, 2, 1], np.ones(2))


def test_the_interval_of_the_place_holds_the_break_as_often_as_it_says_and_narrows_with_smaller_wiggles() -> None:
    t, _ = log_steps(PYTHIA)
    curve = -0.3 * t - np.maximum(t - BREAK, 0)
    found = changes(PYTHIA, curve, 0.3, 60)
    assert np.mean([change.low <= PYTHIA.index(1000) <= change.high for change in found]) >= 0.9
    calm = find_change(PYTHIA, 2 ** (curve + 0.02 * np.random.default_rng(0).standard_normal(len(t))))
    assert calm is not None
    assert calm.high - calm.low < np.mean([change.high - change.low for change in found])
    assert calm.low <= PYTHIA.index(1000) <= calm.high


def test_the_same_seed_gives_the_same_answer() -> None:
    rates = 2.0 ** np.random.default_rng(0).standard_normal(20)
    assert find_change(DENSE, rates, seed=3) == find_change(DENSE, rates, seed=3)


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, ontogeny.analyses.change_point; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_interval_of_a_break_holds_the_planted_one_on_the_grid_of_pythias_evaluations() -> None:
    """Breaks of slope and of level, from hardly seen to plain, in noise from independent to lasting. (A plain jump is
    placed exactly, always: an interval of whole snapshots cannot hold it less often.)"""
    steps = [0, *(2**power for power in range(10)), 1000, *range(3000, 143_001, 10_000)]
    t, draw, held = np.log2(1 + np.asarray(steps)), np.random.default_rng(0), defaultdict(list)
    for kind, size, coefficient in product(("slope", "level"), (5, 10, 20), (0.0, 0.3, 0.6)):
        for _ in range(40):
            noise = draw.standard_normal(len(t))
            for at in range(1, len(t)):
                noise[at] = coefficient * noise[at - 1] + np.sqrt(1 - coefficient**2) * noise[at]
            place = int(draw.integers(3, len(t) - 2))
            bend = np.maximum(t - (t[place - 1] + t[place]) / 2, 0) / 4
            curve = size * (bend if kind == "slope" else (np.arange(len(t)) >= place))
            change = find_break(t, curve + noise, samples=199)
            assert change is not None
            held[kind, coefficient].append(change.low <= place <= change.high)
    assert all(np.mean(cell) >= 0.9 for cell in held.values())
    assert np.mean([held["slope", coefficient] for coefficient in (0.0, 0.3, 0.6)]) <= 0.98


def test_a_level_that_jumps_is_placed_at_once() -> None:
    t = np.linspace(0, 10, 20)
    change = find_break(t, 0.1 * np.sin(5 * t) + 5 * (np.arange(20) >= 12))
    assert change is not None
    assert (change.place, change.low, change.high) == (12, 12, 12)
    assert change.p_value < 0.01
    assert find_break(t[:7], t[:7]) is None


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_so_few_snapshots_that_drift_and_a_break_explain_all_have_no_break(degree: int) -> None:
    # nine snapshots, unevenly spaced: a quartic, the length of the interval and a break take all eight rates
    steps = [0, 10, 25, 60, 150, 400, 1000, 2500, 6000]
    change = find_change(steps, np.exp(np.random.default_rng(0).standard_normal(8)), samples=99, degree=degree)
    assert (change is None) == (degree == 4)
