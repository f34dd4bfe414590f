"""Packing: documents become fixed-length sequences of token ids on disk, memory-mapped.

Every context starts with the start token and holds one document, padded at its end; a long document fills several
contexts. Only when asked do short documents of one source follow each other in one context.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TypeVar

import numpy as np
import polars as pl

from ontogeny.config.corpus import CorpusConfig, TokenizerConfig
from ontogeny.config.settings import fingerprint
from ontogeny.corpus.hub_dataset import PREFIX, HubDataset
from ontogeny.corpus.pydocs import environment_key
from ontogeny.corpus.readers import Document, Documents, expand
from ontogeny.corpus.tokenizer import load_tokenizer, start_token, tokenizer_hash, train_tokenizer
from ontogeny.errors import CorpusError
from ontogeny.files import atomic_path, content_state, default_cache, file_hash, read_json, write_json, write_text
from ontogeny.progress import progress_bar

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

T = TypeVar("T")
DOCUMENTS_AT_ONCE = 256


class Corpus:
    """A packed token stream, opened from its folder and memory-mapped.

    Attributes:
        tokens: token ids [sequence, position]; ids at and after a sequence's length are padding.
        lengths: tokens of each sequence [sequence], the start token among them.
        documents: index of the document that each sequence begins with [sequence].
        manifest: counts, hashes and settings.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise CorpusError(f"{self.folder} is not a packed corpus: it has no manifest.json")
        self.manifest = read_json(path, mend=f"remove {self.folder} and pack again")
        shape = (self.manifest["sequences"], self.manifest["sequence_length"])
        dtype = np.dtype(self.manifest["dtype"])
        file = self.folder / "tokens.bin"
        if not file.is_file() or file.stat().st_size != shape[0] * shape[1] * dtype.itemsize:
            raise CorpusError(f"{file} is missing or cut short: remove {self.folder} and pack again")
        self.tokens = np.memmap(file, dtype=dtype, mode="r", shape=shape)
        self.lengths = np.load(self.folder / "lengths.npy")
        self.documents = np.load(self.folder / "documents.npy")

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"Corpus({str(self.folder)!r}, {len(self):,} sequences, {self.n_tokens:,} tokens)"

    @property
    def sequence_length(self) -> int:
        return self.manifest["sequence_length"]

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return self.manifest["tokens"]

    @property
    def fingerprint(self) -> str:
        """Changes whenever a token, the tokenizer or the packing changes."""
        return self.manifest["fingerprint"]

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        return load_tokenizer(self.folder.parent / "tokenizer")

    def require_tokenizer(self, digest: str, *, owner: str) -> None:
        """Check that the corpus was packed with the tokenizer of a suite.

        Raises:
            CorpusError: it was not; rows would be other tokens than the models know.
        """
        if self.manifest["tokenizer_hash"] != digest:
            raise CorpusError(
                f"{self.folder} was packed with another tokenizer ({self.manifest['vocab_size']:,} tokens, "
                f"{self.manifest['tokenizer_hash'][:12]}) than {owner}'s ({digest[:12]}): pack it with the suite's own"
            )


def pack_study_corpus(
    config: CorpusConfig, folder: Path, *, tokenizer: "PreTrainedTokenizerFast | None"
) -> tuple[Corpus, Corpus]:
    """Pack a study's text into `folder`/train and `folder`/held_out, the tokenizer beside them.

    The work is done in a folder beside it, where a killed call's is taken up, and takes its place when it is whole.

    Args:
        tokenizer: the suite's; None where the study trains one of its own.
    Raises:
        CorpusError: files are missing or empty, or `config.tokenizer` is not the suite's.
    """
    key = corpus_key(config, tokenizer=tokenizer)
    if not _has_key(folder, key):
        work = folder.with_name(f".{folder.name}.next")
        if not _has_key(work, key):
            shutil.rmtree(work, ignore_errors=True)
            write_text(work / "key", key)
        try:
            _pack_splits(config, work, tokenizer=own_tokenizer(config, suites=tokenizer))
        except CorpusError:
            shutil.rmtree(work)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    return Corpus(folder / "train"), Corpus(folder / "held_out")


def _has_key(folder: Path, key: str) -> bool:
    return (folder / "key").is_file() and (folder / "key").read_text(encoding="utf-8") == key


def own_tokenizer(
    config: CorpusConfig, *, suites: "PreTrainedTokenizerFast | None"
) -> "PreTrainedTokenizerFast | None":
    """The tokenizer that a study's text is packed with; None where one is to be trained.

    Raises:
        CorpusError: the study names one that is not the suite's, or wants to train one although the suite has its own.
    """
    if isinstance(config.tokenizer, Path):
        own = load_tokenizer(config.tokenizer)
        if suites is not None and tokenizer_hash(own) != tokenizer_hash(suites):
            raise CorpusError(
                f"the tokenizer in {config.tokenizer} ({len(own):,} tokens) is not the suite's "
                f"({len(suites):,} tokens): leave corpus.tokenizer out to use the suite's own"
            )
        return own
    if config.tokenizer is not None and suites is not None:
        raise CorpusError("corpus.tokenizer asks to train a tokenizer, but the suite has its own: leave it out")
    return suites


