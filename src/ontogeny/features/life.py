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
        A row per feature: feature, origin, fate, birth_after, birth_step, peak_step, death_step, revived, dead,
        max_strength.
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
    revived = (~alive[:-1] & alive[1:] & after_birth[:-1]).any(0)
    fate = np.where(
        (birth >= n - censored_last) & (birth > 0),
        "censored",
        np.where(share_alive < transient_below, "transient", "persistent"),
    )
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
            "dead": dead,
            "max_strength": greatest,
        }
    )


def alive_mask(strength: np.ndarray, threshold: float) -> np.ndarray:
    """Where each feature has at least `threshold` of its greatest strength [snapshot, feature]."""
    greatest = strength.max(0)
    return (strength >= threshold * greatest) & (greatest > 0)
