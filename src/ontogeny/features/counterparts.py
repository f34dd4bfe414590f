"""Which features of two runs are the same, and whether they are born at the same time. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.errors import RunError
from ontogeny.features.agreement import LEVELS, agreement
from ontogeny.features.directions import Directions
from ontogeny.run import Run
from ontogeny.suites.source import Snapshot

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Similarities = Callable[[slice], np.ndarray]
"""From some features of the one run to their similarities with all of the other's [feature, other], float32."""
LEAST_ACTIVE = 10
"""Features active on fewer of the held-out tokens are not matched by them: few tokens are shared by chance."""
SIMILARITIES_AT_ONCE = 1 << 24
"""How many similarities are held in memory at a time."""


@dataclass(frozen=True)
class Counterparts:
    """Features of two runs that are each other's nearest.

    Attributes:
        by: "cosine" of directions, or "correlation" of codes.
        step: the last step that both runs have; directions and codes are of it.
        tokens: held-out tokens over which codes are correlated; None for directions.
        features: features of each run that could be matched: living and, for codes, active on LEAST_ACTIVE tokens.
        emergent: those of the first run's that are born after the first common snapshot.
        pairs: feature, other, similarity, birth_step, birth_step_other; the nearest first.
        steps: those that both runs have, ascending.
    """

    by: str
    step: int
    tokens: int | None
    features: tuple[int, int]
    emergent: int
    pairs: pl.DataFrame
    steps: list[int]

    def agreement(self) -> list[dict[str, Any]]:
        """How far the runs agree, for each of LEVELS: `ontogeny.features.agreement.agreement`, nan as None.

        A birth counts at the first common snapshot by which it has happened; later ones are left out.
        """
        births = [self._places(self.pairs[name].to_numpy()) for name in ("birth_step", "birth_step_other")]
        similarity, told = self.pairs["similarity"].to_numpy(), []
        for level in LEVELS:
            found = agreement(similarity, *births, n_features=self.features[0], n_emergent=self.emergent, level=level)
            known = {name: value if np.isfinite(value) else None for name, value in found.items()}
            sizes = {"features": self.features[0], "features_other": self.features[1]}
            told.append({"similarity": level, **sizes, **known})
        return told

    def _places(self, births: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self.steps, births)
        return np.where(places < len(self.steps), places, -1)


def compare_runs(run: Run, other: Run) -> Counterparts:
    """Match the features of two runs: each to the other's nearest, if that is true both ways.

    Where both read the same snapshots at the same hookpoint, nearness is the cosine of directions at the last step that
    both have. Elsewhere, as for models that were pre-trained apart, directions mean nothing to each other: there it is
    the correlation of codes over the held-out tokens that both kept.

    Returns:
        The pairs, and how far they agree on births.

    Raises:
        RunError: the runs have no step in common; one has not been measured, or is of several trainings; they read
            different models and have no held-out tokens in common.
    """
    for each in (run, other):
        if not each.manifest.get("snapshots"):
            raise RunError(f"{each.folder} has no snapshots yet: ontogeny run {each.folder}")
        each.require_current()
    steps = sorted(set(run.steps) & set(other.steps))
    if not steps:
        raise RunError("the runs have no step in common")
    births = [_births(each) for each in (run, other)]
    if _same_models(run, other, steps[-1]):
        by, tokens, similarities = "cosine", None, _cosines(run, other, steps[-1])
        can = [each >= 0 for each in births]
    else:
        by, (tokens, similarities, active) = "correlation", _correlations(run, other, steps[-1])
        can = [(each >= 0) & (count >= LEAST_ACTIVE) for each, count in zip(births, active, strict=True)]
    mine, theirs, similarity = _mutual(similarities, *can)
    pairs = pl.DataFrame(
        {
            "feature": mine,
            "other": theirs,
            "similarity": similarity.astype(np.float64),
            "birth_step": births[0][mine],
            "birth_step_other": births[1][theirs],
        }
    ).sort("similarity", descending=True, maintain_order=True)
    emergent = int((can[0] & (births[0] > steps[0]) & (births[0] <= steps[-1])).sum())
    return Counterparts(by, steps[-1], tokens, (int(can[0].sum()), int(can[1].sum())), emergent, pairs, steps)


def _births(run: Run) -> np.ndarray:
    """Step of birth of each feature; -1 where it is dead."""
    birth = pl.when("dead").then(-1).otherwise(pl.col("birth_step").fill_null(-1))
    return run.features.sort("feature").select(birth=birth.cast(pl.Int64))["birth"].to_numpy()


