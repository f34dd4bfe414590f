"""One level of trust for every feature, and the reasons for it."""

import polars as pl

SEED_COSINE = 0.7
"""Below this cosine a feature does not count as found again under another seed."""
LEAST_RECOVERY = 0.5
MOST_MEMORISED = 0.5

MEASURES = {
    "emergent": pl.Boolean,
    "seed_cosine": pl.Float64,
    "confirmed": pl.Boolean,
    "there_before": pl.Boolean,
    "same_at_thresholds": pl.Boolean,
    "same_rescaled": pl.Boolean,
    "expected_recovery": pl.Float64,
    "memorised": pl.Float64,
}


def trust_levels(measures: pl.DataFrame) -> pl.DataFrame:
    """Add `level` and `reasons` to a table of MEASURES, a row per feature; null where something was not measured.

    - `low`: not found again under other seeds (cosine below .7), or an emergent feature whose birth its own snapshot
      does not confirm, or which explains the activations before its birth already, its decoder shrunken there.
    - `medium`: none of that, but the birth moves with the threshold or with the scale of the snapshots, plants of its
      birth and frequency are recovered less than half of the time, more than half of its examples stand in the text
      more than once, or something was not measured.
    - `high`: everything was measured and nothing speaks against it.
    """
    emergent = pl.col("emergent")
    grave = {
        "not found under other seeds": pl.col("seed_cosine") < SEED_COSINE,
        "birth not seen from its own snapshot": emergent & ~pl.col("confirmed"),
        "there before its birth, shrunken": emergent & pl.col("there_before"),
    }
    light = {
        "birth moves with the threshold": emergent & ~pl.col("same_at_thresholds"),
        "birth moves with the scale": emergent & ~pl.col("same_rescaled"),
        "its like is seldom recovered": pl.col("expected_recovery") < LEAST_RECOVERY,
        "examples repeated in the text": pl.col("memorised") > MOST_MEMORISED,
        "seeds not measured": pl.col("seed_cosine").is_null(),
        "birth not probed": emergent & (pl.col("confirmed").is_null() | pl.col("there_before").is_null()),
    }

    def any_of(conditions: dict[str, pl.Expr]) -> pl.Expr:
        return pl.any_horizontal([condition.fill_null(False) for condition in conditions.values()])

    reasons = [
        pl.when(condition.fill_null(False)).then(pl.lit(reason)) for reason, condition in (grave | light).items()
    ]
    level = (
        pl.when(any_of(grave)).then(pl.lit("low")).when(any_of(light)).then(pl.lit("medium")).otherwise(pl.lit("high"))
    )
    return measures.with_columns(level=level, reasons=pl.concat_str(reasons, separator="; ", ignore_nulls=True))
