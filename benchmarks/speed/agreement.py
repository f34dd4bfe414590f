"""Steps over active entries and dense ones on the same batches for long: losses, and what is found of plants."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from benchmarks.speed.harvest import LAYER, harvest_task

from ontogeny.activations.stream import stream_activations
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries import places, train
from ontogeny.dictionaries.losses import crosscoder_losses
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.progress import Events
from ontogeny.suites.suite import open_suite
from ontogeny.truth.planted import plant
from ontogeny.truth.recovery import score_recovery

STEPS, LAST = 2000, 10
SNAPSHOTS = [0, 16, 64, 128, 256, 768, 2000, 5000]


class _Losses(Events):
    """Keeps the losses that the loop tells."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def emit(self, stage: str, event: str, **fields: Any) -> None:
        if event == "step":
            self.losses.append(fields["loss"])


def agreement(threads: int) -> dict[str, Any]:
    """Loss of the last steps on eight snapshots of the reference suite, and recovery of the standard planted suite."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    ways: dict[str, tuple[AbstractContextManager[None], dict[str, Any]]] = {
        "dense": (_dense_products(), {"kernels": "torch"}),
        "active entries, PyTorch": (nullcontext(), {"kernels": "torch"}),
        "active entries, compiled": (nullcontext(), {"kernels": "compiled"}),
        "active entries, searched for": (_always_searching(), {"kernels": "searching"}),
        "compiled, bfloat16 moments": (nullcontext(), {"kernels": "compiled", "moments": "bfloat16"}),
    }
    for name, (way, settings) in ways.items():
        with way:
            found[name] = {**_losses(settings), **_recovery(settings)}
        print(name, found[name], flush=True)
    return found


def _losses(settings: dict[str, Any]) -> dict[str, Any]:
    """What the loop tells of every twentieth step, and the mean of the last 200 steps'."""
    task, kept = harvest_task(), _Losses()
    shared = Path(task["model"]).parent
    suite = open_suite(shared, steps=SNAPSHOTS)
    stream = stream_activations(suite, Corpus(task["corpus"]), hookpoint=f"resid_post.{LAYER}", batch_size=1024)
    train_crosscoder(stream, CrosscoderConfig(n_features=2048, k=48, steps=STEPS, **settings), events=kept)
    return {"loss": fmean(kept.losses[-LAST:]), "losses": kept.losses}


def _recovery(settings: dict[str, Any]) -> dict[str, float]:
    """Figures of the standard planted suite."""
    suite = plant()
    crosscoder = train_crosscoder(suite.batches(1024), CrosscoderConfig(n_features=320, k=8, steps=STEPS, **settings))
    return score_recovery(suite, crosscoder).figures()


@contextmanager
def _dense_products() -> Iterator[None]:
    """Have every step take the dense path."""

    def losses(*arguments: Any, **options: Any) -> Any:
        return crosscoder_losses(*arguments, **options, dense_above=-1.0)

    before, train.crosscoder_losses = train.crosscoder_losses, losses
    try:
        yield
    finally:
        train.crosscoder_losses = before


@contextmanager
def _always_searching() -> Iterator[None]:
    """Search in small dictionaries too, where it does not pay."""
    before, places.WORTH_IT = places.WORTH_IT, 0
    try:
        yield
    finally:
        places.WORTH_IT = before
