"""Whole training steps: this product beside plain loops and peers, and how its cost grows."""

from typing import Any

from benchmarks.speed.pairs import Contender, Shape, alone, paired, training_task
from benchmarks.speed.peers import installs

SHAPES = (Shape(8, 256, 4096, 2048), Shape(32, 128, 8192, 1024))
OURS = Contender("Ontogeny, BatchTopK", "ours", {"activation": "batch_topk", "k": 64})
JUMP = {"activation": "jumprelu", "sparsity": "tanh", "threshold_start": 1.0}
# λ that leaves L0 near 64 after the warm-up
WEIGHTS = {"shared": (16.0, 16.0), "per_snapshot": (16.0, 16.0)}
OTHERS = (
    Contender("Ontogeny, TopK", "ours", {"activation": "topk", "k": 64}),
    Contender("Ontogeny, JumpReLU", "ours", JUMP),
    Contender("Ontogeny, JumpReLU, gate per snapshot", "ours", {**JUMP, "gate": "per_snapshot"}),
    Contender("plain loop, BatchTopK", "plain", {"activation": "batch_topk"}),
    Contender("plain loop, BatchTopK, oneDNN and fused Adam", "plain", {"activation": "batch_topk", "flags": True}),
    Contender("SAELens, BatchTopK", "sae_lens_", {"activation": "batch_topk"}),
    Contender("SAELens, TopK", "sae_lens_", {"activation": "topk"}),
    Contender("dictionary_learning, BatchTopK", "dictionary_learning_", {"activation": "batch_topk"}),
    Contender("sparsify, TopK", "sparsify_", {"activation": "topk"}),
    Contender("llamascopium crosscoder, BatchTopK", "llamascopium_", {"activation": "batch_topk"}),
    Contender("llamascopium crosscoder, JumpReLU", "llamascopium_", {"activation": "jumprelu", "weight": 1.0}),
)
WARM = {"jumprelu": 100}
SNAPSHOTS, FEATURES = (2, 4, 8, 16, 32), (1024, 2048, 4096, 8192, 16384, 32768)


def training(threads: int) -> list[dict[str, Any]]:
    """A row per shape and contender, each run in turn with ours."""
    rows = []
    for number, shape in enumerate(SHAPES):
        for other in OTHERS:
            if not installs(other.worker):
                rows.append({"shape": str(shape), "name": other.name, "installs": False})
                continue
            settings = dict(other.settings)
            if other.worker == "ours" and settings["activation"] == "jumprelu":
                settings["sparsity_weight"] = WEIGHTS[settings.get("gate", "shared")][number]
            contender = Contender(other.name, other.worker, settings)
            warm = WARM.get(settings["activation"], 3)
            found = paired(OURS, contender, training_task(shape), threads=threads, rounds=5, warm=warm, steps=3)
            rows.append({"shape": str(shape), "batch": shape.batch, "installs": True, **found})
            print(rows[-1], flush=True)
    return rows


def curves(threads: int) -> list[dict[str, Any]]:
    """Seconds a step of ours over snapshots and over features."""
    shapes = [("snapshots", n, Shape(n, 128, 4096, 1024, 32)) for n in SNAPSHOTS]
    shapes += [("features", n_features, Shape(8, 128, n_features, 1024, 32)) for n_features in FEATURES]
    rows = []
    for curve, size, shape in shapes:
        contender = Contender(OURS.name, OURS.worker, {**OURS.settings, "k": shape.k})
        rows.append(
            {
                "curve": curve,
                "size": size,
                **alone(contender, training_task(shape), threads=threads, rounds=3, warm=3, steps=5),
            }
        )
        print(rows[-1], flush=True)
    return rows
