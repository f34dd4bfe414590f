"""Documents from files: .txt, .md and .jsonl, plain, .gz or .xz.

A text file is one document. A JSONL file holds one object a line with `text`, and `id` and `source` where it has them.
"""

import glob
import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ontogeny.corpus.pydocs import pydocs
from ontogeny.errors import CorpusError


class Document(NamedTuple):
    id: str
    source: str
    text: str


OPENERS: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".xz": lzma.open}  # type: ignore[dict-item]


def expand(patterns: Iterable[str]) -> list[Path]:
    """The files that globs name, each once, sorted within a glob.

    Raises:
        CorpusError: a pattern matches no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207
        if not found:
            raise CorpusError(f"no file matches '{pattern}': check the path (relative ones start at {Path.cwd()})")
        files.update((Path(path), None) for path in found)
    return list(files)


def read_documents(patterns: Iterable[str], *, max_bytes_per_source: int | None = None) -> Iterator[Document]:
    """Documents of all files, in order; `pydocs` stands for the documentation in this environment.

    Args:
        patterns: globs, or `pydocs`.
        max_bytes_per_source: UTF-8 bytes after which a source gives no more documents.
    Raises:
        CorpusError: a file is missing, cannot be decompressed or decoded, or a JSONL line lacks `text`.
    """
    taken: dict[str, int] = {}
    for pattern in patterns:
        documents = (
            (Document(*entry) for entry in pydocs(max_bytes_per_package=max_bytes_per_source))
            if pattern == "pydocs"
            else (document for path in expand([pattern]) for document in _read_file(path))
        )
        for document in documents:
            so_far = taken.get(document.source, 0)
            if not document.text.strip() or (max_bytes_per_source is not None and so_far >= max_bytes_per_source):
                continue
            taken[document.source] = so_far + len(document.text.encode())
            yield document


def _read_file(path: Path) -> Iterator[Document]:
    suffixes = path.suffixes
    opener = OPENERS.get(suffixes[-1] if suffixes else "", open)
    kind = suffixes[-2] if opener is not open and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    if kind not in (".txt", ".md", ".jsonl"):
        raise CorpusError(
            f"{path}: cannot read '{kind or 'no suffix'}'; readable are .txt .md .jsonl, plain, .gz or .xz"
        )
    name = path.name.removesuffix(suffixes[-1] if opener is not open else "").removesuffix(kind)
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            if kind == ".jsonl":
                yield from _jsonl(file, path, name)
            else:
                yield Document(name, name, file.read())
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def _jsonl(lines: Iterable[str], path: Path, name: str) -> Iterator[Document]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["text"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise CorpusError(f"{path} line {number}: expected a JSON object with a `text`") from None
        if not isinstance(text, str):
            raise CorpusError(f"{path} line {number}: `text` is {type(text).__name__}, not a string")
        yield Document(str(record.get("id", f"{name}:{number}")), str(record.get("source", name)), text)