def corpus_key(config: CorpusConfig, *, tokenizer: "PreTrainedTokenizerFast | None") -> str:
    """Fingerprint of the settings, of every file that they name wherever it lies, and of the tokenizer.

    Raises:
        CorpusError: a pattern matches no file, or the tokenizer is not the suite's.
    """
    texts = []
    for patterns in (config.patterns, config.held_out_patterns):
        datasets = [pattern for pattern in patterns if pattern.startswith(PREFIX)]
        texts += [HubDataset.of(name, cap=config.max_bytes_per_source) for name in datasets]
        files = expand(_of_files(patterns))
        texts.append([(file.name, *content_state(file)) for file in files])
        texts.append(environment_key() if "pydocs" in patterns else [])
    own = own_tokenizer(config, suites=tokenizer)
    digest = None if own is None else tokenizer_hash(own)
    trained = config.tokenizer if isinstance(config.tokenizer, TokenizerConfig) else None
    settings = config.model_copy(update={"files": "", "held_out": None, "tokenizer": trained})
    return fingerprint(settings, texts, digest)


def _pack_splits(config: CorpusConfig, folder: Path, *, tokenizer: "PreTrainedTokenizerFast | None") -> None:
    """Write tokenizer, train and held_out into a folder, each as a whole; what is there already is kept."""
    train, held_out = _split(config)
    if tokenizer is None and (folder / "tokenizer").is_dir():
        tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer is None:
        settings = config.tokenizer if isinstance(config.tokenizer, TokenizerConfig) else TokenizerConfig()
        with _reading("tokenizer", train) as documents:
            tokenizer = train_tokenizer((document.text for document in documents), vocab_size=settings.vocab_size)
    if not (folder / "tokenizer").is_dir():
        with atomic_path(folder / "tokenizer") as temporary:
            tokenizer.save_pretrained(temporary)
    for name, documents in (("train", train), ("held_out", held_out)):
        if not (folder / name).is_dir():
            with _reading("pack", documents) as reading:
                pack_documents(reading, folder / name, tokenizer=tokenizer, config=config)


def _split(config: CorpusConfig) -> tuple[Documents, Documents]:
    """Documents to train on and documents held out, as given or by the hash of each document's id."""
    train = Documents(config.patterns, max_bytes_per_source=config.max_bytes_per_source)
    if config.held_out_patterns:
        own, held = (expand(_of_files(patterns)) for patterns in (config.patterns, config.held_out_patterns))
        if both := sorted(set(own) & set(held)):
            raise CorpusError(f"{both[0]} is held out and trained on: name other files in corpus.held_out")
        from_hub = any(pattern.startswith(PREFIX) for pattern in config.held_out_patterns)
        return train, Documents(
            config.held_out_patterns, max_bytes_per_source=config.max_bytes_per_source if from_hub else None
        )

    def rank(document: str) -> float:
        return int(sha256(document.encode()).hexdigest()[:15], 16) / 16**15

    with _reading("documents", train) as documents:
        ids = [document.id for document in documents]
    if not ids:
        raise CorpusError(f"the corpus is empty: {', '.join(config.patterns)} hold no text")
    if len(ids) == 1:
        raise CorpusError("the corpus is one document, so none can be held out: give corpus.held_out or more files")
    if len(set(ids)) == 1:
        raise CorpusError(
            f"all {len(ids):,} documents have the id '{ids[0]}', so none can be held out: give each its own"
        )
    share = max(config.held_out_share, min(map(rank, ids)))
    return train.only(lambda name: rank(name) > share), train.only(lambda name: rank(name) <= share)


def _of_files(patterns: Sequence[str]) -> list[str]:
    return [one for one in patterns if one != "pydocs" and not one.startswith(PREFIX)]


