"""Files and folders that are whole or not there: first a temporary name, then a rename. Hashes and keys tell them."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ontogeny.errors import DamagedError, writing

HASHED_BYTES = 64 << 20
os.umask(UMASK := os.umask(0))  # it can be read only by setting it, which no thread should do


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, for a file or a folder, that takes its place when the block ends well.

    Raises:
        DiskFullError: there is no space left; nothing is left behind.
    """
    path = path.absolute()  # `.` has no name
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            yield temporary
        _open_to_others(temporary)
        if path.is_dir() and temporary.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _open_to_others(path: Path) -> None:
    """Give files the mode that the user's umask asks for: safetensors writes its own readable by nobody else."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~UMASK)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of earlier attempts to write `path`."""
    for left in [*path.parent.glob(f".{path.name}.*.partial"), *path.parent.glob(f".{path.name}.*.old")]:
        owner = int(left.name.split(".")[-2])
        try:
            os.kill(owner, 0)
        except OSError:
            owner = 0
        if owner in (0, os.getpid()):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def remove(path: Path) -> None:
    """Remove a file, where it exists, and what killed processes left of attempts to write it."""
    path.unlink(missing_ok=True)
    _sweep(path)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *, mend: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        mend: what to do about a file that holds none.
    Raises:
        DamagedError: it holds none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} is damaged ({error}): {mend}") from None
    if not isinstance(values, dict):
        raise DamagedError(f"{path} holds a {type(values).__name__}, not an object: {mend}")
    return values


@contextmanager
def keeping(folder: Path, key: str) -> Iterator[Path]:
    """A folder to fill with what `is_kept` will know again by its key; it is there whole or not at all."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        yield temporary
        (temporary / "key").write_text(key, encoding="utf-8")


def is_kept(folder: Path, key: str) -> bool:
    """Whether the folder holds what was kept under this key."""
    path = folder / "key"
    return path.is_file() and path.read_text(encoding="utf-8") == key


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def content_state(path: Path) -> tuple[int, str]:
    """Size of a file and what tells its content: the hash of a small file, the time of change of a large one."""
    state = path.stat()
    return state.st_size, _hash_of(path, state.st_mtime_ns) if state.st_size <= HASHED_BYTES else str(state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_of(path: Path, _changed: int) -> str:
    return file_hash(path)


def default_cache() -> Path:
    """Where packed corpora opened from Python are kept: ONTOGENY_CACHE, else the user's cache folder."""
    return Path(os.environ.get("ONTOGENY_CACHE") or Path.home() / ".cache" / "ontogeny")
