"""What a column is, and the columns that many tables have."""

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
