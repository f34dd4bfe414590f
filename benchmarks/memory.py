"""Peak memory of `ontogeny train` on the reference suite for 2 to 32 snapshots, beside what `ontogeny plan` says.

Usage: python benchmarks/memory.py

Each row is a process of its own that trains for a few steps. With F features, B rows a batch and n snapshots, a tensor
[batch, snapshot, feature] would be 4·B·n·F bytes: the last column is what a further row of a batch takes, in units of
that.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import yaml

SNAPSHOTS = (2, 4, 8, 16, 32)
BATCHES = (1024, 2048)
FEATURES = 8192
CASES: dict[str, dict[str, object]] = {
    "batch_topk": {"activation": "batch_topk", "k": 32},
    "relu, l1": {"activation": "relu"},
    "jumprelu, tanh_quad, per_snapshot": {"activation": "jumprelu", "gate": "per_snapshot"},
}


def suite_of_any_length(shared: Path, folder: Path) -> None:
    """The reference suite's snapshots again and again, as links, under steps of their own."""
    snapshots = sorted((shared / "suites" / "english-neox").glob("step*"), key=lambda path: int(path.name[4:]))
    for number in range(max(SNAPSHOTS)):
        (folder / f"step{number}").symlink_to(snapshots[number % len(snapshots)].resolve())
    for file in (shared / "suites" / "english-neox").iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file.resolve())


def measured(study: dict[str, object], folder: Path) -> tuple[float, float]:
    """GB at the peak of a training, measured and planned."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    commands = [[sys.executable, "-m", "ontogeny", *command, str(path)] for command in (["plan", "--json"], ["train"])]
    planned = subprocess.run(commands[0], cwd=folder, check=True, capture_output=True, text=True).stdout
    rows = {row["item"]: row["amount"] for row in json.loads(planned)}
    watched = subprocess.run(
        [sys.executable, __file__, "--watch", *commands[1]], cwd=folder, check=True, capture_output=True, text=True
    )
    return float(watched.stdout.splitlines()[-1]), rows["train: peak memory"]


def watch(command: list[str]) -> None:
    """Run a command and print the GB that it took at its peak."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9)


def main() -> None:
    if sys.argv[1:2] == ["--watch"]:
        watch(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    shared = Path(os.environ.get("ONTOGENY_SHARED") or Path(__file__).resolve().parents[2] / "shared").resolve()
    print("| dictionary | snapshots | batch | measured, GB | planned, GB | a further row / 4·n·F |")
    print("| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "suite").mkdir()
        suite_of_any_length(shared, folder / "suite")
        for name, n in product([arguments.only] if arguments.only else CASES, SNAPSHOTS):
            peaks = {}
            for batch in BATCHES:
                study = {
                    "name": f"memory-{n}-{batch}-{name.replace(', ', '-')}",
                    "suite": {"folder": "suite", "steps": list(range(n)), "bad_snapshots": "accept"},
                    "corpus": {
                        "files": str(shared / "data/corpus/valid/*.jsonl.xz"),
                        "held_out": str(shared / "data/corpus/valid/[fot]*.jsonl.xz"),
                        "sequence_length": 256,
                    },
                    "hookpoint": "resid_post.2",
                    "dictionary": {"n_features": FEATURES, **CASES[name]},
                    "train": {"tokens": arguments.steps * batch, "batch_size": batch, "window_tokens": 8192},
                }
                peaks[batch], planned = measured(study, folder)
                row = (peaks[batch] - peaks[BATCHES[0]]) / (batch - BATCHES[0]) if batch > BATCHES[0] else None
                share = "" if row is None else f"{row * 1e9 / (4 * n * FEATURES):.2f}"
                print(f"| {name} | {n} | {batch:,} | {peaks[batch]:.2f} | {planned:.2f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
