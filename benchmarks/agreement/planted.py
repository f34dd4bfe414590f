"""Which way dates births rightly? A crosscoder and an SAE series on the standard planted suite of known births."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import torch

from ontogeny.config.learner import CrosscoderConfig, SAESeriesConfig
from ontogeny.config.settings import fingerprint
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.dictionaries.track import train_sae_series
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.features.agreement import LEVELS
from ontogeny.features.life import alive_mask
from ontogeny.truth.planted import Planted, plant
from ontogeny.truth.recovery import score_recovery

SEEDS, STEPS, NEXT_STEPS, BATCH = (0, 1, 2), 2000, 1000, 1024
SIZE: dict[str, Any] = {"n_features": 320, "k": 8}
CROSSCODER = CrosscoderConfig(**SIZE, steps=STEPS)
SERIES = SAESeriesConfig(**SIZE, steps=[STEPS, NEXT_STEPS], next_learning_rate=0.5)
KEY = f"planted {fingerprint(SEEDS, BATCH, CROSSCODER, SERIES)}"
"""Of what is measured here."""


class _Snapshot:
    """One snapshot's batches."""

    def __init__(self, planted: Planted, place: int) -> None:
        self.planted, self.place = planted, place

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (batch[:, self.place] for batch in self.planted.batches(BATCH, seed=self.place))


def crosscoder(planted: Planted) -> Dictionary:
    return train_crosscoder(planted.batches(BATCH), CROSSCODER)


def series(planted: Planted) -> Dictionary:
    return train_sae_series([_Snapshot(planted, place) for place in range(len(planted.W_dec))], SERIES)


def settled(unit: np.ndarray, *, level: float) -> np.ndarray:
    """Place of the snapshot from which on each direction's cosine with the last is at least `level` [feature].

    Args:
        unit: directions [snapshot, feature, d_model].
    """
    other = np.einsum("sfd,fd->sf", unit, unit[-1]) < level
    return np.where(other.any(0), len(unit) - other[::-1].argmax(0), 0)


def dated() -> list[dict[str, Any]]:
    """A row for each way and seed: shares of planted features that are recovered; of these, whose birth is right by
    the life history, and by strength alone; and of those that keep their direction, whose birth is where it settles."""
    rows = []
    for seed in SEEDS:
        planted = plant(seed=seed)
        for name, train in (("crosscoder", crosscoder), ("series", series)):
            dictionary = train(planted)
            score = score_recovery(planted, dictionary)
            found = score.features.filter("recovered")
            last = found.filter(birth=len(planted.W_dec) - 1)
            unit = torch.nn.functional.normalize(dictionary.W_dec.detach(), dim=2).numpy()
            strength = dictionary.strength().numpy()[:, found["match"].to_numpy()]
            by_strength = alive_mask(strength, 0.5).argmax(0)
            still = found.filter(pl.col("rotation") < 1)
            places = settled(unit[:, still["match"].to_numpy()], level=LEVELS[0])
            rows.append(
                {
                    "way": name,
                    "seed": seed,
                    "recovered": score.recovered,
                    "births_exact": score.births_exact,
                    "last_exact": (last["birth_found"] == last["birth"]).mean(),
                    "by_strength": float((by_strength == found["birth"].to_numpy()).mean()),
                    "settled_exact": float((places == still["birth"].to_numpy()).mean()),
                }
            )
    return rows
