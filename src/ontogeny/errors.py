"""Everything that can go wrong in a way that one line explains.

An `InputError` is the user's to mend: the command line prints it without a traceback and exits 2. Its text names what
was asked, what was found or is allowed, and what to do. Any other `OntogenyError` exits 1.
"""

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)}


class OntogenyError(Exception):
    """Base of all errors that Ontogeny raises on purpose."""

    exit_code = 1


class TrainingError(OntogenyError):
    """Training cannot go on: the loss is not finite, or a checkpoint is damaged."""


class DiskFullError(OntogenyError):
    """There is no space left for a file."""


class InputError(OntogenyError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class ConfigError(InputError):
    """A setting is unknown, missing or out of range."""


class CorpusError(InputError):
    """Text cannot be read, or a packed corpus does not fit what it is used for."""


class SuiteError(InputError):
    """A suite, a snapshot or one of its files is missing or unusable."""


class HookpointError(InputError):
    """A hookpoint does not exist in the model, or its family is unknown."""


class StoreError(InputError):
    """Stored activations are damaged, or are those of another study."""


class TaskError(InputError):
    """A task's file cannot be read, or leaves no item to ask."""


class EndpointError(InputError):
    """A language model's endpoint cannot be reached, or refuses what it is asked."""


class DictionaryError(InputError):
    """A dictionary's files are missing, damaged, or do not do what they say."""


class DamagedError(InputError):
    """A file of ours or of a suite does not hold what it should."""


class RunError(InputError):
    """A run folder lacks what is asked of it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever a library raises when the disk or a quota is full into one error that names the file.

    Raises:
        DiskFullError: there is no space left.
    """
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise DiskFullError(
                f"no space left on the disk to write {path}: make room; the same command then goes on from there"
            ) from error
        raise


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it hides, is that of a full disk; libraries in Rust say so in words alone."""
    if error is None:
        return False
    full = getattr(error, "errno", None) in FULL or any(words in str(error) for words in FULL.values())
    return full or _is_full(error.__context__)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """` (did you mean …?)` with the nearest choice, or an empty string where none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
