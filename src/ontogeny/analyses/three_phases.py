"""Low, rise, stable: has a curve over pre-training three phases?

Source: SAE-Track, arXiv 2412.17626, which reads them by eye. Here four shapes over log-steps compete by BIC, each with
AR(1) residuals, whose coefficient is fitted with the shape: without it every slow wander would pass for phases.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

COEFFICIENTS = np.linspace(0, 0.9, 10)
MIN_POINTS = 8
MIN_SIDE = 2
"""Snapshots in the low and in the stable phase."""
MIN_RISE = 0.1
MARGIN = 4.0
"""BIC by which three phases have to be better than every other shape: few slow wanders pass for them then (LOG.md)."""
SHAPES = ("flat", "linear", "two_piece", "three_phases")


class Phases(NamedTuple):
    """The shape of a curve.

    Attributes:
        shape: one of SHAPES, `three_phases` only where that is better by a margin and rises enough.
        rise_from, rise_to: snapshots at which the low phase ends and the stable one begins, of the best three phases.
        low, high: levels of the two.
        margin: BIC of the best other shape less that of three phases.
    """

    shape: str
    rise_from: int
    rise_to: int
    low: float
    high: float
    margin: float


def find_phases(steps: Sequence[int], values: np.ndarray, *, min_rise: float = MIN_RISE) -> Phases | None:
    """The likeliest of four shapes of a curve.

    Args:
        steps: [snapshot] rising.
        values: [snapshot]; nan where the curve is not known.
        min_rise: by how much three phases have to rise, in units of the values.
    Returns:
        None where fewer than `MIN_POINTS` values are known.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < MIN_POINTS:
        return None
    u, y = np.log2(1 + np.asarray(steps, dtype=float)[known]), values[known]
    best = {shape: min((_bic(y, design, knots), first, last) for design, knots, first, last in candidates)
            for shape, candidates in _designs(u).items()}  # fmt: skip
    bic, first, last = best.pop("three_phases")
    _, place = min((value, shape) for shape, (value, *_) in best.items())
    ramp = np.clip((u - u[first]) / (u[last] - u[first]), 0, 1)
    rise, low = np.polyfit(ramp, y, 1)
    margin = min(value for value, *_ in best.values()) - bic
    shape = "three_phases" if margin >= MARGIN and rise >= min_rise else place
    return Phases(shape, int(known[first]), int(known[last]), float(low), float(low + rise), float(margin))


def _designs(u: np.ndarray) -> dict[str, Iterator[tuple[np.ndarray, int, int, int]]]:
    """For each shape its candidates: columns, number of knots, first and last knot."""
    n, one = len(u), np.ones_like(u)
    hinges = ((np.stack([one, u, np.clip(u - u[k], 0, None)], 1), 1, k, k) for k in range(1, n - 1))
    ramps = (
        (np.stack([one, np.clip((u - u[a]) / (u[b] - u[a]), 0, 1)], 1), 2, a, b)
        for a in range(MIN_SIDE - 1, n - MIN_SIDE)
        for b in range(a + 1, n - MIN_SIDE + 1)
    )
    return {
        "flat": iter([(one[:, None], 0, 0, 0)]),
        "linear": iter([(np.stack([one, u], 1), 0, 0, 0)]),
        "two_piece": hinges,
        "three_phases": ramps,
    }


def _bic(y: np.ndarray, design: np.ndarray, knots: int) -> float:
    """BIC of a linear model with AR(1) residuals, at the likeliest coefficient."""
    n, columns = design.shape
    both = np.column_stack([design, y])
    scores = []
    for coefficient in COEFFICIENTS:
        white = np.vstack([np.sqrt(1 - coefficient**2) * both[:1], both[1:] - coefficient * both[:-1]])
        left = white[:, -1] - white[:, :-1] @ np.linalg.lstsq(white[:, :-1], white[:, -1], rcond=None)[0]
        scores.append(n * np.log(max(float(left @ left), 1e-12) / n) - np.log(1 - coefficient**2))
    return min(scores) + (columns + knots + 2) * np.log(n)