def _mutual(
    similarities: Similarities, can: np.ndarray, can_other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs that are each other's most similar, and how similar they are; none that is not alike at all."""
    nearest, size = np.full(len(can), -1), np.zeros(len(can), np.float32)
    back, back_size = np.full(len(can_other), -1), np.zeros(len(can_other), np.float32)
    at_once = max(1, SIMILARITIES_AT_ONCE // max(1, len(can_other)))
    for start in range(0, len(can), at_once):
        part = slice(start, min(start + at_once, len(can)))
        similar = similarities(part)
        similar[:, ~can_other] = similar[~can[part]] = -np.inf
        if not similar.size:
            continue
        nearest[part], size[part] = similar.argmax(1), similar.max(1)
        better = similar.max(0) > back_size
        back[better], back_size[better] = start + similar.argmax(0)[better], similar.max(0)[better]
    mine = np.flatnonzero((size > 0) & (back[nearest] == np.arange(len(nearest))))
    return mine, nearest[mine], size[mine]


# directions of the same models


def _same_models(run: Run, other: Run, step: int) -> bool:
    """Whether both read the same snapshot at the same hookpoint."""
    if run.study.hookpoint != other.study.hookpoint:
        return False
    own, others = ({state for state in _states(each, step) if state is not None} for each in (run, other))
    return bool(own & others)


def _states(run: Run, step: int) -> list[Any]:
    """What tells the weights of a run's snapshot: the pre-training it is of, its commit, its files; None if unknown."""
    snapshot = Snapshot(**next(one for one in run.manifest["snapshots"] if one["step"] == step))
    if snapshot.commit is not None:
        return [("hub", snapshot.repo, snapshot.revision, snapshot.commit)]
    own = run.study.suite.pretrain is not None
    made = run.manifest["stages"].get("pretrain", {}).get("key") if own else None
    folder = run.suite_folder if own else Path(snapshot.repo)
    at = Snapshot(str(folder), snapshot.revision, None, step, None)
    files = tuple(at.source.state(at)) if at.path.is_dir() else ()
    return [None if made is None else ("pretrain", made), ("files", files) if files else None]


def _cosines(run: Run, other: Run, step: int) -> Similarities:
    units = []
    for each in (run, other):
        directions = Directions(each)
        if (directions.n_snapshots, directions.n_features) != (len(each.steps), len(each.features)):
            raise RunError(f"{each.folder}: dictionary and features are of different trainings: run it to its end")
        units.append(directions.at(each.steps.index(step), slice(None)))
    return lambda part: units[0][part] @ units[1].T


# codes of different ones


def _correlations(run: Run, other: Run, step: int) -> tuple[int, Similarities, list[np.ndarray]]:
    """Of all pairs of features over common tokens: how many tokens, the correlations, on how many each is active."""
    corpora = [_held_out(each) for each in (run, other)]
    if corpora[0].fingerprint != corpora[1].fingerprint:
        raise RunError("the runs read different models or hookpoints and different held-out texts: nothing to match by")
    tables = [_codes(each, step) for each in (run, other)]
    sequences, others = (table["sequence"].unique().to_numpy() for table in tables)
    kept = np.intersect1d(sequences, others)
    tokens = int((corpora[0].lengths[kept].astype(np.int64) - 1).sum())
    if not tokens:
        raise RunError(
            "the runs read different models or hookpoints, and kept the codes of different tokens at step "
            f"{step:,}: measure both with the same measure.seed"
        )
    units, means, active = [], [], []
    for table, each in zip(tables, (run, other), strict=True):
        codes = _matrix(table, kept, corpora[0].sequence_length, len(each.features))
        mean = codes.sum(axis=1) / tokens
        spread = np.sqrt(np.maximum(codes.multiply(codes).sum(axis=1) / tokens - mean**2, 0))
        scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
        units.append(codes.multiply(scale[:, None]).tocsr())
        means.append(mean * scale)
        active.append(np.diff(codes.indptr))
    across = units[1].T.tocsr()

    def correlations(part: slice) -> np.ndarray:
        products = (units[0][part] @ across).astype(np.float32).toarray()
        products /= tokens
        products -= np.outer(means[0][part], means[1]).astype(np.float32)
        return products

    return tokens, correlations, active


def _held_out(run: Run) -> Corpus:
    folder = run.corpus_folder / "held_out"
    if not folder.is_dir():
        raise RunError(
            f"{run.folder} has no held-out text, so its features cannot be matched with those of other models: "
            f"ontogeny run {run.folder} (a run from a hub comes without it)"
        )
    return Corpus(folder)


def _codes(run: Run, step: int) -> pl.DataFrame:
    """Codes of the held-out tokens at a step, or those that are of all."""
    own = pl.col("snapshot").is_null() | (pl.col("snapshot") == run.steps.index(step))
    codes = run.scan("codes").filter(own).select("sequence", "position", "feature", "code").collect()
    if len(codes) and codes["feature"].max() >= len(run.features):  # type: ignore[operator]
        raise RunError(f"{run.folder}: codes and features are of different trainings: run it to its end")
    return codes


def _matrix(table: pl.DataFrame, sequences: np.ndarray, length: int, n_features: int) -> "csr_array":
    """Codes of some sequences [feature, position in them], float64."""
    from scipy.sparse import csr_array

    kept = table.filter(pl.col("sequence").is_in(sequences.tolist()))
    at = np.searchsorted(sequences, kept["sequence"].to_numpy()) * length + kept["position"].to_numpy()
    values = kept["code"].to_numpy().astype(np.float64)
    return csr_array((values, (kept["feature"].to_numpy(), at)), shape=(n_features, len(sequences) * length))
