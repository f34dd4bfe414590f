"""How much of a planted suite a dictionary found, and how right it is about the life of what it found."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from torch import Tensor

from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.features.carried import carried, correlations_before
from ontogeny.features.life import alive_mask
from ontogeny.truth.planted import Planted

RECOVERED = 0.9
"""Mean cosine, over the snapshots where a planted feature is there, from which on it counts as recovered."""
RIGHT_ANGLE = 5.0
"""Degrees within which a rotation counts as right."""
HELD_OUT_SEED = 1
"""Seed of the tokens that firing is measured on; trainings take others."""


@dataclass(frozen=True)
class RecoveryScore:
    """What `score_recovery` found.

    Attributes:
        features: a row per planted feature: feature, match (-1 for none), cosine, recovered, birth, birth_found (null
            where not recovered), death, frequency, rotation, rotation_found, relation.
        recovered: share of the planted features whose match has a mean cosine of at least .9.
        births_exact: share of the recovered whose birth is right to the snapshot.
        birth_error: mean distance of the births of the recovered, in snapshots.
        false_emergent: share of the recovered that are there from the start and were found born later.
        false_features: share of the living features of the dictionary that match no planted feature at cosine .9.
        false_births: share of those found emergent that match none, or one that is there from the start.
        strength_error: RMSE of relative strengths over the snapshots where the recovered are there.
        rotations_right: share of the turning recovered ones whose angle is right within 5°.
        reconstruction: explained variance on held-out tokens [snapshot].
        l0: active features a token on held-out tokens.
        dead_share: share of the dictionary's features that never fire on held-out tokens.
    """

    features: pl.DataFrame
    recovered: float
    births_exact: float
    birth_error: float
    false_emergent: float
    false_features: float
    false_births: float
    strength_error: float
    rotations_right: float
    reconstruction: np.ndarray
    l0: float
    dead_share: float

    def by_birth(self) -> pl.DataFrame:
        """Recovery by true birth: birth, n, recovered, births_exact."""
        return self._by("birth")

    def by_frequency(self, parts: int = 4) -> pl.DataFrame:
        """Recovery by frequency, in equal parts from the rarest: part, n, recovered, births_exact, frequency."""
        part = (pl.col("frequency").rank("ordinal") - 1) * parts // pl.len()
        return self._by("part", self.features.with_columns(part=part.cast(pl.Int64)))

    def _by(self, column: str, features: pl.DataFrame | None = None) -> pl.DataFrame:
        return (
            (self.features if features is None else features)
            .group_by(column)
            .agg(
                n=pl.len(),
                recovered=pl.col("recovered").mean(),
                births_exact=(pl.col("birth_found") == pl.col("birth")).mean(),
                frequency=pl.col("frequency").median(),
            )
            .sort(column)
        )

    def figures(self) -> dict[str, float]:
        """The single numbers by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


