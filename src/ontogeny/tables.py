"""Columns, dtypes and units of every table that a run holds. The documentation is made from them."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from ontogeny.columns.causal import CAUSAL
from ontogeny.columns.checks import CHECKS
from ontogeny.columns.column import Column
from ontogeny.columns.formation import FORMATION
from ontogeny.columns.life import LIFE
from ontogeny.columns.measured import MEASURED
from ontogeny.columns.reading import READING

TABLES: dict[str, dict[str, Column]] = {**MEASURED, **LIFE, **READING, **FORMATION, **CAUSAL, **CHECKS}
FOLDERS = {
    **dict.fromkeys(MEASURED, ""),
    **dict.fromkeys(CAUSAL, "attribution/"),
    **dict.fromkeys(CHECKS, "truth/"),
    "effects": "",
}
FILES = {name: f"{FOLDERS.get(name, 'analyses/')}{name}.parquet" for name in TABLES}


def from_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """The table `name` of some rows, or of none; what a row lacks, and nan, becomes null."""
    schema = {column: spec.dtype for column, spec in TABLES[name].items()}
    values = [[row.get(column) for column in schema] for row in rows]
    table = pl.DataFrame(values, schema=schema, orient="row", strict=False)
    return table.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


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
        "Every run folder holds these Parquet files. The page is made from `ontogeny/columns/`.",
    ]
    for name, columns in TABLES.items():
        lines += ["", f"## {name}", "", f"`{FILES[name]}`", "", "| column | dtype | unit | meaning |"]
        lines += ["| --- | --- | --- | --- |"]
        for column, said in columns.items():
            meaning = said.meaning.replace("|", r"\|")  # it would end the cell
            lines.append(f"| `{column}` | {said.dtype} | {said.unit} | {meaning} |")
    return "\n".join(lines) + "\n"
