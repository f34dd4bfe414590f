"""Agreement of subject and verb, generated from words that even a small model's vocabulary has.

The corrupted input has the head noun in its other number.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from ontogeny.tasks.task import Pair

NOUNS = (
    ("boy", "boys"), ("girl", "girls"), ("man", "men"), ("woman", "women"), ("king", "kings"), ("lady", "ladies"),
    ("friend", "friends"), ("father", "fathers"), ("mother", "mothers"), ("brother", "brothers"),
    ("sister", "sisters"), ("child", "children"), ("doctor", "doctors"), ("soldier", "soldiers"), ("horse", "horses"),
    ("bird", "birds"), ("dog", "dogs"), ("teacher", "teachers"), ("student", "students"), ("servant", "servants"),
)  # fmt: skip
NEAR = (
    ("tree", "trees"), ("house", "houses"), ("door", "doors"), ("table", "tables"), ("river", "rivers"),
    ("window", "windows"), ("garden", "gardens"), ("wall", "walls"), ("bed", "beds"), ("chair", "chairs"),
)  # fmt: skip
VERBS = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))
PREPOSITIONS = ("near", "behind", "beside", "by")
SAW = ("saw", "knew", "loved", "called", "followed", "heard")
CONSTRUCTIONS = ("simple", "pp", "relative", "distractor")


def agreement(construction: str, *, seed: int) -> Iterator[Pair]:
    """All pairs of a construction, in random order.

    simple: the boy is. pp: across a prepositional phrase, the boy near the tree is. relative: across a relative
    clause, the boy that the girls saw is. distractor: as pp, the nearer noun always of the other number.
    """
    between: list[tuple[str, str]] = [("", "")]
    if construction in ("pp", "distractor"):
        between = [(f" {by} the {one}", f" {by} the {many}") for by, (one, many) in product(PREPOSITIONS, NEAR)]
    elif construction == "relative":
        between = [(f" that the {one} {saw}", f" that the {many} {saw}") for (one, many), saw in product(NOUNS, SAW)]
    numbers = (0, 1)
    rows = [
        (noun, verb, middle, number, near)
        for noun, verb, middle, number, near in product(NOUNS, VERBS, between, numbers, numbers)
        if not (construction == "distractor" and near == number) and (len(between) > 1 or near == 0)
    ]
    for place in np.random.default_rng(seed).permutation(len(rows)).tolist():
        noun, verb, middle, number, near = rows[place]
        yield Pair(
            prefix=f"The {noun[number]}{middle[near]}",
            good=" " + verb[number],
            bad=" " + verb[1 - number],
            corrupted=f"The {noun[1 - number]}{middle[near]}",
            template=f"{construction} {'plural' if number else 'singular'}",
            lexeme=noun[0],
        )
