"""How often `find_change` cries wolf, and what it misses. Prints markdown tables: `make bench-change-point`.

Log2 rates are simulated on the snapshots of real suites: a curve plus AR(1) wiggles of a given standard deviation.
"""

import time
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from ontogeny.analyses.change_point import ChangePoint, find_change

PYTHIA = [0, *(2**i for i in range(10)), *range(1000, 11000, 1000)]
PYTHIA += [1000 * k for k in (14, 20, 27, 34, 47, 60, 74, 87, 100, 114, 127, 143)]
DENSE = [0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1000, 1400, 2000, 2800, 4000, 5000]
SUITES = {"Pythia": PYTHIA, "dense": DENSE}
COEFFICIENTS, DEVIATIONS = (0.0, 0.3, 0.6), (0.05, 0.15, 0.3)
LEVEL = 0.05
SAMPLES = 199

Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]  # midpoints and lengths in log-steps -> log2 rates


def wiggles(rng: np.random.Generator, repeats: int, n: int, coefficient: float) -> np.ndarray:
    """[repeat, n] stationary AR(1) series of unit variance."""
    series = rng.standard_normal((repeats, n))
    for j in range(1, n):
        series[:, j] = coefficient * series[:, j - 1] + np.sqrt(1 - coefficient**2) * series[:, j]
    return series


def sigmoid(center: float, width: float) -> Curve:
    """A fall to a quarter; nine tenths of the way take `width` log-steps (from 5 % to 95 %)."""
    return lambda t, _: -2 / (1 + np.exp(-(t - center) * 2 * np.log(19) / width))


def relaxation(steps: float) -> Curve:
    """A fall to a quarter, exponential in steps."""
    return lambda t, _: 2 * np.exp(-(2**t - 1) / steps)


SMOOTH: dict[str, list[Curve]] = {
    "linear": [lambda t, _: -0.3 * t],
    "quadratic": [lambda t, _: -0.03 * (t - 6) ** 2],
    "wandering: rate ∝ 1/√length": [lambda t, length: -0.3 * t - 0.5 * np.log2(length)],
    **{f"sigmoid, {w} log-steps wide": [sigmoid(c, w) for c in (4, 7, 10, 13)] for w in (4, 6, 8, 12)},
    **{f"relaxation in {s} steps": [relaxation(s)] for s in (100, 1000, 5000)},
}


def broken(kind: str, size: float) -> Curve:
    """A line that breaks at step 1,000: its slope falls by `size`, or the rate itself at once."""
    at = np.log2(1001)
    return lambda t, _: -0.3 * t - size * (np.maximum(t - at, 0) if kind == "slope" else t > at)


def simulate(
    steps: list[int], curves: list[Curve], *, coefficient: float, deviation: float, repeats: int, seed: int = 0
) -> np.ndarray:
    """[repeat, interval] log2 rates, the curves taken in turn."""
    edges = np.log2(1 + np.array(steps))
    shapes = np.array([curve((edges[1:] + edges[:-1]) / 2, np.diff(edges)) for curve in curves])
    series = wiggles(np.random.default_rng(seed), repeats, len(steps) - 1, coefficient)
    return shapes[np.arange(repeats) % len(curves)] + deviation * series


def changes(steps: list[int], series: np.ndarray, *, degree: int = 3, spacing: bool = True) -> list[ChangePoint]:
    found = [find_change(steps, 2**y, samples=SAMPLES, degree=degree, spacing=spacing) for y in series]
    return [change for change in found if change is not None]


def rejected(found: list[ChangePoint]) -> str:
    return f"{np.mean([change.p_value <= LEVEL for change in found]):.2f}"


def permuted(series: np.ndarray) -> str:
    """Rejections by the naive test: the largest difference of two means, against the rates in shuffled order."""

    def largest(y: np.ndarray) -> np.ndarray:
        n = np.arange(3, y.shape[1] - 2)
        sums = (y - y.mean(1, keepdims=True)).cumsum(1)[:, n - 1]
        return (sums**2 / (n * (y.shape[1] - n))).max(1)

    rng, observed = np.random.default_rng(0), largest(series)
    larger = sum((largest(rng.permuted(series, axis=1)) >= observed).astype(int) for _ in range(SAMPLES))
    return f"{np.mean((1 + larger) / (SAMPLES + 1) <= LEVEL):.2f}"


