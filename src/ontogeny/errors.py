"""Everything that can go wrong in a way that one line explains.

An `InputError` is the user's to mend: the command line prints it without a traceback and exits 2. Its text names what
was asked, what was found or is allowed, and what to do. Any other `OntogenyError` exits 1.
"""

import difflib
from collections.abc import Iterable


class OntogenyError(Exception):
    """Base of all errors that Ontogeny raises on purpose."""

    exit_code = 1


class TrainingError(OntogenyError):
    """Training cannot go on: the loss is not finite, or a checkpoint is damaged."""


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


class DictionaryError(InputError):
    """A dictionary's files are missing, damaged, or do not do what they say."""


class RunError(InputError):
    """A run folder lacks what is asked of it."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """` (did you mean …?)` with the nearest choice, or an empty string where none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
