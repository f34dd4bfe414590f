"""What effects of all features cost: 1,000 items at one snapshot, in forward passes of the model.

Usage, one measurement as JSON: python -m benchmarks.speed.effects HOOKPOINT THREADS
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ontogeny.activations.harvest import Harvester
from ontogeny.causal.inputs import encode_items
from ontogeny.causal.site import Site
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.models.rest import Rest
from ontogeny.suites.suite import Suite, open_suite
from ontogeny.tasks import TaskConfig, open_task

HOOKPOINTS = ("resid_post.0", "resid_post.2")
ITEMS, STEPS, FEATURES, K, ROUNDS, BATCH = 1000, 10, 3072, 48, 7, 64


def effects(threads: int) -> list[dict[str, Any]]:
    """A row per hookpoint, each measured in a process of its own."""
    rows = []
    for hookpoint in HOOKPOINTS:
        command = [sys.executable, "-m", "benchmarks.speed.effects", hookpoint, str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def dictionary_of(suite: Suite, width: int) -> Crosscoder:
    """A random one with K active features; what effects cost depends on nothing else."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(1, FEATURES, width, generator=draw)
    directions /= directions.norm(dim=2, keepdim=True)
    zeros = torch.zeros(FEATURES), torch.zeros(1, width)
    return Crosscoder(
        W_enc=directions.mT, W_dec=directions, b_enc=zeros[0], b_dec=zeros[1], activation="topk", k=K, folded=True
    ).requires_grad_(False)


def measure(hookpoint: str, threads: int) -> dict[str, Any]:
    """Medians of alternating runs, and the process's greatest memory."""
    torch.set_num_threads(threads)
    shared = Path(os.environ.get("ONTOGENY_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    suite = open_suite(shared / "suites" / "english-neox", steps=[5000])
    task = open_task(TaskConfig(family="agreement_pp", items=ITEMS), tokenizer=suite.tokenizer())
    dictionary = dictionary_of(suite, suite.width())
    codes = encode_items(dictionary, Harvester(suite, hookpoint), task)
    plain = load_snapshot(suite.snapshots[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rest = Rest(load_snapshot(suite.snapshots[0]), parse_hookpoint(hookpoint))
    site = Site(rest, dictionary, 0, task, batch_size=BATCH)
    batches = site.batches()

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            plain(input_ids=batch.tokens, logits_to_keep=1)

    def timed(work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    seconds = [
        (
            timed(forward),
            timed(lambda: site.effects(codes, method="ig", steps=STEPS)),
            timed(lambda: site.effects(codes, method="atp")),
        )
        for _ in range(ROUNDS)
    ]
    one, ig, atp = (median(column) for column in zip(*seconds, strict=True))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "hookpoint": hookpoint, "items": len(task), "steps": STEPS, "forward": one, "ig": ig, "atp": atp,
        "ig_ratio": ig / one / STEPS, "atp_ratio": atp / one, "memory": after * 1024 / 1e9,
        "above": (after - before) * 1024 / 1e9,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
