"""Ten random `kill -9` in each long stage of a small study: its results must equal the undisturbed ones bit for bit.

python tests/soak.py [--kills 10] [--seed SEED] [STAGE …]

A round starts from the run as it was before the stage, and kills and resumes the stage until it ends. Moments are drawn
from a third of the time that the stage takes undisturbed, so that several hit each round: before, between and after its
checkpoints. A kill after the end of the stage does not count; rounds are repeated until the kills are enough.
"""

import argparse
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
from ontogeny.progress import read_events
from ontogeny.run import Run
from test_resume import results

STAGES = ("pretrain", "train", "measure")
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


def soak(stage: str, before: Path, reference: Run, kills: int, draw: random.Random) -> Path:
    """Kill a stage so many times; the run of the last round, the stage done.

    Args:
        before: a run in which all earlier stages are done.
    """
    longest = reference.manifest["stages"][stage]["seconds"] / 3
    done, round_ = 0, 0
    while True:
        round_ += 1
        run = Run(before.with_name(f"{stage}-{round_}"))
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
        killed = soak(stage, killed, reference, options.kills, draw)
    finish(start("run", killed))
    compare(Run(killed), reference)
    assert results(Run(killed)).keys() == results(reference).keys()
    shutil.rmtree(folder)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(options.stages) * options.kills} kills, all results equal bit for bit ({minutes:.1f} minutes)")


if __name__ == "__main__":
    main()
