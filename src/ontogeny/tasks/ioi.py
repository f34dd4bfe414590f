"""Indirect object identification: of two names, the one that was said once is the answer.

The corrupted input says the other name twice. Source of the task: Wang et al. 2022, arXiv 2211.00593; names, places,
objects and templates here are our own, of words that old books have too.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.tasks.task import Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAMES = (
    "John", "Mary", "Tom", "Robert", "William", "James", "Henry", "George", "Charles", "Jane", "Anne", "Sarah",
    "Alice", "Elizabeth", "David", "Mark", "Paul", "Peter", "Richard", "Edward", "Arthur", "Frank", "Margaret",
    "Ellen", "Emily", "Martin", "Philip", "Helen", "Lucy", "Lily", "Tim", "Sam", "Jack", "Harry", "Kate", "Laura",
)  # fmt: skip
PLACES = ("house", "garden", "school", "church", "river", "hall", "park", "town")
OBJECTS = ("book", "letter", "ring", "flower", "box", "drink", "key", "hat")
TEMPLATES = (
    "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "Then {a} and {b} went to the {place}. {s} gave a {object} to",
    "After {a} and {b} had come to the {place}, {s} handed a {object} to",
    "{a} and {b} had a long talk at the {place}. Then {s} gave a {object} to",
    "While {a} and {b} were at the {place}, {s} showed the {object} to",
    "One day {a} and {b} found a {object} near the {place}. {s} gave it to",
)


LEAST_NAMES = 8


def ioi(pairs: int, tokenizer: "PreTrainedTokenizerFast", *, seed: int) -> Iterator[Pair]:
    """Pairs drawn at random, as often with the first as with the second name said twice.

    Names are those of one token, so that inputs align, where the vocabulary has some.
    """
    draw = np.random.default_rng(seed)
    short = [name for name in NAMES if len(tokenizer.encode(f" {name}", add_special_tokens=False)) == 1]
    names = short if len(short) >= LEAST_NAMES else NAMES
    for _ in range(pairs):
        first, second = draw.choice(names, 2, replace=False).tolist()
        template, place, thing = (draw.integers(len(words)) for words in (TEMPLATES, PLACES, OBJECTS))
        swapped = bool(draw.integers(2))
        said, asked = (first, second) if swapped else (second, first)

        def text(subject: str, at: int = int(template), there: int = int(place), what: int = int(thing)) -> str:
            named = {"a": first, "b": second, "s": subject, "place": PLACES[there], "object": OBJECTS[what]}  # noqa: B023
            return TEMPLATES[at].format(**named)

        yield Pair(
            prefix=text(said),
            good=" " + asked,
            bad=" " + said,
            corrupted=text(asked),
            template=f"{int(template)} {'ABA' if swapped else 'ABB'}",
            lexeme=asked,
        )
