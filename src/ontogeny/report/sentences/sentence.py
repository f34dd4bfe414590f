"""A sentence of the report's opening, with where its numbers come from."""

from typing import NamedTuple


class Sentence(NamedTuple):
    """A sentence or two, and the tables that its numbers come from."""

    text: str
    tables: tuple[str, ...]
