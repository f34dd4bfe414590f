"""All activation functions on the reference suite, at about the same L0: one table.

Usage: python -m benchmarks.activations [--tokens N] [--only NAME]

Every dictionary is trained on the same rows in the same order. They are harvested once and kept in the cache in half
precision. λ of the penalised ones is found by a secant search in log λ against log L0, first with trainings of a fifth
the length and then with whole ones, so that each ends near the same L0.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks.penalty import weight_for
from benchmarks.truth.cases import AUX
from torch import Tensor

from ontogeny.activations.harvest import Harvester
from ontogeny.activations.stream import ActivationStream
from ontogeny.config.corpus import CorpusConfig
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.config.settings import fingerprint
from ontogeny.config.study import MeasureConfig
from ontogeny.corpus.pack import Corpus, corpus_key, pack_study_corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.features.codes import sample_codes
from ontogeny.features.quality import reconstruct_held_out
from ontogeny.features.splice import measure_splices
from ontogeny.files import atomic_path, default_cache, write_json
from ontogeny.loop import numerics
from ontogeny.progress import progress_bar
from ontogeny.suites.suite import Suite, open_suite

STEPS = [0, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1000, 1400, 2800, 5000]
HOOKPOINT, BATCH, FEATURES, L0 = "resid_post.2", 2048, 2048, 32
CASES: dict[str, dict[str, object]] = {
    "batch_topk": {"activation": "batch_topk", "k": L0},
    "topk": {"activation": "topk", "k": L0},
    "relu, l1": {"activation": "relu", "sparsity": "l1", "sparsity_weight": 1.0},
    "jumprelu, tanh": {"activation": "jumprelu", "sparsity": "tanh", "sparsity_weight": 3.0},
    "jumprelu, tanh_quad": {"activation": "jumprelu", "sparsity": "tanh_quad", "sparsity_weight": 0.3},
    "jumprelu, tanh_quad, per_snapshot": {
        "activation": "jumprelu", "sparsity": "tanh_quad", "sparsity_weight": 0.3, "gate": "per_snapshot",
    },
}  # fmt: skip


class Rows:
    """Batches kept on disk, half precision, given as float32."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.rows = np.memmap(path, dtype=np.float16, mode="r", shape=shape)

    def __len__(self) -> int:
        return len(self.rows) // BATCH

    def __iter__(self) -> Iterator[Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        for number in range(batch, len(self)):
            yield torch.from_numpy(self.rows[number * BATCH : (number + 1) * BATCH].astype(np.float32))


def harvested(stream: ActivationStream, tokens: int, cache: Path) -> Rows:
    """The first rows of a stream, from the cache where they are there."""
    shape = (tokens // BATCH * BATCH, stream.harvester.n_snapshots, stream.harvester.d_model)
    path = cache / "rows.f16"
    if not path.is_file():
        with (
            atomic_path(path) as temporary,
            numerics(),
            progress_bar("harvest", shape[0] // BATCH, unit="batches") as bar,
        ):
            rows = np.memmap(temporary, dtype=np.float16, mode="w+", shape=shape)
            for number, batch in zip(range(shape[0] // BATCH), stream.starting_at(0), strict=False):
                rows[number * BATCH : (number + 1) * BATCH] = batch.numpy()
                bar.advance(1)
            rows.flush()
    return Rows(path, shape)


def trained(rows: Rows, settings: dict[str, object], steps: int, cache: Path) -> Crosscoder:
    """A crosscoder, from the cache where it is there."""
    # AUX, as docs/studies/english.md was measured
    config = CrosscoderConfig(n_features=FEATURES, steps=steps, **AUX, **settings)  # type: ignore[arg-type]
    folder = cache / fingerprint(config)
    if not folder.is_dir():
        crosscoder = train_crosscoder(rows, config, checkpoint=folder.with_suffix(".pt"), stage=folder.name[:6])
        crosscoder.save(folder)
        folder.with_suffix(".pt").unlink(missing_ok=True)
    loaded = load_dictionary(folder)
    assert isinstance(loaded, Crosscoder)
    return loaded


def with_weight(name: str, rows: Rows, steps: int, held_out: Tensor, cache: Path) -> dict[str, object]:
    """The settings of a case, λ such that its training ends near the wanted L0."""
    settings = CASES[name]
    if "sparsity_weight" not in settings:
        return settings

    def l0_of(weight: float, *, short: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            where, length = (Path(folder), steps // 5) if short else (cache, steps)
            crosscoder = trained(rows, settings | {"sparsity_weight": weight}, length, where)
        with torch.no_grad():
            code = crosscoder.encode(held_out * crosscoder.norm_scale[:, None])
        l0 = float((code > 0).double().sum(-1).mean())
        print(f"{name}: λ = {weight:.4g} gives L0 = {l0:.1f} after {length} steps", flush=True)
        return l0

    path = cache / f"weight-{fingerprint(name, settings, steps)}.json"
    if not path.is_file():
        start = float(str(settings["sparsity_weight"]))
        # trained five times as long, the first penalised ones ended with half the L0
        write_json(path, weight_for(partial(l0_of, short=True), wanted=2 * L0, start=start, tolerance=0.15))
    start = json.loads(path.read_text())
    whole = partial(l0_of, short=False)
    return settings | {"sparsity_weight": weight_for(whole, wanted=L0, start=start, tolerance=0.15, tries=3)}


def row(name: str, settings: dict[str, object], crosscoder: Crosscoder, suite: Suite, held_out: Corpus) -> str:
    """One line of the table."""
    measure = MeasureConfig(held_out_tokens=100_000, sample_tokens=20_000)
    harvester = Harvester(suite, HOOKPOINT)
    figures = reconstruct_held_out(crosscoder, harvester, held_out, measure)
    sample = sample_codes(crosscoder, harvester, held_out, measure)
    centre = figures.mean
    splices = measure_splices(crosscoder, suite, held_out, sample, harvester=harvester, centre=centre)
    ev, l0, delta = figures.explained_variance, figures.l0, splices["delta_ce"]
    strength = crosscoder.strength()
    alive = (strength >= 0.5 * strength.amax(0)) & figures.fired
    initial = float((alive[0] & figures.fired).sum() / figures.fired.sum())
    weight = f"{float(str(settings['sparsity_weight'])):.3g}" if "sparsity_weight" in settings else ""
    shown = (*(ev[place] for place in (0, len(ev) // 2, -1)), ev.min())
    cells = [name, weight, f"{l0.mean():.1f}", *(f"{value:.3f}" for value in shown),
             f"{delta[-1]:.3f}", f"{figures.silent_share:.1%}", f"{initial:.1%}"]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--only", choices=CASES)
    arguments = parser.parse_args()
    shared = Path(os.environ.get("ONTOGENY_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    suite = open_suite(shared / "suites" / "english-neox", steps=STEPS)
    files = [str(shared / "data" / "corpus" / split / "*.jsonl.xz") for split in ("train", "valid")]
    config = CorpusConfig(files=files[0], held_out=files[1], sequence_length=256)
    tokenizer = suite.tokenizer()
    key = corpus_key(config, tokenizer=tokenizer)
    corpus, held_out = pack_study_corpus(config, default_cache() / "corpora" / key, tokenizer=tokenizer)
    cache = default_cache() / "benchmarks" / fingerprint("activations", key, STEPS, HOOKPOINT, arguments.tokens)
    stream = ActivationStream(
        Harvester(suite, HOOKPOINT), corpus, batch_size=BATCH, window_tokens=32_768, model_batch_size=16, seed=0
    )
    rows = harvested(stream, arguments.tokens, cache)
    del stream
    steps = len(rows)
    sample = next(rows.starting_at(steps - 1))
    lines = []
    for name in [arguments.only] if arguments.only else CASES:
        settings = with_weight(name, rows, steps, sample, cache)
        lines.append(row(name, settings, trained(rows, settings, steps, cache), suite, held_out))
        print(lines[-1], flush=True)
    header = ["activation", "λ", "L0", *(f"EV at {STEPS[place]:,}" for place in (0, len(STEPS) // 2, -1)), "least EV",
              "ΔCE at the last", "silent", "initial"]  # fmt: skip
    print("\n" + "\n".join(["| " + " | ".join(header) + " |", "| --- " * len(header) + "|", *lines]))


if __name__ == "__main__":
    main()
