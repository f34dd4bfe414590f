"""A study whose first process fails when all are to train, as torchrun starts it.

Usage: torchrun --nproc-per-node 2 tests/failing.py STUDY FOLDER
"""

import sys
from typing import Any

import ontogeny.stages
import ontogeny.study
from ontogeny.errors import TrainingError
from ontogeny.progress import Events, speaks
from ontogeny.run import Run

trained = ontogeny.stages.trained_crosscoder


def failing(run: Run, events: Events) -> Any:
    if speaks():
        raise TrainingError("it fails here")
    return trained(run, events)


if __name__ == "__main__":
    ontogeny.stages.trained_crosscoder = failing
    ontogeny.study.run_study(sys.argv[1], out=sys.argv[2], until="train")
