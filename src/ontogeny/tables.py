"""Columns, dtypes and units of every table that a run holds. The one place; the documentation is made from it."""

from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Column:
    dtype: Any
    unit: str
    meaning: str


FEATURE = Column(pl.Int32, "index", "feature, 0-based")
SNAPSHOT = Column(pl.Int16, "index", "snapshot, 0-based, in order of step")
STEP = Column(pl.Int64, "step", "pre-training step of the snapshot")
TOKEN_IDS = Column(pl.List(pl.UInt32), "token id", "tokens of the context around the example, in order")

TABLES: dict[str, dict[str, Column]] = {
    "features": {
        "feature": FEATURE,
        "origin": Column(pl.String, "", "`initial` (alive at the first snapshot) or `emergent`; null where dead"),
        "fate": Column(pl.String, "", "`persistent`, `transient` or `censored` (born in the last snapshots)"),
        "birth_after": Column(pl.Int64, "step", "last snapshot before the birth; null where initial"),
        "birth_step": Column(pl.Int64, "step", "first snapshot with relative strength at or above the threshold"),
        "peak_step": Column(pl.Int64, "step", "snapshot of greatest strength"),
        "death_step": Column(pl.Int64, "step", "first snapshot after the last living one; null where it lives on"),
        "revived": Column(pl.Boolean, "", "whether it lives again after a snapshot below the threshold"),
        "dead": Column(pl.Boolean, "", "silent on all measured tokens"),
        "max_activation": Column(pl.Float32, "code", "greatest code on the measured tokens"),
        "density": Column(pl.Float32, "share", "share of measured tokens on which it is active"),
        "max_strength": Column(pl.Float32, "normalised", "greatest strength over the snapshots"),
    },
    "trajectories": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "strength": Column(
            pl.Float32, "normalised", "norm of the decoder direction in the snapshot's normalised units"
        ),
        "strength_relative": Column(pl.Float32, "share", "strength over the feature's greatest strength"),
        "firing_rate": Column(pl.Float32, "share", "share of measured tokens on which the code is active"),
        "mean_activation": Column(pl.Float32, "code", "mean code where active; null where it never is"),
        "own_part": Column(
            pl.Float32, "code", "mean of the snapshot's own part x·W_enc of the code, where active; null if never"
        ),
    },
    "examples": {
        "feature": FEATURE,
        "snapshot": Column(pl.Int16, "index", "snapshot; null for rankings by a code that all snapshots share"),
        "kind": Column(
            pl.String,
            "",
            "`top` (by the code), `own` (by the snapshot's own part of the code), `quantile` (sampled from all "
            "contexts in which it fires)",
        ),
        "rank": Column(pl.Int16, "index", "0 is the most active"),
        "sequence": Column(pl.Int32, "index", "sequence of the corpus"),
        "position": Column(pl.Int32, "index", "position of the peak in the sequence"),
        "first_position": Column(pl.Int32, "index", "position of the first token listed"),
        "tokens": TOKEN_IDS,
        "activations": Column(pl.List(pl.Float32), "code", "code (or own part) at each of the tokens"),
    },
    "logit_effects": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "kind": Column(pl.String, "", "`promoted` or `suppressed`"),
        "rank": Column(pl.Int16, "index", "0 is the strongest"),
        "token": Column(pl.UInt32, "token id", "token of the vocabulary"),
        "effect": Column(
            pl.Float32, "logit", "unit decoder direction through the final norm's weights and the unembedding, centred"
        ),
    },
    "quality": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "explained_variance": Column(pl.Float64, "share", "1 - squared error / variance, held-out tokens"),
        "explained_variance_per_token": Column(pl.Float64, "share", "mean of the ratio taken token by token"),
        "l0": Column(pl.Float64, "features", "active features a token, by the inference rule"),
        "dead_share": Column(pl.Float64, "share", "features silent on all measured tokens"),
        "norm_scale": Column(pl.Float64, "1 / raw unit", "factor that brings the mean norm to sqrt(d_model)"),
        "tokens": Column(pl.Int64, "tokens", "held-out tokens measured"),
    },
    "emergence": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "births": Column(pl.Int64, "features", "born in (previous step, step]; at the first snapshot: initial"),
        "deaths": Column(pl.Int64, "features", "whose last living snapshot is the one before"),
        "alive": Column(pl.Int64, "features", "alive at this snapshot"),
        "mean_strength_relative": Column(pl.Float64, "share", "mean over features that are not dead"),
    },
    "turning_point": {
        "snapshot_a": SNAPSHOT,
        "snapshot_b": SNAPSHOT,
        "step_a": STEP,
        "step_b": STEP,
        "features": Column(pl.Int64, "features", "alive at both snapshots"),
        "cosine": Column(pl.Float64, "cosine", "mean over them of the cosine of their two decoder directions"),
        "cosine_ci_low": Column(pl.Float64, "cosine", "95 % interval over features, bootstrap"),
        "cosine_ci_high": Column(pl.Float64, "cosine", "95 % interval over features, bootstrap"),
    },
    "phases": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "loss": Column(pl.Float64, "nat / token", "held-out cross-entropy of the snapshot"),
        "loss_ci_low": Column(pl.Float64, "nat / token", "95 % interval, bootstrap over documents"),
        "loss_ci_high": Column(pl.Float64, "nat / token", "95 % interval, bootstrap over documents"),
        "unigram": Column(pl.Float64, "nat / token", "held-out cross-entropy of the unigram model, same positions"),
        "bigram": Column(pl.Float64, "nat / token", "the same of the interpolated Kneser-Ney bigram model"),
        "kl_model_unigram": Column(pl.Float64, "nat", "mean KL(model ‖ unigram)"),
        "kl_unigram_model": Column(pl.Float64, "nat", "mean KL(unigram ‖ model)"),
        "kl_model_bigram": Column(pl.Float64, "nat", "mean KL(model ‖ bigram)"),
        "kl_bigram_model": Column(pl.Float64, "nat", "mean KL(bigram ‖ model)"),
        "tokens": Column(pl.Int64, "tokens", "predicted tokens"),
    },
}

FILES = {name: f"{name}.parquet" for name in ("features", "trajectories", "examples", "logit_effects", "quality")} | {
    name: f"analyses/{name}.parquet" for name in ("emergence", "turning_point", "phases")
}


def conform(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """`table` with exactly the columns and dtypes of the table `name`, in their order."""
    columns = TABLES[name]
    assert set(table.columns) == set(columns), f"{name}: {set(table.columns) ^ set(columns)}"
    return table.select([pl.col(column).cast(spec.dtype) for column, spec in columns.items()])


def markdown() -> str:
    """The page of the documentation that lists every table."""
    lines = [
        "# Tables",
        "",
        "Every run folder holds these Parquet files. The page is made from `ontogeny/tables.py`.",
    ]
    for name, columns in TABLES.items():
        lines += ["", f"## {name}", "", f"`{FILES[name]}`", "", "| column | dtype | unit | meaning |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [f"| `{c}` | {s.dtype} | {s.unit} | {s.meaning} |" for c, s in columns.items()]
    return "\n".join(lines) + "\n"
