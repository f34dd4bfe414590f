"""Documents from files: .txt, .md and .jsonl, plain, .gz, .xz or .zst, and .parquet.

A text file is one document. A JSONL file holds one object a line, a Parquet file one row, with `text`, and `id` and
`source` where they have them.
"""

import copy
import glob
import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple

from ontogeny.corpus.hub_dataset import PREFIX, HubDataset
from ontogeny.corpus.pydocs import module_count, pydocs
from ontogeny.errors import CorpusError
from ontogeny.progress import progress_bar


class Document(NamedTuple):
    id: str
    source: str
    text: str


def _zstd(raw: IO[bytes]) -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)


OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".zst": _zstd,
}
ROWS_AT_ONCE = 10_000
"""Of a Parquet file."""


def expand(patterns: Iterable[str]) -> list[Path]:
    """The files that globs name, each once, sorted within a glob.

    Raises:
        CorpusError: a pattern matches no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207
        if not found and Path(pattern).is_dir():
            raise CorpusError(f"'{pattern}' is a folder: name the files in it, such as '{pattern}/*.jsonl'")
        if not found:
            raise CorpusError(f"no file matches '{pattern}': check the path (relative ones start at {Path.cwd()})")
        files.update((Path(path), None) for path in found)
    return list(files)


class Documents:
    """Documents of some files, in order, read anew at each iteration; those of `pydocs` are read once and kept.

    Args:
        patterns: globs, `pydocs` for the documentation in this environment, or `datasets:OWNER/NAME`.
        max_bytes_per_source: UTF-8 bytes after which a source gives no more documents; a dataset has to have such.
        keep: which documents to give, by their id.
    Attributes:
        bytes_total: bytes of all files as they lie on disk, and of the texts of `pydocs`.
        bytes_read: how far the latest iteration has come.
    Raises:
        CorpusError: a pattern matches no file; on iterating: a file cannot be decompressed or decoded, or a JSONL line
            lacks `text`.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        *,
        max_bytes_per_source: int | None = None,
        keep: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.cap, self.keep = max_bytes_per_source, keep
        self.parts: list[Path | list[Document]] = []
        for pattern in patterns:
            if pattern == "pydocs":
                self.parts.append(_pydocs(self.cap))
            elif pattern.startswith(PREFIX):
                self.parts.append(HubDataset.of(pattern, cap=self.cap).file())
            else:
                self.parts += expand([pattern])
        self.bytes_total = sum(
            part.stat().st_size if isinstance(part, Path) else sum(len(document.text.encode()) for document in part)
            for part in self.parts
        )
        self.bytes_read = 0

    def only(self, keep: Callable[[str], bool]) -> "Documents":
        """The same files, other documents of them."""
        other = copy.copy(self)
        other.keep = keep
        return other

    def __iter__(self) -> Iterator[Document]:
        taken: dict[str, int] = {}
        self.bytes_read = 0
        for document in self._all():
            so_far = taken.get(document.source, 0)
            if not document.text.strip() or (self.cap is not None and so_far >= self.cap):
                continue
            taken[document.source] = so_far + len(document.text.encode())
            if self.keep(document.id):
                yield document

    def _all(self) -> Iterator[Document]:
        for part in self.parts:
            before = self.bytes_read
            if isinstance(part, Path):
                for document, position in _read_file(part):
                    self.bytes_read = before + position
                    yield document
                self.bytes_read = before + part.stat().st_size
            else:
                for document in part:
                    self.bytes_read += len(document.text.encode())
                    yield document


def _pydocs(cap: int | None) -> list[Document]:
    modules = module_count()
    with progress_bar("pydocs", modules, unit="modules") as bar:
        return [Document(*entry) for entry in pydocs(max_bytes_per_package=cap, on_module=bar.advance)]


def _read_file(path: Path) -> Iterator[tuple[Document, int]]:
    """Documents of a file, each with the number of bytes read from disk so far."""
    suffixes = path.suffixes
    opener = OPENERS.get(suffixes[-1] if suffixes else "")
    kind = suffixes[-2] if opener is not None and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    if kind == ".parquet" and opener is None:
        yield from _parquet(path)
        return
    if kind not in (".txt", ".md", ".jsonl"):
        raise CorpusError(
            f"{path}: cannot read '{kind or 'no suffix'}'; readable are .txt .md .jsonl, plain, .gz, .xz or .zst, and "
            ".parquet"
        )
    name = path.name.removesuffix(suffixes[-1] if opener is not None else "").removesuffix(kind)
    try:
        with path.open("rb") as raw, TextIOWrapper(opener(raw) if opener else raw, encoding="utf-8-sig") as file:
            documents = _jsonl(file, path, name) if kind == ".jsonl" else iter([Document(name, name, file.read())])
            for document in documents:
                yield document, raw.tell()
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, *_zstd_errors()) as error:
        raise CorpusError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def _zstd_errors() -> tuple[type[Exception], ...]:
    import zstandard

    return (zstandard.ZstdError,)


def _parquet(path: Path) -> Iterator[tuple[Document, int]]:
    """Rows of a Parquet file, some at a time."""
    import polars as pl

    try:
        table = pl.scan_parquet(path)
        columns = table.collect_schema()
        rows = int(table.select(pl.len()).collect().item())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CorpusError(f"{path}: cannot be read as Parquet: {error}") from None
    if columns.get("text") != pl.String:
        raise CorpusError(f"{path}: expected a column `text` of strings, found {', '.join(columns)}")
    wanted = [name for name in ("text", "id", "source") if name in columns]
    size = path.stat().st_size
    for first in range(0, rows, ROWS_AT_ONCE):
        part = table.select(wanted).slice(first, ROWS_AT_ONCE).collect()
        for number, record in enumerate(part.iter_rows(named=True), start=first + 1):
            name, source = record.get("id") or f"{path.stem}:{number}", record.get("source") or path.stem
            yield Document(str(name), str(source), record["text"] or ""), size * number // rows


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, plain, .gz, .xz or .zst, empty ones left out.

    Raises:
        CorpusError: it cannot be decompressed or decoded.
    """
    opener = OPENERS.get(path.suffix)
    try:
        with path.open("rb") as raw, TextIOWrapper(opener(raw) if opener else raw, encoding="utf-8-sig") as file:
            return [line.rstrip("\n") for line in file if line.strip()]
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, *_zstd_errors()) as error:
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
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(f"{path} line {number}: `text` holds what is no character: {error.reason}") from None
        yield Document(str(record.get("id", f"{name}:{number}")), str(record.get("source", name)), text)
