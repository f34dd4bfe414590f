"""The held-out tokens whose codes a run keeps, as analyses need them: activations, words, features' leading tokens."""

from hashlib import sha256

import numpy as np
import polars as pl
import snowballstemmer
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ontogeny.activations.harvest import harvester_of, usable_positions
from ontogeny.activations.key import snapshot_keys
from ontogeny.config.settings import fingerprint
from ontogeny.corpus.pack import Corpus
from ontogeny.features.codes import StoredCodes
from ontogeny.files import is_kept, keeping
from ontogeny.models.pretrain import padded
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of

SEQUENCES_AT_ONCE = 16
FIRST_RANKS = 4
"""Leading tokens are first looked for among so many times as many."""
CONTEXT = 8
"""Tokens, up to the one in question, that two contexts share if one counts as a copy of the other."""
WORD_STARTS = ("Ġ", "▁", "Ċ", "ĉ")


def stored_activations(
    run: Run, snapshot: int, sequences: Int[np.ndarray, " sequence"]
) -> Float[Tensor, "token width"]:
    """Raw activations of some held-out sequences' usable tokens at a snapshot: read once, then kept in half precision.

    They are scaled to a mean norm of √d_model before they are rounded, and back.
    """
    corpus, suite = Corpus(run.corpus_folder / "held_out"), suite_of(run)
    own = suite.snapshots[snapshot]
    key = fingerprint(snapshot_keys(run)[snapshot], corpus.fingerprint, sha256(sequences.tobytes()).hexdigest())
    folder = run.folder / "sample" / f"step{own.step}"
    if not is_kept(folder, key):
        harvester, read = harvester_of(run, suite=suite.only([snapshot])), []
        for first in range(0, len(sequences), SEQUENCES_AT_ONCE):
            chunk = sequences[first : first + SEQUENCES_AT_ONCE]
            usable = torch.from_numpy(usable_positions(corpus.lengths[chunk], corpus.sequence_length))
            read.append(harvester.read(0, padded(corpus, chunk).clamp_min(0)).cpu()[usable])
        x = torch.cat(read)
        scale = x.shape[1] ** 0.5 / x.norm(dim=1).mean()
        with keeping(folder, key) as temporary:
            save_file({"x": (x * scale).half(), "scale": scale[None]}, temporary / "sample.safetensors")
    kept = load_file(folder / "sample.safetensors")
    return kept["x"].float() / kept["scale"]


def contexts_of(stored: StoredCodes) -> Int[np.ndarray, " token"]:
    """A number for each token that it shares with those that stand after the same tokens."""
    before = np.stack([np.roll(stored.token, shift) for shift in range(CONTEXT)], axis=1)
    outside = np.stack([np.roll(stored.sequence, shift) for shift in range(CONTEXT)], 1) != stored.sequence[:, None]
    outside |= np.arange(len(before))[:, None] < np.arange(CONTEXT)
    return np.unique(np.where(outside, -1, before), axis=0, return_inverse=True)[1].reshape(-1)


def leading_tokens(
    codes: Tensor, *, sequence: Int[np.ndarray, " token"], context: Int[np.ndarray, " token"], ranks: int
) -> Int[np.ndarray, "feature rank"]:
    """The tokens on which each feature is most active, one a sequence and one of each context; -1 for none.

    Taken one after the other, each the most active one of a sequence and a context that have none yet.

    Args:
        codes: sparse [feature, token].
    """
    feature, token = codes.indices().cpu().numpy()
    values = codes.values().cpu().numpy()
    table = pl.DataFrame(
        {"feature": feature, "token": token, "code": values, "sequence": sequence[token], "context": context[token]}
    )
    table = table.filter(pl.col("code") > 0).sort("feature", "code", "token", descending=[False, True, False])
    table = table.unique(["feature", "sequence", "context"], keep="first", maintain_order=True)
    table = table.with_columns(place=pl.int_range(pl.len()).over("feature"))
    leading = np.full((codes.shape[0], ranks), -1, dtype=np.int64)
    _fill(leading, table.filter(pl.col("place") < FIRST_RANKS * ranks))
    short = np.flatnonzero(leading[:, -1] < 0)
    more = table.filter(pl.col("place") == FIRST_RANKS * ranks)["feature"].to_numpy()
    again = np.intersect1d(short, more)  # whose first ones stand too often in one sequence or context
    leading[again] = -1
    _fill(leading, table.filter(pl.col("feature").is_in(again)))
    return leading


def _fill(leading: Int[np.ndarray, "feature rank"], table: pl.DataFrame) -> None:
    """Put each feature's leading tokens into place, from rows in their order."""
    for rank in range(leading.shape[1]):
        first = table.unique("feature", keep="first", maintain_order=True)
        leading[first["feature"].to_numpy(), rank] = first["token"].to_numpy()
        for taken in ("sequence", "context"):
            table = table.join(first, on=["feature", taken], how="anti", maintain_order="left")


def words_of(
    stored: StoredCodes, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[str], Int[np.ndarray, " token"]]:
    """The case-folded word that each token is part of: words, and the word of each token.

    A word begins where a token's piece marks a space, and where letters and digits change to other signs or back.
    """
    pieces = {int(token): tokenizer.convert_ids_to_tokens(int(token)) for token in np.unique(stored.token)}
    is_word = {token: any(map(str.isalnum, tokenizer.decode([token]))) for token in pieces}
    words: dict[str, int] = {}
    found = np.empty(len(stored.token), dtype=np.int64)
    ends = np.searchsorted(stored.sequence, np.arange(len(stored.sequences)), side="right")
    first = 0
    for sequence, end in zip(stored.sequences.tolist(), ends.tolist(), strict=True):
        tokens = corpus.tokens[sequence, 1 : 1 + end - first].astype(np.int64).tolist()
        starts = [
            place
            for place, token in enumerate(tokens)
            if place == 0 or str(pieces[token]).startswith(WORD_STARTS) or is_word[token] != is_word[tokens[place - 1]]
        ]
        for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
            word = str(tokenizer.decode(tokens[start:stop])).strip().casefold()
            found[first + start : first + stop] = words.setdefault(word, len(words))
        first = end
    return list(words), found


def stems_of(words: list[str], *, language: str) -> Int[np.ndarray, " word"]:
    """A number for each word that it shares with those of the same stem (Snowball's stemmers)."""
    stems = snowballstemmer.stemmer(language).stemWords(words)
    return np.unique(stems, return_inverse=True)[1].reshape(-1)


def leading_of(stored: StoredCodes, *, ranks: int) -> Int[np.ndarray, "feature rank"]:
    """The leading tokens of each feature of a run."""
    return leading_tokens(stored.codes, sequence=stored.sequence, context=contexts_of(stored), ranks=ranks)
