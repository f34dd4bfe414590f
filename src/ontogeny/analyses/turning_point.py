"""How directions turn between snapshots, and whether there is a turning point.

Source: arXiv 2509.17196, decoder cosines over snapshots; the test against smooth drift is ours (`change_point.py`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from ontogeny.analyses.change_point import find_change, turning_rates
from ontogeny.features.life import alive_mask, log_steps
from ontogeny.intervals import bootstrap_mean
from ontogeny.run import Run
from ontogeny.tables import TABLES, from_rows


def cosines(run: Run) -> pl.DataFrame:
    """The table `cosines`: for each pair of snapshots the mean cosine of the decoder directions alive at both."""
    directions, steps, settings, rows = _living_directions(run), run.steps, run.study.analysis, []
    for a in range(len(steps)):
        for b in range(a, len(steps)):
            cosine = _cosines(directions, a, b)
            mean, low, high = _mean(cosine, samples=settings.bootstrap, seed=settings.seed)
            values = (a, b, steps[a], steps[b], int((~np.isnan(cosine)).sum()), mean, low, high)
            rows.append(dict(zip(TABLES["cosines"], values, strict=True)))
    return from_rows("cosines", rows)


def drift(run: Run) -> pl.DataFrame:
    """The table `drift`: by which angle living directions turn from one snapshot to the next, in every variant."""
    rows, settings = [], run.study.analysis
    for variant, snapshots, angles in _variants(run):
        steps = [run.steps[snapshot] for snapshot in snapshots]
        lengths = np.diff(log_steps(steps))
        for interval, length in enumerate(lengths):
            mean, low, high = _mean(angles[interval], samples=settings.bootstrap, seed=settings.seed)
            step, next_step = steps[interval], steps[interval + 1]
            rows.append(
                {
                    "variant": variant,
                    "step_a": step,
                    "step_b": next_step,
                    "features": int((~np.isnan(angles[interval])).sum()),
                    "angle": mean,
                    "angle_ci_low": low,
                    "angle_ci_high": high,
                    "per_log_step": mean / length,
                    "per_log_step_ci_low": low / length,
                    "per_log_step_ci_high": high / length,
                    "per_thousand_steps": 1000 * mean / (next_step - step),
                }
            )
    return from_rows("drift", rows)


def turning_point(run: Run) -> pl.DataFrame:
    """The table `turning_point`: in every variant the most likely break in how fast directions turn, and its test."""
    rows, settings = [], run.study.analysis
    for variant, snapshots, angles in _variants(run):
        steps = [run.steps[snapshot] for snapshot in snapshots]
        rates = turning_rates(angles, steps)
        change, quadratic, quartic = (
            find_change(steps, rates, degree=degree, samples=settings.bootstrap, seed=settings.seed)
            for degree in (3, 2, 4)
        )
        row = {"variant": variant, "intervals": len(rates), "features": int((~np.isnan(angles)).any(0).sum())}
        if change is not None:
            row |= {
                "step": steps[change.snapshot],
                "step_after": steps[change.snapshot - 1],
                "step_before": steps[change.snapshot + 1],
                "step_ci_low": steps[change.low],
                "step_ci_high": steps[change.high],
                "p_value": change.p_value,
                "p_value_quadratic": quadratic and quadratic.p_value,
                "p_value_quartic": quartic and quartic.p_value,
                "explained": change.statistic,
                "autocorrelation": change.autocorrelation,
                "slope_before": change.slope_before,
                "slope_after": change.slope_after,
                "shift": change.shift,
            }
        rows.append(row)
    return from_rows("turning_point", rows)


def _variants(run: Run) -> Iterator[tuple[str, Sequence[int], np.ndarray]]:
    """Name, snapshots and angles [interval, feature] of each way to look: all snapshots, every second one, and, where
    the study asks for it, another dictionary whose decoder was drawn for each snapshot anew."""
    directions, n = _living_directions(run), len(run.steps)
    every, second = range(n), range((n - 1) % 2, n, 2)
    yield "all", every, _angles(directions, every)
    yield "thinned", second, _angles(directions, second)
    if run.study.analysis.independent_start:
        yield "independent", every, _angles(_independent_directions(run), every)


def _living_directions(run: Run) -> np.ndarray:
    """Unit decoder directions [snapshot, feature, d_model], nan where a feature is not alive."""
    living = ~run.features.sort("feature")["dead"].to_numpy()
    alive = (run.matrix("strength_relative") >= run.study.measure.alive_threshold) & living
    return _unit_where(alive, run.dictionary().W_dec.numpy())


def _independent_directions(run: Run) -> np.ndarray:
    """The same of a dictionary whose decoder directions started different at every snapshot."""
    from ontogeny.activations.harvest import harvester_of
    from ontogeny.corpus.pack import Corpus
    from ontogeny.dictionaries.variants import variant
    from ontogeny.features.quality import reconstruct_held_out

    other = variant(run, "independent", decoder_start="independent")
    harvester = harvester_of(run)
    held_out = Corpus(run.corpus_folder / "held_out")
    measured = reconstruct_held_out(other.to(harvester.device), harvester, held_out, run.study.measure)
    strength, fired = other.strength().cpu().numpy(), measured.fired.cpu().numpy()
    return _unit_where(alive_mask(strength, run.study.measure.alive_threshold) & fired, other.W_dec.cpu().numpy())


def _unit_where(alive: np.ndarray, W_dec: np.ndarray) -> np.ndarray:
    return W_dec / np.where(alive, np.linalg.norm(W_dec, axis=2), np.nan)[..., None]


def _cosines(directions: np.ndarray, a: int, b: int) -> np.ndarray:
    """Cosine of each feature's directions at two snapshots [feature], nan where it is not alive at both."""
    return np.einsum("fd,fd->f", directions[a], directions[b])


def _angles(directions: np.ndarray, snapshots: Sequence[int]) -> np.ndarray:
    """Degrees between each feature's directions at neighbouring snapshots [interval, feature].

    From the chord, 2 asin(|u - v| / 2): an arc cosine would lose small angles to rounding.
    """
    chords = np.diff(directions[list(snapshots)], axis=0)
    return np.degrees(2 * np.arcsin(np.minimum(np.linalg.norm(chords, axis=2) / 2, 1)))


def _mean(values: np.ndarray, *, samples: int, seed: int) -> tuple[float, float, float]:
    """Mean over the features that have a value, and its interval; nan where none has."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return np.nan, np.nan, np.nan
    ones, each = np.ones(len(known)), np.arange(len(known))
    return float(known.mean()), *bootstrap_mean(known, ones, each, samples=samples, seed=seed)
