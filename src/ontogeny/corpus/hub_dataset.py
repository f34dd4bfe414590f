"""Datasets on the hub: their documents are streamed once, up to a cap, into a file that every later reading uses."""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ontogeny.errors import CorpusError, OntogenyError
from ontogeny.files import atomic_path, default_cache
from ontogeny.progress import progress_bar

PREFIX = "datasets:"
NAME = re.compile(r"datasets:(?P<repo>[\w.-]+/[\w.-]+)(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<split>\w+))?")


class HubDataset(NamedTuple):
    """A dataset's split, read up to a number of bytes.

    Attributes:
        repo: OWNER/NAME.
        config: None for its only one.
        revision: a branch, tag or commit; None for the main branch as it is when it is read first.
        cap: UTF-8 bytes of text after which no more documents are taken.
    """

    repo: str
    config: str | None
    revision: str | None
    split: str
    cap: int

    @classmethod
    def of(cls, name: str, *, cap: int | None) -> "HubDataset":
        """From `datasets:OWNER/NAME`, with `:CONFIG`, `@REVISION` and `#SPLIT` where they are wanted.

        Raises:
            CorpusError: it is spelt otherwise, there is no cap, or the library `datasets` is not installed.
        """
        found = NAME.fullmatch(name)
        if found is None:
            raise CorpusError(f"cannot read '{name}': a dataset is datasets:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]")
        if cap is None:
            raise CorpusError(f"{name} is read from the hub: say how much of it with corpus.max_bytes_per_source")
        if find_spec("datasets") is None:
            raise CorpusError(f"{name} needs an extra: pip install 'ontogeny[datasets]'")
        parts = found.groupdict()
        return cls(parts["repo"], parts["config"], parts["revision"], parts["split"] or "train", cap)

    def file(self) -> Path:
        """The file with its documents, in the cache; it is made where it is not there yet.

        Raises:
            CorpusError: the hub cannot be read, has no such dataset, or its rows hold no `text`.
        """
        name = f"{self.repo.replace('/', '--')}-{sha256(repr(self).encode()).hexdigest()[:16]}.jsonl.zst"
        path = default_cache() / "datasets" / name
        if not path.is_file():
            import zstandard

            try:
                with atomic_path(path) as temporary, zstandard.open(temporary, "wt", encoding="utf-8") as file:
                    for document in self._documents():
                        file.write(json.dumps(document, ensure_ascii=False) + "\n")
            except OntogenyError:
                raise
            except (
                Exception
            ) as error:  # the library, the hub and the dataset's own format each have errors of their own
                raise CorpusError(
                    f"the dataset {self.repo} cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"
                ) from None
        return path

    def _documents(self) -> Iterator[dict[str, str]]:
        """Rows with id, source and text; the source names the commit that they were read from."""
        commit, rows = self._open()
        taken = 0
        with progress_bar("download", self.cap // 1000, unit="kB") as bar:
            for number, row in enumerate(rows):
                text = row.get("text")
                if not isinstance(text, str):
                    raise CorpusError(f"{self.repo} {self.split}: expected rows with `text`, found {', '.join(row)}")
                yield {
                    "id": str(row.get("id") or f"{self.repo}:{self.split}:{number}"),
                    "source": f"{self.repo}@{commit[:12]}",
                    "text": text,
                }
                size = len(text.encode())
                bar.advance((taken + size) // 1000 - taken // 1000)
                taken += size
                if taken >= self.cap:
                    return

    def _open(self) -> tuple[str, Iterator[dict[str, Any]]]:
        """The commit, and rows as they come."""
        import datasets
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(self.repo, revision=self.revision).sha or ""
        rows = datasets.load_dataset(self.repo, self.config, split=self.split, revision=commit, streaming=True)
        return commit, iter(rows)
