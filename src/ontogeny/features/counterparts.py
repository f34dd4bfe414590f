"""Which features of two runs are the same, and whether they are born at the same time. Loads no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ontogeny.activations.key import pretrain_key
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import RunError
from ontogeny.features.directions import Directions
from ontogeny.intervals import rank_correlation, wilson_count
from ontogeny.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.sparse import csr_array

    Products = Callable[[slice], np.ndarray]

LEVELS = (0.7, 0.9)
"""Cosines or correlations from which on features count as the same."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Counterparts:
    """Features of two runs that are each other's nearest.

    Attributes:
        by: "cosine" of directions, or "correlation" of codes.
        at: the last step that both runs have.
        tokens: held-out tokens over which codes are correlated; None for directions.
        living: features of each run that are not dead.
        pairs: feature, other, similarity, birth_step, birth_step_other; the nearest first.
        steps: those of either run, ascending.
    """

    by: str
    at: int
    tokens: int | None
    living: tuple[int, int]
    pairs: pl.DataFrame
    steps: list[int]

    def agreement(self, level: float, *, samples: int = 1000) -> dict[str, Any]:
        """How far the runs agree on features at least this similar.

        Returns:
            from (the level), features and features_other (living), matched; of these births_same with its 95 % interval
            (Wilson); of those emergent in either run their number, births_near (the same or the next snapshot) and
            Spearman's correlation of births with its interval (bootstrap over pairs). None where there are too few.
        """
        same = self.pairs.filter(pl.col("similarity") >= level)
        mine, other = (same[name].to_numpy() for name in ("birth_step", "birth_step_other"))
        emergent = (mine > self.steps[0]) | (other > self.steps[0])
        mine_, other_ = (np.searchsorted(self.steps, births[emergent]) for births in (mine, other))
        correlation = rank_correlation(mine_, other_, samples=samples)
        equal = int((mine == other).sum())
        low, high = wilson_count(equal, len(same))
        near = int((np.abs(mine_ - other_) <= 1).sum())
        return {
            "from": level,
            "features": self.living[0],
            "features_other": self.living[1],
            "matched": len(same),
            "births_same": _share(equal, len(same)),
            "births_same_low": _share(low, len(same)),
            "births_same_high": _share(high, len(same)),
            "emergent": int(emergent.sum()),
            "births_near": _share(near, int(emergent.sum())),
            "spearman": _known(correlation[0]),
            "spearman_low": _known(correlation[1]),
            "spearman_high": _known(correlation[2]),
        }


def compare_runs(run: Run, other: Run) -> Counterparts:
    """Match the features of two runs: each to the other's nearest, if that is true both ways.

    Where both read the same snapshots at the same hookpoint, nearness is the cosine of directions at the last step that
    both have. Elsewhere, as for models that were pre-trained apart, directions mean nothing to each other: there it is
    the correlation of codes over the held-out tokens that both keep.

    Raises:
        RunError: the runs have no step in common; a run has not been measured; they kept the codes of no common tokens.
    """
    for one in (run, other):
        if not one.manifest.get("snapshots"):
            raise RunError(f"{one.folder} has no snapshots yet: ontogeny run {one.folder}")
    common = set(run.steps) & set(other.steps)
    if not common:
        raise RunError("the runs have no step in common")
    at = max(common)
    births = [_births(one) for one in (run, other)]
    if _same_models(run, other, at):
        by, tokens, (products, backwards) = "cosine", None, _cosines(run, other, at)
    else:
        by = "correlation"
        tokens, products, backwards = _correlations(run, other, at)
    nearest, similarity = _nearest(products, births[0], births[1])
    back, _ = _nearest(backwards, births[1], births[0])
    mutual = np.flatnonzero((births[0] >= 0) & (nearest >= 0) & (back[nearest] == np.arange(len(nearest))))
    pairs = pl.DataFrame(
        {
            "feature": mutual,
            "other": nearest[mutual],
            "similarity": similarity[mutual].astype(np.float64),
            "birth_step": births[0][mutual],
            "birth_step_other": births[1][nearest[mutual]],
        }
    ).sort("similarity", descending=True, maintain_order=True)
    living = (int((births[0] >= 0).sum()), int((births[1] >= 0).sum()))
    return Counterparts(by, at, tokens, living, pairs, sorted({*run.steps, *other.steps}))


