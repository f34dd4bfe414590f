"""The life history of features, from their strengths alone."""

from collections.abc import Sequence

import numpy as np
import polars as pl


def life_history(
    strength: np.ndarray,
    steps: Sequence[int],
    *,
    dead: np.ndarray,
    alive_threshold: float = 0.5,
    transient_below: float = 0.6,
    censored_last: int = 3,
) -> pl.DataFrame:
    """Origin, fate, birth, peak and death of each feature.

    Args:
        strength: [snapshot, feature], normalised units.
        steps: the snapshots' pre-training steps, ascending.
        dead: [feature], silent on all measured tokens; such features get nulls.
        alive_threshold: alive where strength is at least this share of the feature's greatest.
        transient_below: `transient` if alive in a smaller share of the snapshots after its birth.
        censored_last: a birth in the last so many snapshots is `censored`: too late to tell.
    Returns:
        A row per feature: feature, origin, fate, birth_after, birth_step, peak_step, death_step, revived, persistence,
        persistence_log, rise_width, dead, max_strength.
    """
    n, n_features = strength.shape
    step = np.asarray(steps)
    greatest = strength.max(0)
    alive = alive_mask(strength, alive_threshold)
    birth = alive.argmax(0)
    last = n - 1 - alive[::-1].argmax(0)
    after_birth = np.arange(n)[:, None] > birth
    share_alive = np.divide(
        (alive & after_birth).sum(0), after_birth.sum(0), out=np.ones(n_features), where=birth < n - 1
    )
    lengths = np.diff(log_steps(steps))[:, None] * after_birth[1:]
    lived = np.divide(
        (lengths * alive[1:]).sum(0), lengths.sum(0), out=np.full(n_features, np.nan), where=birth < n - 1
    )
    revived = (~alive[:-1] & alive[1:] & after_birth[:-1]).any(0)
    fate = np.where(
        (birth >= n - censored_last) & (birth > 0),
        "censored",
        np.where(share_alive < transient_below, "transient", "persistent"),
    )
    width = rise_width(strength, steps)
    unknown = dead | (greatest == 0)

    def known(values: np.ndarray, also: np.ndarray | None = None) -> list[object]:
        missing = unknown if also is None else unknown | also
        return [None if gone else value for value, gone in zip(values.tolist(), missing, strict=True)]

    return pl.DataFrame(
        {
            "feature": np.arange(n_features),
            "origin": known(np.where(birth == 0, "initial", "emergent")),
            "fate": known(fate),
            "birth_after": pl.Series(known(step[np.maximum(birth - 1, 0)], birth == 0), dtype=pl.Int64),
            "birth_step": pl.Series(known(step[birth]), dtype=pl.Int64),
            "peak_step": pl.Series(known(step[strength.argmax(0)]), dtype=pl.Int64),
            "death_step": pl.Series(known(step[np.minimum(last + 1, n - 1)], last == n - 1), dtype=pl.Int64),
            "revived": pl.Series(known(revived), dtype=pl.Boolean),
            "persistence": pl.Series(known(share_alive, birth == n - 1), dtype=pl.Float64),
            "persistence_log": pl.Series(known(lived, birth == n - 1), dtype=pl.Float64),
            "rise_width": pl.Series(known(width, np.isnan(width)), dtype=pl.Float64),
            "dead": dead,
            "max_strength": greatest,
        }
    )


def log_steps(steps: Sequence[int]) -> np.ndarray:
    """log2(1 + step), the unit in which most snapshots of a suite are evenly spaced."""
    return np.log2(1 + np.asarray(steps, dtype=float))


def rise_width(strength: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Log-steps that each feature takes to rise from 10 % to 90 % of its greatest strength [feature].

    From where it last crosses 10 % before it first crosses 90 %, both interpolated between snapshots; nan where it was
    not below 10 % before.
    """
    n, n_features = strength.shape
    relative = relative_strength(strength)
    full = (relative >= 0.9).argmax(0)
    below = (relative < 0.1) & (np.arange(n)[:, None] < full)
    low = n - 1 - below[::-1].argmax(0)
    seen = below.any(0)
    at, feature = log_steps(steps), np.arange(n_features)

    def crossing(level: float, before: np.ndarray) -> np.ndarray:
        after = np.minimum(before + 1, n - 1)
        start, end = relative[before, feature], relative[after, feature]
        share = np.divide(level - start, end - start, out=np.zeros(n_features), where=end > start)
        return at[before] + share * (at[after] - at[before])

    width = crossing(0.9, np.maximum(full - 1, 0)) - crossing(0.1, np.where(seen, low, 0))
    return np.where(seen, width, np.nan)


def alive_mask(strength: np.ndarray, threshold: float) -> np.ndarray:
    """Where each feature has at least `threshold` of its greatest strength [snapshot, feature]."""
    greatest = strength.max(0)
    return (strength >= threshold * greatest) & (greatest > 0)


def relative_strength(strength: np.ndarray) -> np.ndarray:
    """Strength over each feature's greatest [snapshot, feature]; 0 where that is 0."""
    greatest = strength.max(0)
    return np.divide(strength, greatest, out=np.zeros_like(strength), where=greatest > 0)
