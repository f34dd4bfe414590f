"""Where the files of snapshots are: a folder each, a file each beside one configuration, or a repository on the hub."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ontogeny.files import content_state, read_json

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What marks a folder as a saved checkpoint, in the order of preference."""
STATE_FILES = ("*.safetensors", "*.bin", "config.json")


class Source(ABC):
    """Where the files of a suite's snapshots are."""

    @abstractmethod
    def config(self, snapshot: "Snapshot") -> dict[str, Any]:
        """The transformers configuration of a snapshot."""

    @abstractmethod
    def tokenizer(self, snapshot: "Snapshot") -> Path | None:
        """A folder with the snapshot's tokenizer; None where it has none."""

    @abstractmethod
    def state(self, snapshot: "Snapshot") -> list[tuple[int | str, ...]]:
        """What tells the content of the snapshot's weights, without reading them."""

    def bytes_to_fetch(self, snapshot: "Snapshot") -> int:
        """Bytes of weights that opening a snapshot has to fetch first."""
        return 0

    @abstractmethod
    def opened(self, snapshot: "Snapshot") -> AbstractContextManager[Path]:
        """A context in which the snapshot's files lie in a folder, which it gives."""


class Folders(Source):
    """A folder of ours or the user's for each snapshot: `repo/revision/`."""

    def config(self, snapshot: "Snapshot") -> dict[str, Any]:
        return read_json(snapshot.path / "config.json", mend="copy the snapshot again")

    def tokenizer(self, snapshot: "Snapshot") -> Path | None:
        return snapshot.path if (snapshot.path / "tokenizer.json").is_file() else None

    def state(self, snapshot: "Snapshot") -> list[tuple[int | str, ...]]:
        return [
            (snapshot.step, snapshot.revision, file.name, *content_state(file))
            for pattern in STATE_FILES
            for file in sorted(snapshot.path.glob(pattern))
        ]

    @contextmanager
    def opened(self, snapshot: "Snapshot") -> Iterator[Path]:
        yield snapshot.path


class Files(Source):
    """One safetensors file for each snapshot, `repo/revision`, beside one config.json and one tokenizer."""

    def config(self, snapshot: "Snapshot") -> dict[str, Any]:
        return read_json(snapshot.path.parent / "config.json", mend="copy the snapshot again")

    def tokenizer(self, snapshot: "Snapshot") -> Path | None:
        folder = snapshot.path.parent
        return folder if (folder / "tokenizer.json").is_file() else None

    def state(self, snapshot: "Snapshot") -> list[tuple[int | str, ...]]:
        config = snapshot.path.parent / "config.json"
        return [(snapshot.step, snapshot.revision, file.name, *content_state(file)) for file in (snapshot.path, config)]

    @contextmanager
    def opened(self, snapshot: "Snapshot") -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="ontogeny-") as name:
            folder = Path(name)
            (folder / "config.json").symlink_to((snapshot.path.parent / "config.json").absolute())
            (folder / "model.safetensors").symlink_to(snapshot.path.absolute())
            yield folder


FOLDERS, FILES = Folders(), Files()


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of a suite.

    Attributes:
        repo: the folder that holds the suite, or the repository on the hub.
        revision: the snapshot's name in it, such as `step512`.
        commit: pins the content, where the source has one.
        step: optimiser steps taken.
        tokens_seen: tokens read until then, where known.
        source: where its files are.
    """

    repo: str
    revision: str
    commit: str | None
    step: int
    tokens_seen: int | None
    source: Source = field(default=FOLDERS, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """Of a snapshot on disk."""
        return Path(self.repo) / self.revision

    @property
    def label(self) -> str:
        """What errors call it."""
        return str(self.path) if self.commit is None else f"{self.repo} at {self.revision}"

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in ("repo", "revision", "commit", "step", "tokens_seen")}
