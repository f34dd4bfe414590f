"""Everything that docs/truth.md says: `make truth` (hours on two cores; what was measured is not made again).

Usage: python -m benchmarks.truth [--workers N] [--page]
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import torch
from benchmarks.measured import Measured
from benchmarks.truth.cases import (
    RECIPES,
    SECONDS,
    SEEDS,
    UNSEEN,
    choosing,
    of_recipe,
    score,
    search_weight,
    seconds_of_recipes,
    unseen,
    weight_key,
)
from benchmarks.truth.controls import CONTROLS, SHRUNKEN, control, control_key, seeds_of
from benchmarks.truth.page import write_page

Work = tuple[Any, ...]


def searches() -> Iterator[tuple[str, Work]]:
    """Keys with the searches for λ, which other work needs."""
    for case in (*(of_recipe(recipe, SEEDS[0]) for recipe in RECIPES), SHRUNKEN):
        if case.penalised:
            yield weight_key(case), (search_weight, case)


def work() -> Iterator[tuple[str, Work]]:
    """Keys with functions and their arguments, in the order in which they are wanted."""
    cases = [of_recipe(recipe, SEEDS[0]) for recipe in RECIPES]
    cases += [unseen(setting, SEEDS[0]) for setting in UNSEEN]
    cases += [case for *_, case in choosing()]
    for seed in SEEDS[1:]:
        cases += [of_recipe(recipe, seed) for recipe in RECIPES]
        cases += [unseen(setting, seed) for setting in UNSEEN]
    for case in cases:
        yield case.key, (score, case)
    for place in range(len(SEEDS)):
        for name in CONTROLS:
            seed = seeds_of(name)[place]
            yield control_key(name, seed), (control, name, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    arguments = parser.parse_args()
    measured, rounds = Measured("truth"), (dict(searches()), dict(work()), {SECONDS: (seconds_of_recipes,)})
    measured.keep_only({key for wanted in rounds for key in wanted})
    if not arguments.page:
        one_thread = {"initializer": torch.set_num_threads, "initargs": (1,), "mp_context": get_context("spawn")}
        with ProcessPoolExecutor(arguments.workers, **one_thread) as pool:
            for wanted in rounds:
                jobs = {pool.submit(*each): key for key, each in wanted.items() if key not in measured}
                for number, job in enumerate(as_completed(jobs), 1):
                    measured.add(jobs[job], job.result())
                    print(f"{number}/{len(jobs)} {job.result()}", flush=True)
    write_page()


if __name__ == "__main__":
    main()
