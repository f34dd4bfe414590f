"""All features of a run as one table in DuckDB: every column that a view filters by, sorts by, or draws.

A table of the run that is not there, or cannot be read, leaves its columns out and is named among what is missing.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from polars.exceptions import PolarsError

from ontogeny.columns.column import Column
from ontogeny.errors import OntogenyError, RunError
from ontogeny.features.directions import plane
from ontogeny.features.labels import labels, token_texts
from ontogeny.run import Run
from ontogeny.tables import FILES, TABLES

MEMORY = "384MB"
"""That DuckDB may take; what does not fit is worked off in pieces."""
MOST_WORDS = 254
"""Different words of a column that is drawn."""
UNREADABLE = (duckdb.Error, OntogenyError, OSError, PolarsError, ValueError)
FROM: dict[str, tuple[dict[str, str], str]] = {
    "trust": ({"trust": "level", "expected_recovery": "expected_recovery", "seed_cosine": "seed_cosine"}, ""),
    "kinds": ({"kind": "kind", "context_score": "context_score", "induction_ratio": "induction_ratio"}, ""),
    "lineage": ({"lineage": "label", "parent": "parent"}, ""),
    "formed": ({"pattern": "pattern", "meaning_step": "meaning_step", "direction_step": "direction_step"}, ""),
    "memorisation": ({"memorisation": "gap"}, "snapshot = (SELECT max(snapshot) FROM {file})"),
    "levels": ({"level": "level"}, "snapshot = (SELECT max(snapshot) FROM {file})"),
    "umap_directions": ({"umap_1": "x", "umap_2": "y"}, ""),
    "descriptions": ({"description": "description"}, ""),
    "complexity": (
        {"complexity": "score", "words": "words", "context_dependence": "context_dependence", "span": "span"},
        "",
    ),
    "proxies": ({"probe_auc": "auc", "auc_above_token": "auc_above_token"}, ""),
}
"""Columns that other tables than `features` give a feature: their names here and there, and the rows that count."""
OWN = {
    "fires_on": Column(None, "", "tokens on which it is most active in its leading examples"),
    "effect": Column(None, "logit", "greatest effect on a task at the last snapshot, by size"),
    "effect_task": Column(None, "", "the task of that effect"),
    "map_1": Column(None, "", "first principal component of the unit directions at the last snapshot"),
    "map_2": Column(None, "", "second principal component of the unit directions at the last snapshot"),
}
"""Columns that are made here."""


class Joined(NamedTuple):
    """The features of a run as they were when its files were read.

    Attributes:
        connection: with the table `features`; every query takes a cursor of its own.
        columns: of that table, with their meanings.
        types: DuckDB's, of each column.
        kinds: `number`, `flag`, `word`, or `text` where there are too many different words to draw.
        missing: tables whose columns are left out, and why; those that the study did not ask for are not among them.
        n_features: features.
    """

    connection: duckdb.DuckDBPyConnection
    columns: dict[str, Column]
    types: dict[str, str]
    kinds: dict[str, str]
    missing: dict[str, str]
    n_features: int


def join(run: Run) -> Joined:
    """Read and join a run's tables.

    Raises:
        RunError: there are no features yet, or they cannot be read.
    """
    connection = duckdb.connect(config={"memory_limit": MEMORY, "threads": 2})
    file = run.folder / FILES["features"]
    if not file.is_file():
        raise RunError(f"{run.folder} has no features yet: ontogeny measure {run.folder}")
    try:
        connection.execute(f"CREATE TABLE features AS SELECT * FROM {parquet(file)}")
    except duckdb.Error as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}: ontogeny measure {run.folder}") from None
    columns, missing = dict(TABLES["features"]), {}
    for name, read in _PARTS.items():
        try:
            columns |= read(run, connection)
            connection.execute("CREATE TABLE joined AS SELECT * FROM features LEFT JOIN more USING (feature)")
            connection.execute("DROP TABLE features; ALTER TABLE joined RENAME TO features")
        except _NotAskedError:
            pass
        except UNREADABLE as error:
            missing[name] = first_line(error)
        connection.execute("DROP TABLE IF EXISTS more")
    types = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE features").fetchall()}
    columns = {name: columns[name] for name in types if name in columns}
    kinds = {name: _kind(connection, name, types[name]) for name in columns}
    count = connection.execute("SELECT count(*) FROM features").fetchall()[0][0]
    return Joined(connection, columns, types, kinds, missing, int(count))


class _NotAskedError(Exception):
    """The study did not ask for a table."""


def _kind(connection: duckdb.DuckDBPyConnection, name: str, type_: str) -> str:
    if type_ != "VARCHAR":
        return "flag" if type_ == "BOOLEAN" else "number"
    words = connection.execute(f'SELECT count(DISTINCT "{name}") FROM features').fetchall()[0][0]
    return "text" if words > MOST_WORDS else "word"


# Each part makes the table `more`, with a row per feature, and gives its columns.


def _file_of(run: Run, table: str) -> str:
    file = run.folder / FILES[table]
    if not file.is_file():
        raise _NotAskedError
    return parquet(file)


def _of_table(table: str, run: Run, connection: duckdb.DuckDBPyConnection) -> dict[str, Column]:
    """Columns of another table of the run."""
    file, (names, where) = _file_of(run, table), FROM[table]
    chosen = ", ".join(f'"{theirs}" AS "{own}"' for own, theirs in names.items())
    rows = where.format(file=file) or "true"
    connection.execute(f"CREATE TABLE more AS SELECT feature, {chosen} FROM {file} WHERE {rows}")
    return {own: TABLES[table][theirs] for own, theirs in names.items()}


def _effects(run: Run, connection: duckdb.DuckDBPyConnection) -> dict[str, Column]:
    """The leading effect at the last snapshot."""
    file = _file_of(run, "effects")
    connection.execute(
        "CREATE TABLE more AS SELECT feature, max_by(effect, abs(effect)) AS effect, max_by(task, abs(effect)) AS "
        f"effect_task FROM {file} WHERE snapshot = (SELECT max(snapshot) FROM {file}) GROUP BY feature"
    )
    return {name: OWN[name] for name in ("effect", "effect_task")}


def _tokens(run: Run, connection: duckdb.DuckDBPyConnection) -> dict[str, Column]:
    """What features fire on: the tokens at the peaks of their leading examples."""
    file = run.folder / FILES["examples"]
    if not file.is_file():
        raise RunError(f"{file.name} is not there")
    found = labels(run, token_texts(run))
    held = {  # noqa: F841 - read by its name below
        "feature": found["feature"].to_numpy(), "fires_on": found["label"].to_numpy(),
    }  # fmt: skip
    connection.execute("CREATE TABLE more AS SELECT * FROM held")
    return {"fires_on": OWN["fires_on"]}


def _plane(run: Run, connection: duckdb.DuckDBPyConnection) -> dict[str, Column]:
    """Where directions lie."""
    found = plane(run)
    held = {  # noqa: F841 - read by its name below
        "feature": np.arange(len(found), dtype=np.int32), "map_1": found[:, 0].copy(), "map_2": found[:, 1].copy(),
    }  # fmt: skip
    connection.execute("CREATE TABLE more AS SELECT * FROM held")
    return {name: OWN[name] for name in ("map_1", "map_2")}


_PARTS: dict[str, Callable[[Run, duckdb.DuckDBPyConnection], dict[str, Column]]] = {
    **{table: partial(_of_table, table) for table in FROM},
    "effects": _effects,
    "examples": _tokens,
    "dictionary": _plane,
}


def parquet(file: Path) -> str:
    """A table function over a file of ours; quotes in its path doubled."""
    quoted = str(file).replace("'", "''")
    return f"read_parquet('{quoted}', hive_partitioning = false)"


def first_line(error: BaseException) -> str:
    """What an error says, on one line of bounded length."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
