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
    return find_phases_of(steps, values[None], min_rise=min_rise)[0]


def find_phases_of(steps: Sequence[int], values: np.ndarray, *, min_rise: float = MIN_RISE) -> list[Phases | None]:
    """The same of many curves [curve, snapshot]."""
    found: list[Phases | None] = [None] * len(values)
    patterns, of_curve = np.unique(np.isfinite(values), axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        known, curves = np.flatnonzero(pattern), np.flatnonzero(of_curve.reshape(-1) == number)
        if len(known) < MIN_POINTS:
            continue
        u, y = np.log2(1 + np.asarray(steps, dtype=float)[known]), values[np.ix_(curves, known)].T
        bics, firsts, lasts = {}, {}, {}
        for shape, candidates in _designs(u).items():
            scores, first, last = zip(
                *((_bic(y, design, knots), a, b) for design, knots, a, b in candidates), strict=True
            )
            best = np.argmin(scores, axis=0)
            bics[shape], firsts[shape], lasts[shape] = (
                np.min(scores, axis=0),
                np.array(first)[best],
                np.array(last)[best],
            )
        bic, first, last = bics.pop("three_phases"), firsts["three_phases"], lasts["three_phases"]
        others = list(bics)
        margin = np.min(list(bics.values()), axis=0) - bic
        other = np.argmin(list(bics.values()), axis=0)
        for place, curve in enumerate(curves):
            a, b = first[place], last[place]
            rise, low = np.polyfit(np.clip((u - u[a]) / (u[b] - u[a]), 0, 1), y[:, place], 1)
            three = margin[place] >= MARGIN and rise >= min_rise
            found[curve] = Phases(
                "three_phases" if three else others[other[place]],
                int(known[a]), int(known[b]), float(low), float(low + rise), float(margin[place]),
            )  # fmt: skip
    return found


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


def _bic(y: np.ndarray, design: np.ndarray, knots: int) -> np.ndarray:
    """BIC of a linear model with AR(1) residuals, at the likeliest coefficient, for curves [snapshot, curve]."""
    n, columns = design.shape
    scores = []
    for coefficient in COEFFICIENTS:
        first = np.sqrt(1 - coefficient**2)
        of_design, of_y = (np.vstack([first * one[:1], one[1:] - coefficient * one[:-1]]) for one in (design, y))
        basis = np.linalg.qr(of_design)[0]
        left = np.square(of_y - basis @ (basis.T @ of_y)).sum(0)
        scores.append(n * np.log(np.maximum(left, 1e-12) / n) - np.log(1 - coefficient**2))
    return np.min(scores, axis=0) + (columns + knots + 2) * np.log(n)
