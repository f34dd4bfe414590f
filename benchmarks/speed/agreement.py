"""Steps over active entries and dense ones on the same batches for long: losses, and what is found of plants."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.harvest import LAYER, harvest_task

from ontogeny.activations.stream import stream_activations
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries import places, train
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.losses import crosscoder_losses
from ontogeny.dictionaries.start import initial_crosscoder
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.progress import Events
from ontogeny.suites.suite import open_suite
from ontogeny.truth.planted import plant
from ontogeny.truth.recovery import score_recovery

STEPS, BATCHES, K = 2000, 64, 48
SNAPSHOTS = [0, 16, 64, 128, 256, 768, 2000, 5000]


class _Unexplained(Events):
    """Keeps the unexplained variance that the loop tells: its loss has AuxK's in it, where there are dead features."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[float] = []

    def emit(self, stage: str, event: str, **fields: Any) -> None:
        if event == "step":
            self.shares.append(1 - fields["ev"])


def agreement(threads: int) -> dict[str, Any]:
    """Loss after training on eight snapshots of the reference suite, and recovery of the standard planted suite."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    ways: dict[str, tuple[AbstractContextManager[None], dict[str, Any]]] = {
        "dense": (_dense_products(), {"kernels": "torch"}),
        "dense, last bits of the start changed": (_nudged(), {"kernels": "torch"}),
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
    """The reconstruction loss of a trained crosscoder on the batches that follow, and unexplained variance every
    twentieth step."""
    task, kept = harvest_task(), _Unexplained()
    suite = open_suite(Path(task["model"]).parent, steps=SNAPSHOTS)
    stream = stream_activations(suite, Corpus(task["corpus"]), hookpoint=f"resid_post.{LAYER}", batch_size=1024)
    crosscoder = train_crosscoder(stream, CrosscoderConfig(n_features=2048, k=K, steps=STEPS, **settings), events=kept)
    with torch.no_grad():
        losses = [
            crosscoder_losses(crosscoder, batch * crosscoder.norm_scale[:, None], sparsity="none", k=K).reconstruction
            for batch in islice(stream.starting_at(STEPS), BATCHES)
        ]
    return {"loss": float(torch.stack(losses).mean()), "unexplained": kept.shares}


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
def _nudged() -> Iterator[None]:
    """The dense path from encoder weights whose last bits are others: how far apart rounding alone takes trainings."""

    def start(*arguments: Any, **options: Any) -> Crosscoder:
        crosscoder = initial_crosscoder(*arguments, **options)
        rows = crosscoder.encoder_rows
        draw = torch.Generator().manual_seed(0)
        rows.data *= 1 + torch.finfo(rows.dtype).eps * torch.randint(-1, 2, rows.shape, generator=draw)
        return crosscoder

    before, train.initial_crosscoder = train.initial_crosscoder, start
    try:
        with _dense_products():
            yield
    finally:
        train.initial_crosscoder = before


@contextmanager
def _always_searching() -> Iterator[None]:
    """Search in small dictionaries too, where it does not pay."""
    before, places.WORTH_IT = places.WORTH_IT, 0
    try:
        yield
    finally:
        places.WORTH_IT = before