@contextmanager
def _reading(doing: str, documents: Documents) -> Iterator[Iterator[Document]]:
    """The documents, with a bar that shows how far the reading of their files has come."""
    with progress_bar(doing, documents.bytes_total // 1000, unit="kB") as bar:

        def read() -> Iterator[Document]:
            shown = 0
            for document in documents:
                yield document
                bar.advance(documents.bytes_read // 1000 - shown)
                shown = documents.bytes_read // 1000

        yield read()


def pack_documents(
    documents: Iterable[Document], folder: Path, *, tokenizer: "PreTrainedTokenizerFast", config: CorpusConfig
) -> None:
    """Tokenize and pack documents into a new folder.

    Raises:
        CorpusError: not even two tokens are left to pack, so that none could be told from another.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    start = start_token(tokenizer)
    encode = _plain_encoder(tokenizer).encode_batch_fast
    min_tokens = min(config.min_tokens, config.sequence_length)
    lengths: list[int] = []
    first_documents: list[int] = []
    rows: list[tuple[str, str, int]] = []
    dropped = 0
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        with (temporary / "tokens.bin").open("wb") as file:

            def write(context: list[int], document: int) -> int:
                """Write one context; the number of tokens that were too few to keep."""
                if len(context) < min_tokens:
                    return len(context)
                _write_padded(file, context, config.sequence_length, dtype, start)
                lengths.append(len(context))
                first_documents.append(document)
                return 0

            waiting: list[int] = []
            waiting_document, waiting_source = 0, ""
            for group in _chunks(documents, DOCUMENTS_AT_ONCE):
                encodings = encode([document.text for document in group], add_special_tokens=False)
                for document, encoding in zip(group, encodings, strict=True):
                    index = len(rows)
                    rows.append((document.id, document.source, len(encoding.ids)))
                    if config.share_context == "never":
                        for piece in _pieces(encoding.ids, config.sequence_length - 1):
                            dropped += write([start, *piece], index)
                        continue
                    if waiting and document.source != waiting_source:
                        dropped += write([start, *waiting], waiting_document)
                        waiting = []
                    if not waiting:
                        waiting_document, waiting_source = index, document.source
                    waiting += [*encoding.ids, start]
                    *full, waiting = list(_pieces(waiting, config.sequence_length - 1)) or [[]]
                    for piece in full:
                        dropped += write([start, *piece], waiting_document)
                        waiting_document = index
            if waiting:
                dropped += write([start, *waiting], waiting_document)
        if sum(lengths) - len(lengths) < 2:
            raise CorpusError(
                f"too little text for {folder.name}: {sum(lengths)} tokens in contexts of {min_tokens} or more, "
                f"{dropped} in shorter ones (start tokens among them): give more text"
            )
        np.save(temporary / "lengths.npy", np.asarray(lengths, dtype=np.int32))
        np.save(temporary / "documents.npy", np.asarray(first_documents, dtype=np.int32))
        table = pl.DataFrame(rows, schema={"id": pl.String, "source": pl.String, "tokens": pl.Int64}, orient="row")
        table.write_parquet(temporary / "documents.parquet")
        hashes = {name: file_hash(temporary / name) for name in ("tokens.bin", "lengths.npy", "documents.npy")}
        digest = tokenizer_hash(tokenizer)
        manifest = {
            "sequences": len(lengths),
            "sequence_length": config.sequence_length,
            "tokens": sum(lengths),
            "padding_share": 1 - sum(lengths) / (len(lengths) * config.sequence_length),
            "dropped_tokens": dropped,
            "documents": len(rows),
            "dtype": dtype.name,
            "vocab_size": len(tokenizer),
            "start_token": start,
            "share_context": config.share_context,
            "tokenizer_hash": digest,
            "sha256": hashes,
            "fingerprint": fingerprint(hashes, digest),
        }
        write_json(temporary / "manifest.json", manifest)


def _plain_encoder(tokenizer: "PreTrainedTokenizerFast") -> "Tokenizer":
    """A copy that neither cuts nor pads, and takes the spelling of a special token in a text for text."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True
    return encoder


def _write_padded(file: IO[bytes], context: list[int], length: int, dtype: np.dtype, padding: int) -> None:
    row = np.full(length, padding, dtype=dtype)
    row[: len(context)] = context
    file.write(row.tobytes())


def _pieces(ids: list[int], length: int) -> Iterator[list[int]]:
    for start in range(0, len(ids), length):
        yield ids[start : start + length]


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def open_corpus(
    source: str | Path | list[str],
    *,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
    sequence_length: int = 256,
    share_context: Literal["never", "source"] = "never",
) -> Corpus:
    """Open a packed corpus, or pack files into the cache and open that.

    Args:
        source: a packed folder; or globs of .txt, .md or .jsonl files, plain, .gz, .xz or .zst, or .parquet; or
            `pydocs`.
        tokenizer: needed to pack; the suite's own, `suite.tokenizer()`.
        sequence_length: tokens per context, the start token among them.
        share_context: `source` lets short documents of one source share a context.
    Returns:
        A corpus with `tokens` [sequence, position].
    Raises:
        CorpusError: no file matches, nothing can be read, or a tokenizer is missing.
    """
    patterns = [str(source)] if isinstance(source, str | Path) else list(source)
    if len(patterns) == 1 and (Path(patterns[0]) / "manifest.json").is_file():
        return Corpus(patterns[0])
    if tokenizer is None:
        raise CorpusError(f"packing {', '.join(patterns)} needs a tokenizer: pass tokenizer=suite.tokenizer()")
    config = CorpusConfig(files=patterns, sequence_length=sequence_length, share_context=share_context)
    folder = default_cache() / "corpora" / corpus_key(config, tokenizer=tokenizer)
    if not (folder / "train").is_dir():
        with atomic_path(folder / "tokenizer") as temporary:
            tokenizer.save_pretrained(temporary)
        with _reading("pack", Documents(patterns)) as documents:
            pack_documents(documents, folder / "train", tokenizer=tokenizer, config=config)
    return Corpus(folder / "train")
