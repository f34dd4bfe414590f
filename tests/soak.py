"""Ten random `kill -9` in each long stage of a small study: its results must equal the undisturbed ones bit for bit.

python tests/soak.py [--kills 10] [--seed SEED] [STAGE …]

A round starts from the run as it was before the stage, and kills and resumes the stage until it ends. Moments are drawn
from a third of the time that the stage takes undisturbed, so that several hit each round: before, between and after its
checkpoints. A kill after the end of the stage does not count; rounds are repeated until the kills are enough. `store`
is `train` with its activations kept on disk as float32; at its end the store is held against the models.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from conftest import small_study, write_stdlib
from ontogeny.activations.stream import verify_store
from ontogeny.progress import read_events
from ontogeny.run import Run
from test_resume import results

STAGES = ("pretrain", "store", "train", "measure")
RUNNER = """
import sys
import ontogeny.loop
from ontogeny.cli import main
ontogeny.loop.CHECKPOINT_SECONDS, ontogeny.loop.LOG_EVERY_STEPS = 0.3, 1
main()
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command line with frequent checkpoints and a log of every step."""
    command = [sys.executable, "-c", RUNNER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> bool:
    """Wait for the end of a process; whether it was killed."""
    _, said = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"a process failed by itself:\n{said}")
    return process.returncode != 0


def kill_in_stage(run: Run, stage: str, seconds: float) -> str | None:
    """Call a stage and kill it some seconds after it has started or resumed; where, or None if it was over by then."""
    path = run.folder / "events.jsonl"
    known = len(read_events(path))
    awaited = "resumed" if (run.checkpoints / f"{stage}.pt").is_file() else "started"
    process = start(stage, run.folder)

    def events() -> list[dict[str, Any]]:
        return [event for event in read_events(path)[known:] if event["stage"] == stage]

    while process.poll() is None and not any(event["event"] == awaited for event in events()):
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    if not finish(process) or stage in run.manifest["stages"]:
        return None
    steps = [event.get("step", event.get("chunk", 0)) for event in events()]
    came_from = next((step for step, event in zip(steps, events(), strict=True) if event["event"] == "resumed"), 0)
    return f"from step {came_from:3}, killed at step {max(steps):3} after {seconds:.2f} s"


def with_store(before: Path) -> Path:
    """A copy of a run whose study keeps activations."""
    folder = before.with_name("with-store")
    shutil.copytree(before, folder)
    study = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    study["train"] |= {"store_gb": 1.0, "store_dtype": "float32"}
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return folder


def check_store(run: Run) -> None:
    """End with what is wrong, if a store lost or doubled a sequence."""
    found = verify_store(run)
    manifest = json.loads((run.folder / "activations" / "manifest.json").read_text(encoding="utf-8"))
    entered = [sequence for shard in manifest["shards"] for sequence in shard["sequences"]]
    shards = list((run.folder / "activations").glob("*.safetensors"))
    if not len(entered) == len(set(entered)) == found.sequences or len(shards) != found.shards:
        sys.exit(f"{run.folder}: {len(entered)} sequences entered, {found.sequences} kept, {len(shards)} shards")
    print(f"{'store':>8}  {found.sequences:,} sequences in {found.shards} shards, as the models give them", flush=True)


def soak(stage: str, before: Path, reference: Run, kills: int, draw: random.Random) -> Path:
    """Kill a stage so many times; the run of the last round, the stage done.

    Args:
        before: a run in which all earlier stages are done.
    """
    longest = reference.manifest["stages"][stage]["seconds"] / 3
    done, round_ = 0, 0
    while True:
        round_ += 1
        run = Run(before.with_name(f"{before.name}-{stage}-{round_}"))
        shutil.copytree(before, run.folder)
        while done < kills and (where := kill_in_stage(run, stage, draw.uniform(0, longest))):
            done += 1
            print(f"{stage:>8}  kill {done:2}, round {round_}: {where}", flush=True)
        finish(start(stage, run.folder))
        compare(run, reference)
        if done == kills:
            return run.folder


def compare(run: Run, reference: Run) -> None:
    """End with what differs, if the results that a run has are not the reference's, or a file is half-written."""
    expected = results(reference)
    differ = [name for name, digest in results(run).items() if expected.get(name) != digest]
    left = [str(path.relative_to(run.folder)) for path in run.folder.rglob("*.partial")]
    if differ or left:
        sys.exit(f"{run.folder} against {reference.folder}: differ: {differ}; half-written: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a small study at random and compare its results.")
    parser.add_argument("stages", nargs="*", default=STAGES, help=f"of {', '.join(STAGES)}; default all")
    parser.add_argument("--kills", type=int, default=10, help="kills in each stage")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the moments")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    started, draw = time.monotonic(), random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    study: dict[str, Any] = small_study(write_stdlib(folder / "stdlib.jsonl"))
    study["suite"]["pretrain"] |= {"steps": 300, "snapshots": [0, 25, 100, 200]}
    study["train"]["tokens"] = 200_000
    study["measure"]["tokens"] = 120_000
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    reference, killed = Run(folder / "reference"), folder / "packed"
    finish(start("pack", folder / "study.yaml", "--out", reference.folder))
    shutil.copytree(reference.folder, killed)
    finish(start("run", reference.folder))
    for stage in options.stages:
        if stage == "store":
            check_store(Run(soak("train", with_store(killed), reference, options.kills, draw)))
        else:
            killed = soak(stage, killed, reference, options.kills, draw)
    finish(start("run", killed))
    compare(Run(killed), reference)
    assert results(Run(killed)).keys() == results(reference).keys()
    shutil.rmtree(folder)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(options.stages) * options.kills} kills, all results equal bit for bit ({minutes:.1f} minutes)")


if __name__ == "__main__":
    main()
