"""Whole training steps: this product beside plain loops and peers, and how its cost grows."""

from typing import Any

from benchmarks.speed.pairs import Contender, Shape, alone, paired, training_task, tried

SHAPES = (Shape(8, 256, 4096, 2048), Shape(32, 128, 8192, 1024))
OURS = Contender("Ontogeny, BatchTopK", "ours", {"activation": "batch_topk", "k": 64})
BY_PYTORCH = Contender("Ontogeny, BatchTopK, no compiler", "ours", {**OURS.settings, "kernels": "torch"})
JUMP = {"activation": "jumprelu", "sparsity": "tanh", "threshold_start": 1.0}
JUMP_EACH = {**JUMP, "gate": "per_snapshot", "threshold_start": 0.1}
# λ by shape: with the shared gate L0 is 66 and 63 after these steps; of the gate per snapshot the page tells it
WEIGHTS = {"shared": (7.0, 32.0), "per_snapshot": (8.0, 32.0)}
JUMP_WARM = {"shared": 100, "per_snapshot": 40}
PLAIN = Contender("plain loop", "plain", {"activation": "batch_topk"})
TUNED = {"activation": "batch_topk", "tuned": True}
PLAIN_TUNED = Contender("plain loop, tuned", "plain", TUNED)
PLAIN_ROUNDED = Contender("plain loop, tuned, rounded products", "plain", {**TUNED, "rounded": True})
ENCODE_ROUNDED = Contender(
    "Ontogeny, BatchTopK, bfloat16 encode", "ours", {**OURS.settings, "encode_dtype": "bfloat16"}
)
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
OTHERS = (
    Contender("the floor: one dense encode and Adam", "floor", {"tuned": True}),
    Contender("Ontogeny, BatchTopK, no search", "ours", {**OURS.settings, "kernels": "compiled"}),
    BY_PYTORCH,
    ENCODE_ROUNDED,
    Contender("Ontogeny, BatchTopK, huge pages", "ours", OURS.settings, HUGE),
    Contender("Ontogeny, BatchTopK, bfloat16 moments", "ours", {**OURS.settings, "moments": "bfloat16"}),
    Contender("Ontogeny, TopK", "ours", {"activation": "topk", "k": 64}),
    Contender("Ontogeny, JumpReLU", "ours", JUMP),
    Contender("Ontogeny, JumpReLU, gate per snapshot", "ours", JUMP_EACH),
    PLAIN,
    PLAIN_TUNED,
    PLAIN_ROUNDED,
    Contender("plain loop, tuned, huge pages", "plain", TUNED, HUGE),
    Contender("SAELens, BatchTopK", "sae_lens_", {"tuned": True, "activation": "batch_topk"}),
    Contender("SAELens, TopK", "sae_lens_", {"tuned": True, "activation": "topk"}),
    Contender("dictionary_learning, BatchTopK", "dictionary_learning_", {"tuned": True, "activation": "batch_topk"}),
    Contender("sparsify, TopK", "sparsify_", {"tuned": True, "activation": "topk"}),
    Contender("llamascopium crosscoder, BatchTopK", "llamascopium_", {"tuned": True, "activation": "batch_topk"}),
    Contender(
        "llamascopium crosscoder, JumpReLU", "llamascopium_", {"tuned": True, "activation": "jumprelu", "weight": 1.0}
    ),
)
PAIRS = [(OURS, other) for other in OTHERS] + [(BY_PYTORCH, other) for other in (PLAIN, PLAIN_TUNED)]
PAIRS += [(ENCODE_ROUNDED, PLAIN_ROUNDED)]
SNAPSHOTS, FEATURES = (2, 4, 8, 16, 32), (1024, 2048, 4096, 8192, 16384, 32768)


def training(threads: int) -> list[dict[str, Any]]:
    """A row per shape and pair, run in turn."""
    rows = []
    for number, shape in enumerate(SHAPES):
        for ours, other in PAIRS:
            settings, warm = dict(other.settings), 3
            if other.worker == "ours" and settings["activation"] == "jumprelu":
                gate = settings.get("gate", "shared")
                settings["sparsity_weight"], warm = WEIGHTS[gate][number], JUMP_WARM[gate]
            one = Contender(other.name, other.worker, settings, other.environment)
            sizes = {"threads": threads, "rounds": 5, "warm": warm, "steps": 3}
            found = tried(
                other.name,
                lambda ours=ours, one=one, sizes=sizes, shape=shape: paired(ours, one, training_task(shape), **sizes),
            )
            rows.append(found | {"beside": ours.name, "shape": str(shape), "batch": shape.batch})
    return rows


def curves(threads: int) -> list[dict[str, Any]]:
    """Seconds a step of ours over snapshots and over features."""
    shapes = [("snapshots", n, Shape(n, 128, 8192, 1024)) for n in SNAPSHOTS]
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