def _share(count: float, total: int) -> float | None:
    return count / total if total else None


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _births(run: Run) -> np.ndarray:
    """Step of birth of each feature; -1 where it is dead."""
    features = run.features.sort("feature")
    return features.select(pl.when("dead").then(-1).otherwise(pl.col("birth_step").fill_null(-1)).alias("birth"))[
        "birth"
    ].to_numpy()


def _same_models(run: Run, other: Run, step: int) -> bool:
    """Whether both read the same snapshot at the same hookpoint."""
    if run.study.hookpoint != other.study.hookpoint:
        return False
    one, another = (
        next(snapshot for snapshot in each.manifest["snapshots"] if snapshot["step"] == step) for each in (run, other)
    )
    own = all(each.study.suite.pretrain is not None for each in (run, other))
    return one == another or (own and pretrain_key(run) == pretrain_key(other))


def _cosines(run: Run, other: Run, step: int) -> "tuple[Products, Products]":
    one, another = (Directions(each).at(each.steps.index(step), slice(None)) for each in (run, other))
    for each, directions in ((run, one), (other, another)):
        if len(directions) != len(each.features):
            raise RunError(
                f"{each.folder}: its dictionary and its features are of different trainings: run it to its end"
            )
    return (lambda part: one[part] @ another.T), (lambda part: another[part] @ one.T)


def _correlations(run: Run, other: Run, step: int) -> "tuple[int, Products, Products]":
    corpora = [Corpus(each.corpus_folder / "held_out") for each in (run, other)]
    if corpora[0].fingerprint != corpora[1].fingerprint:
        raise RunError("the runs read different models and different held-out texts: nothing to match features by")
    tables = [_codes(each, step) for each in (run, other)]
    shared = np.intersect1d(*(table["sequence"].unique().to_numpy() for table in tables))
    tokens = int((corpora[0].lengths[shared].astype(np.int64) - 1).sum())
    if not tokens:
        raise RunError("the runs read different models and kept the codes of different tokens: set measure.seed alike")
    one, another = (
        _standardised(table, shared, corpora[0].sequence_length, len(each.features), tokens)
        for table, each in zip(tables, (run, other), strict=True)
    )
    return tokens, _product(one, another, tokens), _product(another, one, tokens)


def _codes(run: Run, step: int) -> pl.DataFrame:
    own = pl.col("snapshot").is_null() | (pl.col("snapshot") == run.steps.index(step))
    return run.scan("codes").filter(own).select("sequence", "position", "feature", "code").collect()


@dataclass(frozen=True)
class _Standardised:
    """Codes over their standard deviations [feature, token], and their means [feature]."""

    codes: "csr_array"
    means: np.ndarray


def _standardised(
    table: pl.DataFrame, sequences: np.ndarray, length: int, n_features: int, tokens: int
) -> _Standardised:
    from scipy.sparse import csr_array, diags_array

    kept = table.filter(pl.col("sequence").is_in(sequences.tolist()))
    token = np.searchsorted(sequences, kept["sequence"].to_numpy()) * length + kept["position"].to_numpy()
    values = kept["code"].to_numpy().astype(np.float64)
    codes = csr_array((values, (kept["feature"].to_numpy(), token)), shape=(n_features, len(sequences) * length))
    means = np.asarray(codes.sum(axis=1)).ravel() / tokens
    squares = np.asarray(codes.multiply(codes).sum(axis=1)).ravel() / tokens
    spread = np.sqrt(np.maximum(squares - means**2, 0))
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    return _Standardised(csr_array(diags_array(scale) @ codes), means * scale)


def _product(one: _Standardised, other: _Standardised, tokens: int) -> "Products":
    across = other.codes.T.tocsc()
    return lambda part: (one.codes[part] @ across).toarray() / tokens - np.outer(one.means[part], other.means)


def _nearest(products: "Products", births: np.ndarray, births_other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each feature the most similar living one of the other run, and how similar it is; -1 where none is alive."""
    places, sizes = np.full(len(births), -1), np.zeros(len(births))
    dead = births_other < 0
    if dead.all():
        return places, sizes
    for start in range(0, len(births), ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, len(births)))
        similar = np.where(dead, -np.inf, products(part))
        places[part], sizes[part] = similar.argmax(1), similar.max(1)
    return places, sizes
