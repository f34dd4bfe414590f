"""What a task is: minimal pairs, cut at the token that tells good from bad.

A family writes texts (`Pair`); `prepare` makes items of token ids of them and counts what it leaves out, and why.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import snowballstemmer

from ontogeny.corpus.tokenizer import start_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
UNKNOWN = "a word is too rare in the training text"
REPEATED = "the same item again"
ALIKE = "good and bad do not differ in a token"
LONG = "longer than the models' context"
UNALIGNED = "no corrupted input, or one that does not align token by token"
EMPTY = "nothing stands before the token that counts"


@dataclass(frozen=True)
class Pair:
    """A minimal pair as text: what both begin with, and how the good and the bad one go on.

    Attributes:
        prefix: may be empty.
        good, bad: with their leading space; only the first tokens in which they differ count.
        corrupted: a prefix after which `bad` would be right; None where there is none.
        template: of what construction it is.
        lexeme: the word that varies between pairs of one template.
    """

    prefix: str
    good: str
    bad: str
    corrupted: str | None = None
    template: str = ""
    lexeme: str = ""


@dataclass(frozen=True)
class Item:
    """A minimal pair as token ids: the model reads `prefix` and is asked whether `good` or `bad` comes next.

    Attributes:
        prefix: begins with the token that every context begins with.
        corrupted: as long as the prefix; None where there is none, or it does not align.
        template, lexeme: those of its pair; items that share both are resampled together.
    """

    prefix: tuple[int, ...]
    good: int
    bad: int
    corrupted: tuple[int, ...] | None = None
    template: str = ""
    lexeme: str = ""


@dataclass(frozen=True)
class Task:
    """Items of one kind.

    Attributes:
        dropped: how many were left out, by the reason.
    """

    name: str
    items: tuple[Item, ...]
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {len(self)} items, dropped {self.dropped})"

    @property
    def clusters(self) -> np.ndarray:
        """A number for each item that those of one template and lexeme share [item]; all differ where none has one."""
        keys = [
            (one.template, one.lexeme) if one.lexeme else (one.template, place) for place, one in enumerate(self.items)
        ]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.asarray([numbers[key] for key in keys], dtype=np.int64)

    def only(self, places: Sequence[int] | np.ndarray) -> "Task":
        """Some of the items."""
        return replace(self, items=tuple(self.items[place] for place in places))

    def aligned(self) -> "Task":
        """The items that have a corrupted input; the others are counted as dropped."""
        kept = [place for place, item in enumerate(self.items) if item.corrupted is not None]
        return replace(self.only(kept), dropped=_more(self.dropped, UNALIGNED, len(self) - len(kept)))

    def halves(self, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Two halves of the items that share no cluster, as places; by items where there are fewer than four clusters.

        Clusters are drawn in random order, each into the half that has fewer items so far.
        """
        clusters = self.clusters if len(np.unique(self.clusters)) >= 4 else np.arange(len(self))
        sizes, halves = np.bincount(clusters), ([], [])
        for cluster in np.random.default_rng(seed).permutation(len(sizes)).tolist():
            smaller = min(halves, key=lambda half: sum(sizes[one] for one in half))
            smaller.append(cluster)
        first, second = (np.flatnonzero(np.isin(clusters, half)) for half in halves)
        return first, second


def prepare(
    name: str,
    pairs: Iterable[Pair | Item],
    tokenizer: "PreTrainedTokenizerFast",
    *,
    items: int,
    context: int | None = None,
    words: Counter[str] | None = None,
    least_count: int = 0,
    aligned: bool = False,
) -> Task:
    """A task of the first pairs that can be used; what is dropped is counted until there are enough.

    Args:
        pairs: in the order in which they are wanted.
        items: at most so many.
        context: tokens that the models read.
        words: how often each word stands in the training text, case-folded.
        least_count: pairs with a rarer word are left out.
        aligned: whether pairs without a corrupted input that aligns are left out.
    """
    kept: dict[Item, None] = {}
    dropped: dict[str, int] = {}
    for pair in pairs:
        if len(kept) == items:
            break
        if isinstance(pair, Pair) and words is not None and least_count and _is_rare(pair, words, least_count):
            dropped = _more(dropped, UNKNOWN, 1)
            continue
        item = _item(pair, tokenizer) if isinstance(pair, Pair) else pair
        if item is None:
            dropped = _more(dropped, ALIKE, 1)
        elif context is not None and len(item.prefix) > context:
            dropped = _more(dropped, LONG, 1)
        elif len(item.prefix) < 2:
            dropped = _more(dropped, EMPTY, 1)
        elif aligned and item.corrupted is None:
            dropped = _more(dropped, UNALIGNED, 1)
        elif item in kept:
            dropped = _more(dropped, REPEATED, 1)
        else:
            kept[item] = None
    return Task(name, tuple(kept), dropped)


def _more(counts: dict[str, int], reason: str, by: int) -> dict[str, int]:
    return counts | {reason: counts.get(reason, 0) + by} if by else counts


def _is_rare(pair: Pair, words: Counter[str], least_count: int) -> bool:
    texts = [pair.prefix + pair.good, pair.prefix + pair.bad, pair.corrupted or ""]
    return any(words[word] < least_count for text in texts for word in words_in(text))


def words_in(text: str) -> list[str]:
    """The case-folded words of a text."""
    return [word.casefold() for word in WORD.findall(text)]


def _item(pair: Pair, tokenizer: "PreTrainedTokenizerFast") -> Item | None:
    """None where the two token sequences do not part."""
    start = start_token(tokenizer)

    def encode(text: str) -> list[int]:
        return [start, *tokenizer.encode(text, add_special_tokens=False)]

    good, bad = encode(pair.prefix + pair.good), encode(pair.prefix + pair.bad)
    place = next((i for i, (one, other) in enumerate(zip(good, bad, strict=False)) if one != other), None)
    if place is None:
        return None
    corrupted = None
    if pair.corrupted is not None:
        other = encode(pair.corrupted + pair.good)
        if len(other) == len(good) and other[place:] == good[place:]:
            corrupted = tuple(other[:place])
    return Item(tuple(good[:place]), good[place], bad[place], corrupted, pair.template, pair.lexeme)


def pair_of_sentences(good: str, bad: str, *, template: str, lexeme: str | None = None) -> Pair:
    """A pair of whole sentences, parted before the first word in which they differ; without a lexeme the head is."""
    ours, theirs = good.split(" "), bad.split(" ")
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[shared] == theirs[shared]:
        shared += 1
    space = " " if shared else ""
    prefix = " ".join(ours[:shared])
    return Pair(
        prefix=prefix,
        good=space + " ".join(ours[shared:]),
        bad=space + " ".join(theirs[shared:]),
        template=template,
        lexeme=head(good) if lexeme is None else lexeme,
    )


FUNCTION_WORDS = {
    *("the", "a", "an", "this", "that", "these", "those", "some", "all", "most", "many", "few", "every", "no"),
    *("my", "his", "her", "their", "our", "its", "le", "la", "les", "un", "une", "des", "ce", "cette", "ces"),
    *("is", "are", "was", "were", "has", "have", "had", "do", "does", "did", "can", "could", "will", "would"),
}


def head(text: str) -> str:
    """The first word that is no article or auxiliary, often the subject's noun, without its ending (Snowball)."""
    words = words_in(text)
    first = next((word for word in words if word not in FUNCTION_WORDS), words[0] if words else "")
    return snowballstemmer.stemmer("english").stemWord(first)
