"""Byte-level BPE: trained on a corpus, saved as a transformers tokenizer; and what makes two tokenizers the same."""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer whose token 0, `<|endoftext|>`, begins and separates documents.

    Args:
        texts: documents; the same texts in the same order give the same tokenizer.
        vocab_size: number of tokens, the special one and the 256 bytes among them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerFast":
    """A saved transformers tokenizer.

    Raises:
        CorpusError: the folder holds none.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(folder)
    if folder.is_file() and folder.name == "tokenizer.json":
        folder = folder.parent
    if not (folder / "tokenizer.json").is_file():
        raise CorpusError(f"no tokenizer in {folder}: expected a transformers folder with tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CorpusError(f"the tokenizer in {folder} cannot be read: {error}") from None


def tokenizer_hash(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Hash of what decides the ids of a text: vocabulary, merges, normaliser and pre-tokenizer."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    deciding = {name: parts.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    return sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def start_token(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Id of the token that every context starts with: beginning of text, or end of text where there is no other."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        token = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    if not isinstance(token, int):
        raise CorpusError("the tokenizer has neither a beginning- nor an end-of-text token to start contexts with")
    return token
