"""Steps at which published suites have snapshots, and selections of them, by name.

Sources: Biderman et al. 2023, arXiv 2304.01373 (Pythia); CRFM's GPT-2 runs (Mistral); for the selections SAE-Track,
arXiv 2412.17626, and Evolution of Concepts, arXiv 2509.17196.
"""

import re
from collections.abc import Iterable

from ontogeny.errors import ConfigError, did_you_mean

PYTHIA = [0, *(2**power for power in range(10)), *range(1000, 143_001, 1000)]
CRFM_GPT2 = [*range(0, 100, 10), *range(100, 2000, 50), *range(2000, 20_000, 100), *range(20_000, 400_001, 1000)]


def _chosen(steps: list[int], *places: Iterable[int]) -> list[int]:
    return sorted(steps[place] for part in places for place in part)


_OF_PYTHIA = range(12), range(13, 33, 2), range(33, 154, 20)

SCHEDULES: dict[str, list[int]] = {
    "pythia": PYTHIA,
    "crfm-gpt2": CRFM_GPT2,
    "evolution-pythia": [
        0,
        *(2**power for power in range(1, 10)),
        *range(1000, 10_001, 1000),
        *(1000 * thousands for thousands in (14, 20, 27, 34, 47, 60, 74, 87, 100, 114, 127, 143)),
    ],
    "sae-track-pythia-410m": _chosen(PYTHIA, *_OF_PYTHIA),
    "sae-track-pythia-160m": _chosen(PYTHIA, *_OF_PYTHIA, [12]),
    "sae-track-pythia-1.4b": _chosen(PYTHIA, *_OF_PYTHIA, [12]),
    "sae-track-crfm-gpt2": _chosen(
        CRFM_GPT2, range(11), range(11, 31, 5), range(31, 181, 10), range(181, 608, 30), [608]
    ),
}
FORMS = ("all", "log", "every=K", "n=K")


def check_selection(text: str) -> str:
    """A selection that is not a list of steps, if it is one.

    Raises:
        ConfigError: it is none.
    """
    if text in ("all", "log", *SCHEDULES) or re.fullmatch(r"(every|n)=[1-9]\d*", text):
        return text
    names = [*FORMS, *SCHEDULES]
    raise ConfigError(
        f"no schedule '{text}'{did_you_mean(text, names)}: give a list of steps or one of {', '.join(names)}"
    )
