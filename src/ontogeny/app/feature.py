"""Everything that a run knows of one feature, as plain values."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ontogeny.app.joined import UNREADABLE, first_line, parquet
from ontogeny.app.rows import Rows
from ontogeny.errors import RunError, did_you_mean
from ontogeny.features.directions import Directions
from ontogeny.features.labels import text_of, token_texts
from ontogeny.tables import FILES

NEIGHBOURS, LOGITS = 8, 10
SECTIONS: dict[str, Callable[..., Any]] = {}


def section(read: Callable[..., Any]) -> Callable[..., Any]:
    """Register a part of a feature's page under the function's name."""
    SECTIONS[read.__name__] = read
    return read


def feature_page(rows: Rows, feature: int, *, only: str | None = None) -> dict[str, Any]:
    """A feature's own row, and every section that can be read; `missing` says which cannot, and why.

    Args:
        only: the one section that is wanted.
    Raises:
        RunError: there is no such feature, or section.
    """
    if only is not None and only not in SECTIONS:
        raise RunError(f"no section '{only}'{did_you_mean(only, SECTIONS)}: there are {', '.join(SECTIONS)}")
    found = rows.query("SELECT * FROM features WHERE feature = ?", [feature])
    if not found:
        raise RunError(f"no feature {feature}: this run has 0 to {rows.count() - 1:,}")
    page: dict[str, Any] = {"feature": feature, "row": found[0], "steps": rows.run.steps, "missing": {}}
    for name, read in SECTIONS.items() if only is None else [(only, SECTIONS[only])]:
        try:
            page[name] = read(rows, feature)
        except UNREADABLE as error:
            page[name] = None
            page["missing"][name] = first_line(error)
    return page


def _table(rows: Rows, name: str, feature: int, *, where: str = "feature = ?", order: str = "snapshot") -> list[Any]:
    """Rows of one of the run's tables; none where the study did not ask for it."""
    file = rows.run.folder / FILES[name]
    if not file.is_file():
        return []
    return rows.query(f"SELECT * FROM {parquet(file)} WHERE {where} ORDER BY {order}", [feature])


@section
def trajectory(rows: Rows, feature: int) -> list[dict[str, Any]]:
    """A row a snapshot."""
    return _table(rows, "trajectories", feature)


@section
def cosine_last(rows: Rows, feature: int) -> list[float]:
    """Of its direction at each snapshot with the one at the last."""
    directions = Directions(rows.run).of(feature)
    return [round(float(value), 5) for value in directions @ directions[-1]]


@section
def examples(rows: Rows, feature: int) -> list[dict[str, Any]]:
    """Contexts in which it is active: kind, snapshot, rank, and a text and an activation for each token."""
    found, texts = _table(rows, "examples", feature, order="kind, snapshot, rank"), token_texts(rows.run)
    return [
        {
            **{name: row[name] for name in ("kind", "snapshot", "rank", "sequence", "position", "first_position")},
            "texts": [text_of(texts, token) for token in row["tokens"]],
            "activations": [round(float(value), 4) for value in row["activations"]],
        }
        for row in found
    ]


@section
def logits(rows: Rows, feature: int) -> list[dict[str, Any]]:
    """Tokens that its direction promotes and suppresses at each snapshot."""
    found, texts = _table(rows, "logit_effects", feature, order="snapshot, kind, rank"), token_texts(rows.run)
    return [
        {
            "snapshot": row["snapshot"],
            "kind": row["kind"],
            "text": text_of(texts, row["token"]),
            "effect": row["effect"],
        }
        for row in found
        if row["rank"] < LOGITS
    ]


@section
def effects(rows: Rows, feature: int) -> list[dict[str, Any]]:
    """Its effects on each task at each snapshot."""
    return _table(rows, "effects", feature, order="task, snapshot")


@section
def trust(rows: Rows, feature: int) -> dict[str, Any] | None:
    """Its level of trust, with reasons."""
    return next(iter(_table(rows, "trust", feature, order="feature")), None)


@section
def formation(rows: Rows, feature: int) -> dict[str, Any]:
    """Its level at each snapshot, its pattern and when its meaning and direction settle."""
    formed = next(iter(_table(rows, "formed", feature, order="feature")), None)
    return {"formed": formed, "levels": _table(rows, "levels", feature)}


@section
def descriptions(rows: Rows, feature: int) -> dict[str, Any]:
    """What a language model calls it, and how well that tells where it is active at each snapshot."""
    said = next(iter(_table(rows, "descriptions", feature, order="feature")), {"description": None})
    return {"description": said["description"], "detection": _table(rows, "detection", feature)}


@section
def relatives(rows: Rows, feature: int) -> dict[str, Any]:
    """The earlier feature that it is nearest to, those that it is this for, and features that it was one with."""
    return {
        "parent": _named(rows, _table(rows, "lineage", feature, order="feature"), "parent"),
        "children": _named(rows, _table(rows, "lineage", feature, where="parent = ?", order="birth_step"), "feature"),
        "partings": _named(rows, _table(rows, "partings", feature, order="step"), "other"),
    }


@section
def neighbours(rows: Rows, feature: int) -> list[dict[str, Any]]:
    """Features whose directions are nearest to it at the last snapshot, whatever the sign."""
    directions = Directions(rows.run)
    cosine = directions.cosines(feature, directions.n_snapshots - 1)
    size = np.abs(cosine)
    size[feature] = -1
    near = np.argsort(-size, kind="stable")[:NEIGHBOURS]
    return _named(rows, [{"feature": int(one), "cosine": round(float(cosine[one]), 4)} for one in near], "feature")


def _named(rows: Rows, found: list[dict[str, Any]], which: str) -> list[dict[str, Any]]:
    """With what the feature in column `which` fires on."""
    if not found or "fires_on" not in rows.columns:
        return found
    ids = [row[which] for row in found]
    marks = ", ".join("?" for _ in ids)
    named = rows.query(f"SELECT feature, fires_on, birth_step FROM features WHERE feature IN ({marks})", ids)
    said = {row["feature"]: row for row in named}
    empty = {"fires_on": None, "birth_step": None}
    return [{**row, **{name: said.get(row[which], empty)[name] for name in empty}} for row in found]
