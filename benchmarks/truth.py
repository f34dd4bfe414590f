"""Planted suites under our defaults and under published settings.

Usage: python benchmarks/truth.py [--workers N]

Every training is kept in the cache and not done again. Defaults are chosen on the settings of CHOOSING and reported on
the others. λ of penalised dictionaries is searched, on another seed, so that L0 comes out near the planted number.
"""

import argparse
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ACTIVE, STEPS, BATCH, SEEDS = 8, 2000, 1024, (0, 1, 2, 3, 4)
OURS = "ours"
OLD = {"learning_rate": 1e-3, "k_start": None}
RECIPES: dict[str, dict[str, Any]] = {
    OURS: {},
    "BatchTopK, √Σ norm²": {**OLD},
    "BatchTopK, Σ norm": {**OLD, "score": "sum"},
    "BatchTopK, max norm": {**OLD, "score": "max"},
    "TopK, Σ norm": {**OLD, "activation": "topk", "score": "sum"},
    "ReLU, l1": {**OLD, "activation": "relu", "sparsity_weight": 3.0},
    "JumpReLU, tanh": {**OLD, "activation": "jumprelu", "sparsity": "tanh", "sparsity_weight": 3.0},
    "JumpReLU, tanh_quad": {**OLD, "activation": "jumprelu", "sparsity": "tanh_quad", "sparsity_weight": 0.1},
    "JumpReLU, tanh_quad, per snapshot": {
        **OLD, "activation": "jumprelu", "sparsity": "tanh_quad", "sparsity_weight": 0.1, "gate": "per_snapshot",
    },
}  # fmt: skip
RATES = (1e-3, 3e-3, 6e-3, 1e-2)
RISES: dict[str, dict[str, Any]] = {
    "k constant": {"k_start": None},
    "k from 4k": {"k_start": 4 * ACTIVE, "sparsity_warmup": 0.1},
    "k from 2, over half": {"k_start": 2, "sparsity_warmup": 0.5},
}
HALF = [0.5] + [0.5 / 7] * 7
CHOOSING: dict[str, dict[str, Any]] = {
    "n 6, d 48, 192 features": {"n_snapshots": 6, "d_model": 48, "n_features": 192},
    "half there from the start": {"births": HALF, "noise": 0.2},
    "growing, fading, dying": {"n_snapshots": 10, "growing": 0.2, "shrinking": 0.2, "dying": 0.2},
}
UNSEEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "directions in pairs at cosine .5": ({"pair_cosine": 0.5}, {}),
    "d 32": ({"d_model": 32}, {}),
    "d 128": ({"d_model": 128}, {}),
    "4 snapshots": ({"n_snapshots": 4}, {}),
    "16 snapshots": ({"n_snapshots": 16}, {}),
    "noise .3": ({"noise": 0.3}, {}),
    "frequencies as 1 / rank": ({"exponent": 1.0}, {}),
    "correlated by half": ({"correlated": 0.5}, {}),
    "dictionary ½ ×": ({}, {"n_features": 128}),
    "dictionary 1 ×": ({}, {"n_features": 256}),
    "dictionary 2 ×": ({}, {"n_features": 512}),
    "dictionary 4 ×": ({}, {"n_features": 1024}),
    "k half of the truth": ({}, {"k": ACTIVE // 2}),
    "k twice the truth": ({}, {"k": 2 * ACTIVE}),
}


@dataclass(frozen=True)
class Case:
    """One training: a planted suite, the tokens' and the dictionary's seed, and changes to our defaults."""

    planted: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    steps: int = STEPS
    name: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        from ontogeny.config import CrosscoderConfig, fingerprint

        return fingerprint(self.planted, CrosscoderConfig(**self.settings()).model_dump(), self.seed, self.steps)

    def settings(self) -> dict[str, Any]:
        n_features = round(1.25 * self.planted.get("n_features", 256))
        return {"n_features": n_features, "k": ACTIVE, "steps": self.steps, "seed": self.seed} | self.recipe

    @property
    def penalised(self) -> bool:
        return self.settings().get("activation") in ("relu", "jumprelu")


def cache() -> Path:
    from ontogeny.run import default_cache

    return default_cache() / "benchmarks" / "truth"


def result(case: Case) -> dict[str, Any]:
    """The score of a case, from the cache where it is there."""
    import torch

    from ontogeny.run import write_json

    path = cache() / f"{case.key}.json"
    if not path.is_file():
        torch.set_num_threads(1)
        if case.penalised:
            case = Case(case.planted, {**case.recipe, "sparsity_weight": weight_of(case)}, case.seed, case.steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, scored(case))
    return json.loads(path.read_text(encoding="utf-8"))


def scored(case: Case) -> dict[str, Any]:
    import time

    import torch

    from ontogeny.config import CrosscoderConfig
    from ontogeny.dictionaries.train import train_crosscoder
    from ontogeny.truth.planted import plant
    from ontogeny.truth.recovery import score_recovery

    births = case.planted.get("births")
    planted = plant(**case.planted | {"births": None if births is None else torch.tensor(births)}, seed=case.seed)
    started = time.monotonic()
    crosscoder = train_crosscoder(planted.batches(BATCH), CrosscoderConfig(**case.settings()), stage=case.name)
    seconds = time.monotonic() - started
    score = score_recovery(planted, crosscoder)
    return {
        **asdict_without_name(case),
        "seconds": seconds,
        "figures": score.figures(),
        "explained_variance": score.reconstruction.tolist(),
        "by_birth": score.by_birth().to_dict(as_series=False),
        "by_frequency": score.by_frequency().to_dict(as_series=False),
    }


def asdict_without_name(case: Case) -> dict[str, Any]:
    return {name: value for name, value in asdict(case).items() if name != "name"}


def weight_of(case: Case) -> float:
    """λ at which L0 comes out near the planted number, on a seed that is not reported: secants in logarithms."""
    from ontogeny.run import write_json

    path = cache() / f"weight-{Case(case.planted, case.recipe, -1, case.steps).key}.json"
    if not path.is_file():
        weight, tried = float(case.settings()["sparsity_weight"]), []
        for _ in range(7):
            trial = Case(case.planted, {**case.recipe, "sparsity_weight": weight}, 1000, case.steps, name="λ")
            l0 = max(0.05, scored(trial)["figures"]["l0"])
            tried.append((math.log(weight), math.log(l0 / ACTIVE)))
            if abs(tried[-1][1]) < 0.05:
                break
            slope = -1.0
            if len(tried) > 1 and tried[-1][0] != tried[-2][0]:
                slope = min((tried[-1][1] - tried[-2][1]) / (tried[-1][0] - tried[-2][0]), -0.2)
            weight *= math.exp(max(-1.5, min(1.5, -tried[-1][1] / slope)))
        write_json(path, math.exp(min(tried, key=lambda pair: abs(pair[1]))[0]))
    return json.loads(path.read_text(encoding="utf-8"))


def cases() -> Iterator[Case]:
    """Everything, in the order in which it is wanted."""
    for recipe in RECIPES.values():
        yield Case({}, recipe, SEEDS[0])
    for planted in CHOOSING.values():
        for rate in RATES:
            for rise in RISES.values():
                yield Case(planted, {"learning_rate": rate, **rise}, 100)
    for planted, changes in UNSEEN.values():
        for recipe in (RECIPES[OURS], RECIPES["BatchTopK, √Σ norm²"]):
            yield Case(planted, {**recipe, **changes}, SEEDS[0])
    for recipe in RECIPES.values():
        for seed in SEEDS[1:]:
            yield Case({}, recipe, seed)
    for planted, changes in UNSEEN.values():
        for seed in SEEDS[1:]:
            yield Case(planted, {**RECIPES[OURS], **changes}, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    wanted = list(dict.fromkeys(case.key for case in cases()))
    by_key = {case.key: case for case in cases()}
    with ProcessPoolExecutor(arguments.workers) as pool:
        futures = {pool.submit(result, by_key[key]): key for key in wanted}
        for number, future in enumerate(as_completed(futures), 1):
            found = future.result()
            figures = {name: round(value, 4) for name, value in found["figures"].items()}
            print(
                f"{number}/{len(wanted)} {found['planted']} {found['recipe']} seed {found['seed']}: {figures}",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
