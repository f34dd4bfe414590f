"""Induction: random words, then the first of them again; what followed the last one before, follows again.

The wrong answer is another of the random words, so that having been seen is not enough; in the corrupted input the two
have changed places where they stood first.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.corpus.tokenizer import start_token
from ontogeny.errors import TaskError
from ontogeny.tasks.task import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LENGTHS = (8, 12, 16)
TOKENS = 2000


def induction(items: int, tokenizer: "PreTrainedTokenizerFast", *, seed: int) -> Iterator[Item]:
    """Items of random word tokens, the first TOKENS of the vocabulary that are a space and letters."""
    words = [token for token in range(len(tokenizer)) if _is_word(str(tokenizer.decode([token])))][:TOKENS]
    if len(words) < 2 * max(LENGTHS):
        raise TaskError(f"induction needs {2 * max(LENGTHS)} tokens that are a space and letters: found {len(words)}")
    start, draw = start_token(tokenizer), np.random.default_rng(seed)
    for _ in range(items):
        length = int(draw.choice(LENGTHS))
        first = draw.choice(words, length, replace=False).tolist()
        answer = int(draw.integers(1, length - 1))
        other = int(draw.integers(answer + 1, length))
        swapped = list(first)
        swapped[answer], swapped[other] = first[other], first[answer]
        yield Item(
            prefix=(start, *first, *first[:answer]),
            good=first[answer],
            bad=first[other],
            corrupted=(start, *swapped, *first[:answer]),
            template=str(length),
        )


def _is_word(text: str) -> bool:
    return len(text) > 2 and text[0] == " " and text[1:].isalpha() and text[1:].islower()