def table(title: str, header: list[str], rows: Iterator[list[str]]) -> None:
    print(f"\n**{title}**\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


NOISE = list(product(DEVIATIONS, COEFFICIENTS))
NOISE_HEADER = [f"sd {s}, ρ {c}" for s, c in NOISE]


def false_positives(repeats: int = 300) -> Iterator[list[str]]:
    for (suite, steps), (name, curves) in product(SUITES.items(), SMOOTH.items()):
        cells = []
        for seed, (s, c) in enumerate(NOISE):
            series = simulate(steps, curves, coefficient=c, deviation=s, repeats=repeats, seed=seed)
            cells.append(rejected(changes(steps, series)))
        naive = permuted(simulate(steps, curves, coefficient=0.3, deviation=0.15, repeats=repeats))
        yield [suite, name, *cells, naive]


def power(repeats: int = 200) -> Iterator[list[str]]:
    for (suite, steps), kind, size in product(SUITES.items(), ("slope", "rate"), (0.5, 1, 2)):
        cells = []
        for seed, (s, c) in enumerate(NOISE):
            curve = [broken(kind, size)]
            found = changes(steps, simulate(steps, curve, coefficient=c, deviation=s, repeats=repeats, seed=seed))
            near = np.mean([abs(change.snapshot - steps.index(1000)) <= 1 for change in found])
            cells.append(f"{rejected(found)} ({near:.2f})")
        yield [suite, f"{kind} −{size}", *cells]


def drifts(repeats: int = 200) -> Iterator[list[str]]:
    cases = [
        SMOOTH["wandering: rate ∝ 1/√length"],
        *([sigmoid(np.log2(1001), w)] for w in (4, 8, 12)),
        *([broken(kind, size)] for kind in ("slope", "rate") for size in (1, 2)),
    ]
    for (suite, steps), degree, spacing in product(SUITES.items(), (2, 3, 4), (False, True)):
        series = [simulate(steps, case, coefficient=0.3, deviation=0.15, repeats=repeats) for case in cases]
        cells = [rejected(changes(steps, y, degree=degree, spacing=spacing)) for y in series]
        yield [suite, f"degree {degree}{' and length' * spacing}", *cells]


def coverage(repeats: int = 100) -> Iterator[list[str]]:
    for (suite, steps), kind, change in product(SUITES.items(), ("slope", "rate"), (1, 2)):
        place, cells = steps.index(1000), []
        for s in DEVIATIONS:
            found = [
                find_change(steps, 2**y, samples=SAMPLES)
                for y in simulate(steps, [broken(kind, change)], coefficient=0.3, deviation=s, repeats=repeats)
            ]
            low, high = np.array([(change.low, change.high) for change in found if change]).T
            cells.append(f"{np.mean((low <= place) & (place <= high)):.2f} ({np.mean(high - low):.1f})")
        yield [suite, f"{kind} −{change}", *cells]


def main() -> None:
    started = time.perf_counter()
    table(
        f"False positives at p ≤ {LEVEL} on smooth curves; last: a permutation test at sd 0.15, ρ 0.3",
        ["suite", "curve", *NOISE_HEADER, "permuted"],
        false_positives(),
    )
    table(
        "Power at p ≤ 0.05 for a break at step 1,000 (and: placed within one snapshot of it)",
        ["suite", "log2 change", *NOISE_HEADER],
        power(),
    )
    table(
        "Choice of drift at sd 0.15, ρ 0.3: found in smooth curves (sigmoids around step 1,000), then in true breaks",
        [
            "suite",
            "drift",
            "wandering",
            "sigmoid 4",
            "sigmoid 8",
            "sigmoid 12",
            "slope −1",
            "slope −2",
            "rate −1",
            "rate −2",
        ],
        drifts(),
    )
    table(
        "Coverage of the 95 % interval of the break's place (and its mean width in snapshots), ρ 0.3",
        ["suite", "log2 change", *(f"sd {s}" for s in DEVIATIONS)],
        coverage(),
    )
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
