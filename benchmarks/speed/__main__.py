"""Everything that docs/performance.md says: `make bench` (about two hours on two cores; nothing else should run).

Usage: python -m benchmarks.speed [--only PART] [--page]
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measured import FOLDER, machine
from benchmarks.speed.agreement import agreement
from benchmarks.speed.app import app
from benchmarks.speed.effects import effects
from benchmarks.speed.harvest import harvest
from benchmarks.speed.pace import pace
from benchmarks.speed.page import write_page
from benchmarks.speed.together import together
from benchmarks.speed.training import curves, training

from ontogeny.files import write_json
from ontogeny.loop import matmul_precision

PARTS: dict[str, Callable[[int], Any]] = {
    "training": training,
    "curves": curves,
    "together": together,
    "harvest": harvest,
    "pace": pace,
    "agreement": agreement,
    "effects": effects,
    "app": app,
}


def path_of(part: str) -> Path:
    """Where the latest results of a part are kept."""
    return FOLDER / "speed" / f"{part}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", action="store_true", help="write the page from the latest results")
    arguments = parser.parse_args()
    if not arguments.page:
        for part in [arguments.only] if arguments.only else PARTS:
            about = {"machine": machine(), "threads": arguments.threads, "precision": matmul_precision()}
            write_json(path_of(part), {**about, "found": PARTS[part](arguments.threads)})
    write_page({part: json.loads(path_of(part).read_text()) for part in PARTS if path_of(part).is_file()})


if __name__ == "__main__":
    main()
