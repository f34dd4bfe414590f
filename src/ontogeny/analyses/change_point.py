"""Is there a turning point? A break in the trend of a series over log-steps, tested against smooth drift on the same
snapshots: how fast directions turn from one snapshot to the next, or any value of the snapshots themselves.

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
STATIONARY = np.linspace(-0.95, 0.95, 39)  # coefficients that an interval allows for
OUTSIDE = 0.05  # of the places that hold a break are left out of their interval
ROUNDING = 1e-18  # squared log2 rates; smaller ones are rounding


@dataclass(frozen=True)
class Break:
    """The most likely break in the trend of a series.

    Attributes:
        place: index of the first point of the new trend.
        low, high: 95 % interval of `place`, were wiggles like those seen to fall anew, and if there is one break.
        statistic: share of the variance around smooth drift that the break explains, 0 to 1.
        p_value: probability that smooth drift with autocorrelated wiggles gives as large a share somewhere.
        autocorrelation: of the wiggles, from one point to the next, corrected for what the fit took out.
    """

    place: int
    low: int
    high: int
    statistic: float
    p_value: float
    autocorrelation: float


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

    The interval of the place comes from as many series for each place: the break fitted there plus simulated wiggles
    of the sizes and coefficients that the series may hold, drawn from their posterior.

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
    edges = np.log2(1 + np.asarray(steps))
    if len(edges) != len(rates) + 1 or (np.diff(edges) <= 0).any():
        raise ValueError(f"{len(rates)} intervals need {len(rates) + 1} rising steps: found {list(steps)}")
    kept = np.flatnonzero(rates > 0)
    midpoints, lengths = ((edges[1:] + edges[:-1]) / 2)[kept], np.diff(edges)[kept]
    y, options = np.log2(rates[kept]), {"samples": samples, "seed": seed, "degree": degree}
    found = find_break(midpoints, y, beside=np.log2(lengths) if spacing else None, **options)
    if found is None:
        return None
    snapshot = int(kept[found.place])
    t = midpoints - edges[snapshot]
    slope_before, level_before = np.polyfit(t[: found.place], y[: found.place], 1)
    slope_after, level_after = np.polyfit(t[found.place :], y[found.place :], 1)
    return ChangePoint(
        snapshot=snapshot,
        low=int(kept[found.low]),
        high=int(kept[found.high]),
        statistic=found.statistic,
        p_value=found.p_value,
        autocorrelation=found.autocorrelation,
        slope_before=float(slope_before),
        slope_after=float(slope_after),
        shift=float(level_after - level_before),
    )


def find_break(
    points: np.ndarray,
    values: np.ndarray,
    *,
    samples: int = 999,
    seed: int = 0,
    degree: int = 3,
    beside: np.ndarray | None = None,
) -> Break | None:
    """Find the most likely break in the trend of a series, and test it against smooth drift, as `find_change` says.

    Args:
        points: [point] where the values stand, such as log-steps, rising.
        values: [point] the series.
        samples: simulated wiggles; a p-value is a multiple of 1 / (samples + 1).
        degree: of the polynomial that smooth drift is.
        beside: [point] what the series may also follow without a break.
    Returns:
        None where there are fewer than `MIN_INTERVALS` points, or so few that drift and a break leave nothing.
    """
    if len(points) < MIN_INTERVALS:
        return None
    model = _model(points, degree=degree, beside=beside)
    if round(np.trace(model.smooth)) <= model.breaks.shape[2]:
        return None
    shares = _shares(values, model)
    place = int(shares.argmax())
    coefficient = _autocorrelation(model.smooth @ values, model.smooth)
    draw = np.random.default_rng(seed)
    noise = draw.standard_normal((samples, len(values)))
    null = _shares(noise @ np.linalg.cholesky(_ar1(coefficient, len(values))).T, model).max(1)
    low, high = _place_interval(values, noise, model, draw)
    return Break(
        place=place + MIN_SIDE,
        low=low,
        high=high,
        statistic=float(shares[place]),
        p_value=float((1 + (null >= shares[place]).sum()) / (samples + 1)),
        autocorrelation=coefficient,
    )


class _Model(NamedTuple):
    """Smooth drift and every break.

    Attributes:
        smooth: [point, point] projection onto what smooth drift leaves.
        breaks: [break, point, 2] orthonormal basis of what each break adds to smooth drift.
    """

    smooth: np.ndarray
    breaks: np.ndarray


def _model(t: np.ndarray, *, degree: int, beside: np.ndarray | None) -> _Model:
    drift = np.vander((t - t.mean()) / np.ptp(t), degree + 1)
    if beside is not None:
        drift = np.column_stack([drift, beside])
    basis, sizes, _ = np.linalg.svd(drift, full_matrices=False)
    basis = basis[:, sizes > 1e-9 * sizes[0]]  # snapshots evenly spaced in log-steps: the length is a constant
    smooth = np.eye(len(t)) - basis @ basis.T
    after = np.arange(len(t)) >= np.arange(MIN_SIDE, len(t) - MIN_SIDE + 1)[:, None]
    breaks, _ = np.linalg.qr(smooth @ np.stack([after, after * t], axis=2))
    return _Model(smooth, breaks)


def _shares(series: np.ndarray, model: _Model) -> np.ndarray:
    """[..., break] share of the variance of each series [..., point] around smooth drift that each break explains."""
    residuals = series @ model.smooth
    explained = (np.tensordot(residuals, model.breaks, (-1, 1)) ** 2).sum(-1)
    return explained / ((residuals**2).sum(-1, keepdims=True) + ROUNDING)


def _place_interval(y: np.ndarray, noise: np.ndarray, model: _Model, draw: np.random.Generator) -> tuple[int, int]:
    """95 % interval of the place of a break: from the first to the last place at which one is not refuted.

    A place is refuted where another one explains more than it does by an amount that happens in less than 5 % of the
    series made of the break fitted there and of wiggles as large and lasting as the series may hold. (The places at
    which the best fit is found again, the wiggles falling anew, hold the true one too seldom where a break is hardly
    seen; so do wiggles of the one size and coefficient that fit best.)
    """
    shares = _shares(y, model)
    best = int(shares.argmax())
    wiggles = _wiggles(y, noise, model, draw)
    kept = [best]
    for place, added in enumerate(model.breaks):
        fitted = y - (model.smooth - added @ added.T) @ y
        behind = _behind(_shares(fitted + wiggles, model), place)
        if (behind >= _behind(shares[None], place)).mean() >= OUTSIDE:
            kept.append(place)
    return min(kept) + MIN_SIDE, max(kept) + MIN_SIDE


def _wiggles(y: np.ndarray, noise: np.ndarray, model: _Model, draw: np.random.Generator) -> np.ndarray:
    """Noise [series, point] as AR(1) wiggles, each of a coefficient and size that y may hold.

    They are drawn from their posterior, with the break at any place: flat over places, coefficients, the logarithm of
    the size and whatever smooth drift and the break contribute, which leaves the restricted likelihood (Patterson and
    Thompson 1971) of the residuals.
    """
    left = model.smooth - model.breaks @ model.breaks.swapaxes(1, 2)
    degrees = round(np.trace(left[0]))
    basis = np.linalg.eigh(left)[1][:, :, -degrees:]  # [break, point, degree]
    correlations = np.stack([_ar1(coefficient, len(y)) for coefficient in STATIONARY])
    covariances = basis.swapaxes(1, 2)[:, None] @ correlations @ basis[:, None]
    residuals = (y @ basis)[:, None, :, None]
    squares = (residuals * np.linalg.solve(covariances, residuals)).sum((2, 3)) + ROUNDING  # [break, coefficient]
    logs = -(np.linalg.slogdet(covariances)[1] + degrees * np.log(squares)) / 2
    weights = np.exp(logs - logs.max())
    drawn = draw.choice(weights.size, len(noise), p=(weights / weights.sum()).ravel())
    sizes = np.sqrt(squares.ravel()[drawn] / draw.chisquare(degrees, len(noise)))
    roots = np.linalg.cholesky(correlations)[drawn % len(STATIONARY)]
    return sizes[:, None] * (roots @ noise[:, :, None])[:, :, 0]


def _behind(shares: np.ndarray, place: int) -> np.ndarray:
    """By how much the best place explains more than this one, in log of what is left unexplained [series]."""
    left = np.maximum(1 - shares, 1e-12)
    return np.log(left[:, place]) - np.log(left.min(1))


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
