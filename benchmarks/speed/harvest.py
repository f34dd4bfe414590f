"""Activations of one snapshot: this product's stream beside transformers and the peers' buffers."""

import os
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.pairs import Contender, paired, tried

from ontogeny.config.corpus import CorpusConfig
from ontogeny.corpus.pack import Corpus, corpus_key, pack_study_corpus
from ontogeny.files import default_cache
from ontogeny.suites.suite import open_suite

LAYER, LENGTH, BATCH, STEP = 2, 256, 2048, 5000
OURS = Contender("Ontogeny", "harvest_ours")
OTHERS = (
    Contender("Ontogeny, bfloat16 weights", "harvest_ours", {"dtype": "bfloat16"}),
    Contender("transformers, the whole model", "harvest_plain", {"tuned": True}),
    Contender("transformers, truncated, not shuffled", "harvest_plain", {"tuned": True, "truncated": True}),
    Contender("SAELens' ActivationsStore", "harvest_sae_lens_", {"tuned": True}),
    Contender("dictionary_learning's ActivationBuffer", "harvest_dictionary_learning_", {"tuned": True}),
)


def harvest(threads: int) -> list[dict[str, Any]]:
    """A row per contender, each run in turn with ours; rounds are whole windows of our stream."""
    task = harvest_task()
    return [
        tried(other.name, lambda other=other: paired(OURS, other, task, threads=threads, rounds=5, warm=32, steps=48))
        | {"batch": BATCH}
        for other in OTHERS
    ]


def harvest_task() -> dict[str, Any]:
    """The reference suite's last snapshot and its packed text; whole sequences of it for the peers."""
    shared = Path(os.environ.get("ONTOGENY_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    suite = open_suite(shared / "suites" / "english-neox", steps=[STEP])
    files = [str(shared / "data" / "corpus" / split / "*.jsonl.xz") for split in ("train", "valid")]
    config = CorpusConfig(files=files[0], held_out=files[1], sequence_length=LENGTH)
    tokenizer = suite.tokenizer()
    folder = default_cache() / "corpora" / corpus_key(config, tokenizer=tokenizer)
    pack_study_corpus(config, folder, tokenizer=tokenizer)
    corpus = Corpus(folder / "train")
    whole = torch.from_numpy(corpus.tokens[corpus.lengths == LENGTH][:4096].astype("int64"))
    path = default_cache() / "benchmarks" / "speed" / "tokens.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(whole, path)
    return {
        "model": str(shared / "suites" / "english-neox" / f"step{STEP}"), "corpus": str(folder / "train"),
        "tokens": str(path), "layer": LAYER, "batch": BATCH, "sequence_length": LENGTH,
    }  # fmt: skip
