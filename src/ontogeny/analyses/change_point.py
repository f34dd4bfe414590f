"""Is there a turning point? A break in how fast directions turn, tested against smooth drift on the same snapshots.

A permutation test would not do: under its null there is no trend at all, so it finds a change in every smooth curve.
Here the null is a smooth curve, seen through the same intervals, with wiggles that last for several snapshots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MIN_INTERVALS = 8  # cubic drift and spacing take five degrees of freedom, a break two
MIN_SIDE = 3  # intervals on each side of a break
COEFFICIENTS = np.linspace(0, 0.95, 20)
ROUNDING = 1e-18  # squared log2 rates; smaller ones are rounding


@dataclass(frozen=True)
class ChangePoint:
    """The most likely break in the trend of log2 turning rates.

    Attributes:
        snapshot: index into the steps: one trend ends at this snapshot and another begins. The change itself may lie
            anywhere in the two intervals that meet here.
        low, high: 95 % interval of `snapshot`, were wiggles like those seen to fall differently, and if there is one
            break; features drawn anew are among the wiggles, another dictionary or run of the model is not.
        statistic: share of the variance around smooth drift that the break explains, 0 to 1.
        p_value: probability that smooth drift with autocorrelated wiggles gives as large a share somewhere.
        autocorrelation: of the wiggles, from one interval to the next, corrected for what the fit took out.
        slope_before: of the line through the rates before the break, in log2 rate per log-step.
        slope_after: of the line through the rates after it.
        shift: second line minus first at the break, in log2 rate: −1 where the rate halves at once.
    """

    snapshot: int
    low: int
    high: int
    statistic: float
    p_value: float
    autocorrelation: float
    slope_before: float
    slope_after: float
    shift: float


def turning_rates(angles: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """[interval] mean angle over length, in degrees per log-step; nan where no feature is alive at both ends.

    Args:
        angles: [interval, feature] degrees by which a direction turns from one snapshot to the next, nan where its
            feature is not alive at both.
        steps: [interval + 1] training step of each snapshot, rising.
    """
    alive = ~np.isnan(angles)
    lengths = np.diff(np.log2(1 + np.asarray(steps)))
    totals, counts = np.where(alive, angles, 0.0).sum(1), alive.sum(1)
    return np.divide(totals, counts * lengths, out=np.full(len(lengths), np.nan), where=counts > 0)


def find_change(
    steps: Sequence[int], rates: np.ndarray, *, samples: int = 999, seed: int = 0, degree: int = 3, spacing: bool = True
) -> ChangePoint | None:
    """Find the most likely break in log2 rate against log-steps, and test it against smooth drift.

    Null: a polynomial in log-steps, plus a multiple of the log2 length of the interval, plus stationary AR(1) wiggles.
    Cubic, because a slow sigmoid around the middle of the snapshots passes for a break of a quadratic. The length,
    because directions that wander turn with its square root: their rate jumps where the schedule changes its spacing.
    Alternative: the same plus a line of free level and slope from one snapshot on. A change of slope alone does not
    find a rate that jumps, a jump alone does not find a slope that changes. `benchmarks/change_point.py` measures this.

    The statistic is the largest share of the residual variance that a break explains. Its distribution under the null
    depends on the intervals and on the AR(1) coefficient alone, and is drawn by treating simulated wiggles alike. The
    coefficient is the one, from 0 to .95, whose expected lag-1 autocorrelation after the fit is the observed one. A
    break raises it, so p-values err on the high side.

    The interval of the place comes from as many series: the fitted break plus simulated wiggles of the size that is
    left around it.

    Args:
        steps: [interval + 1] training step of each snapshot, rising.
        rates: [interval] degrees per log-step, as from `turning_rates`. Those that are zero or nan have no logarithm:
            their intervals are left out, and the intervals beside them count as neighbours.
        samples: simulated wiggles; a p-value is a multiple of 1 / (samples + 1).
        degree: of the polynomial.
        spacing: whether the null contains the length of the interval.
    Returns:
        None where fewer than `MIN_INTERVALS` rates are positive: too few snapshots to test.
    Raises:
        ValueError: steps do not rise, or are not one more than the rates.
    """
    model = _model(steps, rates, degree=degree, spacing=spacing)
    if model is None:
        return None
    y = np.log2(rates[model.kept])
    shares = _shares(y, model)
    place = int(shares.argmax())
    coefficient = _autocorrelation(model.smooth @ y, model.smooth)
    noise = np.random.default_rng(seed).standard_normal((samples, len(y)))
    null = _shares(noise @ np.linalg.cholesky(_ar1(coefficient, len(y))).T, model).max(1)
    low, high = _place_interval(y, place, noise, model)
    snapshot, first = int(model.kept[place + MIN_SIDE]), place + MIN_SIDE
    t = model.midpoints - np.log2(1 + steps[snapshot])
    slope_before, level_before = np.polyfit(t[:first], y[:first], 1)
    slope_after, level_after = np.polyfit(t[first:], y[first:], 1)
    return ChangePoint(
        snapshot=snapshot,
        low=low,
        high=high,
        statistic=float(shares[place]),
        p_value=float((1 + (null >= shares[place]).sum()) / (samples + 1)),
        autocorrelation=coefficient,
        slope_before=float(slope_before),
        slope_after=float(slope_after),
        shift=float(level_after - level_before),
    )


class _Model(NamedTuple):
    """Smooth drift and every break, on the intervals that have a rate.

    Attributes:
        kept: [kept] indices of these intervals.
        midpoints: [kept] in log-steps.
        smooth: [kept, kept] projection onto what smooth drift leaves.
        breaks: [break, kept, 2] orthonormal basis of what each break adds to smooth drift.
    """

    kept: np.ndarray
    midpoints: np.ndarray
    smooth: np.ndarray
    breaks: np.ndarray


def _model(steps: Sequence[int], rates: np.ndarray, *, degree: int, spacing: bool) -> _Model | None:
    edges = np.log2(1 + np.asarray(steps))
    if len(edges) != len(rates) + 1 or (np.diff(edges) <= 0).any():
        raise ValueError(f"{len(rates)} intervals need {len(rates) + 1} rising steps: found {list(steps)}")
    kept = np.flatnonzero(rates > 0)
    if len(kept) < MIN_INTERVALS:
        return None
    t, lengths = ((edges[1:] + edges[:-1]) / 2)[kept], np.diff(edges)[kept]
    drift = np.vander((t - t.mean()) / np.ptp(t), degree + 1)
    if spacing:
        drift = np.column_stack([drift, np.log2(lengths)])
    basis, sizes, _ = np.linalg.svd(drift, full_matrices=False)
    basis = basis[:, sizes > 1e-9 * sizes[0]]  # snapshots evenly spaced in log-steps: the length is a constant
    smooth = np.eye(len(t)) - basis @ basis.T
    after = np.arange(len(t)) >= np.arange(MIN_SIDE, len(t) - MIN_SIDE + 1)[:, None]
    breaks, _ = np.linalg.qr(smooth @ np.stack([after, after * t], axis=2))
    return _Model(kept, t, smooth, breaks)


def _shares(series: np.ndarray, model: _Model) -> np.ndarray:
    """[..., break] share of the variance of each series [..., kept] around smooth drift that each break explains."""
    residuals = series @ model.smooth
    explained = (np.tensordot(residuals, model.breaks, (-1, 1)) ** 2).sum(-1)
    return explained / ((residuals**2).sum(-1, keepdims=True) + ROUNDING)


def _place_interval(y: np.ndarray, place: int, noise: np.ndarray, model: _Model) -> tuple[int, int]:
    """95 % interval of the snapshot at which the fitted break is found again when the wiggles around it fall anew."""
    left = model.smooth - model.breaks[place] @ model.breaks[place].T
    residuals = left @ y
    correlations = _ar1(_autocorrelation(residuals, left), len(y))
    size = np.sqrt((residuals**2).sum() / max(np.trace(left @ correlations), 1e-9))
    again = y - residuals + size * noise @ np.linalg.cholesky(correlations).T
    places = model.kept[_shares(again, model).argmax(1) + MIN_SIDE]
    low, high = np.quantile(places, [0.025, 0.975], method="inverted_cdf")
    return int(low), int(high)


def _autocorrelation(residuals: np.ndarray, smooth: np.ndarray) -> float:
    """AR(1) coefficient whose expected lag-1 autocorrelation, after the fit of smooth drift, is the residuals' own."""
    expected = [_lag_one(smooth @ _ar1(coefficient, len(smooth)) @ smooth) for coefficient in COEFFICIENTS]
    return float(np.interp(_lag_one(np.outer(residuals, residuals)), expected, COEFFICIENTS))


def _ar1(coefficient: float, n: int) -> np.ndarray:
    """[n, n] correlations of a stationary AR(1) series."""
    return coefficient ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def _lag_one(covariance: np.ndarray) -> float:
    """Lag-1 autocorrelation of a series with this covariance."""
    return np.trace(covariance, offset=1) / (np.trace(covariance) + ROUNDING)
