"""How often each word stands in a packed corpus."""

from collections import Counter

from ontogeny.corpus.pack import Corpus
from ontogeny.tasks.task import words_in

SEQUENCES_AT_ONCE = 1024


def count_words(corpus: Corpus) -> Counter[str]:
    """Case-folded words of a corpus and their numbers; those that a context's border cuts count as their pieces."""
    counts: Counter[str] = Counter()
    for first in range(0, len(corpus), SEQUENCES_AT_ONCE):
        rows = slice(first, first + SEQUENCES_AT_ONCE)
        sequences = [
            tokens[1:length].tolist() for tokens, length in zip(corpus.tokens[rows], corpus.lengths[rows], strict=True)
        ]
        for text in corpus.tokenizer.batch_decode(sequences):
            counts.update(words_in(text))
    return counts
