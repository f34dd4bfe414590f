"""What features are called where nobody has described them: the tokens on which they are most active."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from ontogeny.errors import RunError
from ontogeny.run import Run

LEADING, WORDS = 10, 3
"""Examples of a feature that are looked at, and different tokens that are named."""


def token_texts(run: Run) -> list[str]:
    """The text of every token of a run's tokenizer, on one line each.

    Raises:
        RunError: the tokenizer is not there or cannot be read.
    """
    file = run.corpus_folder / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        raise RunError(f"{file} is not there: ontogeny pack {run.folder}")
    return _texts_of(file.resolve(), file.stat().st_mtime_ns)


def text_of(texts: list[str], token: int) -> str:
    """A token's text; models have rows for more tokens than their tokenizers know."""
    return texts[token] if token < len(texts) else "�"


@lru_cache(maxsize=4)
def _texts_of(file: Path, _changed: int) -> list[str]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise RunError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
    texts = tokenizer.decode_batch([[token] for token in range(tokenizer.get_vocab_size())], skip_special_tokens=False)
    return [_on_one_line(text) for text in texts]


def token_text(tokenizer: Any, token: int) -> str:
    """A token as text on one line; bytes that are no character by themselves as �."""
    return _on_one_line(tokenizer.decode([token], skip_special_tokens=False))


def _on_one_line(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥")


def labels(run: Run, texts: list[str], features: list[int] | None = None) -> pl.DataFrame:
    """For each feature that has examples its leading tokens, the most frequent first: `feature`, `label`.

    Args:
        texts: of the vocabulary.
        features: None for all.
    """
    top = run.scan("examples").filter(pl.col("kind") == "top", pl.col("rank") < LEADING)
    if features is not None:
        top = top.filter(pl.col("feature").is_in(features))
    token = pl.col("tokens").list.get(pl.col("position") - pl.col("first_position"))
    counted = top.group_by("feature", token=token).agg(pl.len(), pl.col("rank").min())
    words = pl.LazyFrame({"token": range(len(texts)), "text": [text.strip() or "␣" for text in texts]})
    named = counted.join(words.with_columns(pl.col("token").cast(pl.UInt32)), on="token")
    named = named.sort("feature", "len", "rank", "token", descending=[False, True, False, False])
    one = pl.col("text").unique(maintain_order=True).head(WORDS).str.join(" ").alias("label")
    return named.group_by("feature", maintain_order=True).agg(one).collect()
