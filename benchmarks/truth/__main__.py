"""Everything that docs/truth.md says: `make truth` (hours on two cores; what is in the cache is not made again).

Usage: python -m benchmarks.truth [--workers N] [--page]
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import torch
from benchmarks.truth.cases import RECIPES, SEEDS, UNSEEN, choosing, of_recipe, result, unseen
from benchmarks.truth.controls import CONTROLS, control
from benchmarks.truth.page import write_page

Work = tuple[Any, ...]


def work() -> Iterator[Work]:
    """Functions and their arguments, in the order in which they are wanted."""
    for recipe in RECIPES:
        yield result, of_recipe(recipe, SEEDS[0])
    for setting in UNSEEN:
        yield result, unseen(setting, SEEDS[0])
    for *_, case in choosing():
        yield result, case
    for seed in SEEDS[1:]:
        for recipe in RECIPES:
            yield result, of_recipe(recipe, seed)
        for setting in UNSEEN:
            yield result, unseen(setting, seed)
    for seed in SEEDS:
        for name in CONTROLS:
            yield control, name, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", action="store_true", help="write the page from what is in the cache")
    arguments = parser.parse_args()
    if not arguments.page:
        one_thread = {"initializer": torch.set_num_threads, "initargs": (1,), "mp_context": get_context("spawn")}
        with ProcessPoolExecutor(arguments.workers, **one_thread) as pool:
            jobs = [pool.submit(*each) for each in work()]
            for number, job in enumerate(as_completed(jobs), 1):
                print(f"{number}/{len(jobs)} {job.result()}", flush=True)
    write_page()


if __name__ == "__main__":
    main()