@torch.no_grad()
def score_recovery(
    planted: Planted, dictionary: Dictionary, *, alive_threshold: float = 0.5, tokens: int = 16_384
) -> RecoveryScore:
    """Hold a dictionary against the planted one that its activations were made from.

    Planted and found features are assigned one to one so that the sum of their mean cosines is greatest (the Hungarian
    method). Births follow the rule of the life history, for both: the first snapshot with at least `alive_threshold` of
    the greatest strength in normalised units, in a series from where an index stands for the feature that it is at the
    end. Features of the dictionary that never fire are left out.

    Args:
        tokens: held-out tokens to measure firing, L0, explained variance and what an index stands for on.
    """
    n_features = planted.W_dec.shape[1]
    scale = dictionary.norm_scale[:, None]
    batch = 1024
    held_out = planted.batches(batch, n_batches=max(1, tokens // batch), seed=HELD_OUT_SEED)
    fired, l0, ev = _firing(dictionary, held_out)
    living = fired.nonzero().flatten()
    there = planted.there
    found = dictionary.W_dec.detach()[:, living]
    total = torch.zeros(n_features, len(living))
    for here, own, other in zip(there, planted.W_dec, found, strict=True):
        total[here] += _unit(own[here]) @ _unit(other).T
    mean_cosine = (total / there.sum(0)[:, None].clamp_min(1)).numpy()
    rows, columns = linear_sum_assignment(-mean_cosine)

    true_strength = (planted.W_dec.norm(dim=2) * scale).numpy()
    strength = (dictionary.strength().numpy() * _carried(dictionary, held_out))[:, living]
    birth, birth_found = (alive_mask(values, alive_threshold).argmax(0) for values in (true_strength, strength))
    match, of_match = np.full(n_features, -1), np.zeros(n_features)
    match[rows], of_match[rows] = columns, mean_cosine[rows, columns]
    recovered = of_match >= RECOVERED
    partner = np.where(recovered, match, 0)
    angle, angle_found = _turn(planted.W_dec, planted), _turn(found[:, partner], planted)

    exact = birth_found[partner] == birth
    initial = recovered & (birth == 0)
    turning = recovered & (planted.rotation.numpy() > 0)
    relative, relative_found = (
        values / np.maximum(values.max(0), 1e-12) for values in (true_strength, strength[:, partner])
    )
    alive_here = there.numpy() & recovered
    emergent = birth_found > 0
    known_birth = np.full(len(living), -1)
    known_birth[match[recovered]] = birth[recovered]
    best = mean_cosine.max(0) if n_features else np.zeros(len(living))

    features = pl.DataFrame(
        {
            "feature": np.arange(n_features),
            "match": np.where(match >= 0, living.numpy()[match], -1),
            "cosine": of_match,
            "recovered": recovered,
            "birth": birth,
            "birth_found": pl.Series(
                [int(found) if known else None for found, known in zip(birth_found[partner], recovered, strict=True)],
                dtype=pl.Int64,
            ),
            "death": planted.death.numpy(),
            "frequency": planted.frequency.numpy().astype(float),
            "rotation": angle,
            "rotation_found": np.where(recovered, angle_found, np.nan),
            "relation": list(planted.relation),
        }
    )
    return RecoveryScore(
        features=features,
        recovered=float(recovered.mean()),
        births_exact=_mean(exact[recovered]),
        birth_error=_mean(np.abs(birth_found[partner] - birth)[recovered]),
        false_emergent=_mean(birth_found[partner][initial] > 0),
        false_features=_mean(best < RECOVERED),
        false_births=_mean((known_birth <= 0)[emergent]),
        strength_error=_mean(np.square(relative_found - relative)[alive_here]) ** 0.5,
        rotations_right=_mean(np.abs(angle_found - angle)[turning] <= RIGHT_ANGLE),
        reconstruction=ev,
        l0=l0,
        dead_share=1 - len(living) / len(fired),
    )


def _carried(dictionary: Dictionary, batches: Iterable[Tensor]) -> np.ndarray:
    """Where features are those of the last snapshot [snapshot, feature]: everywhere, where all have one code."""
    if dictionary.one_encoder:
        return np.ones((dictionary.n_snapshots, dictionary.n_features), dtype=bool)
    codes = [dictionary.encode(raw * dictionary.norm_scale[:, None]).permute(1, 2, 0) for raw in batches]
    of_snapshot = (torch.cat(parts, dim=1) for parts in zip(*codes, strict=True))
    matrices = [csr_array(code.double().numpy()) for code in of_snapshot]
    active = np.stack([np.diff(matrix.indptr) > 0 for matrix in matrices])
    return carried(correlations_before(matrices), active)


def _firing(dictionary: Dictionary, batches: Iterable[Tensor]) -> tuple[Tensor, float, np.ndarray]:
    """Which features fire, L0, and explained variance [snapshot], on raw batches."""
    fired = torch.zeros(dictionary.n_features, dtype=torch.bool)
    active, tokens = 0.0, 0
    sums = dictionary.W_dec.new_zeros(dictionary.n_snapshots, dictionary.d_model, dtype=torch.float64)
    error, square = sums[:, 0].clone(), sums[:, 0].clone()
    for raw in batches:
        x = raw * dictionary.norm_scale[:, None]
        code = dictionary.encode(x)
        x_hat = dictionary.decode(code)
        code = code if code.ndim == 2 else code.amax(1)
        fired |= (code > 0).any(0)
        active += float((code > 0).sum())
        tokens += len(x)
        error += (x - x_hat).double().square().sum((0, 2))
        square += x.double().square().sum((0, 2))
        sums += x.double().sum(0)
    spread = square - sums.square().sum(1) / tokens
    return fired, active / tokens, (1 - error / spread).numpy()


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _turn(W_dec: Tensor, planted: Planted) -> np.ndarray:
    """Degrees between the directions at each planted feature's first and last snapshot [feature]."""
    feature = torch.arange(W_dec.shape[1])
    first, last = _unit(W_dec[planted.birth, feature]), _unit(W_dec[planted.death - 1, feature])
    return torch.rad2deg((first * last).sum(1).clamp(-1, 1).acos()).numpy()


def _mean(values: np.ndarray) -> float:
    """The mean; nan of nothing."""
    return float(values.mean()) if len(values) else float("nan")
