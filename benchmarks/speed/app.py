"""The app on a planted run of 100,000 features, 32 snapshots and 20 examples: what readers wait for, what it takes.

Usage, as JSON: python -m benchmarks.speed.app
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import numpy as np
import polars as pl
import safetensors.numpy

from ontogeny import tables
from ontogeny.config.presets import preset
from ontogeny.config.study import dump_study
from ontogeny.files import default_cache, write_json, write_text
from ontogeny.run import Run

FEATURES, SNAPSHOTS, EXAMPLES, D_MODEL, VOCABULARY, CONTEXT, LOGITS = 100_000, 32, 20, 64, 4096, 16, 3
ROUNDS = 5
QUERIES: list[tuple[str, list[tuple[str, Any]]]] = [
    ("rows", [("sort", "density"), ("descending", "true")]),
    ("rows", [("sort", "fires_on")]),
    ("rows", [("filter", "birth_step:ge:512"), ("filter", "density:le:0.01"), ("sort", "max_strength")]),
    ("rows", [("filter", "fires_on:has:ab"), ("sort", "birth_step"), ("offset", 2000)]),
    ("mask", [("filter", "fate:eq:persistent"), ("filter", "map_1:ge:0")]),
    ("heat", [("filter", "dead:eq:false"), ("sort", "birth_step"), ("rows", 600)]),
    ("heat", [("filter", "origin:eq:emergent"), ("sort", "peak_step"), ("rows", 600)]),
]


def app(threads: int) -> dict[str, Any]:
    """Seconds, frames a second and bytes."""
    folder = default_cache() / "benchmarks" / "planted-run"
    if not (folder / "whole").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        plant(folder)
        (folder / "whole").touch()
    command = [sys.executable, "-m", "ontogeny", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        base = process.stderr.readline().split(" at ")[1].split(" (")[0]
        try:
            found = {"threads": threads} | _in_browser(base) | _at_server(base)
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            return found | {"server_peak_bytes": int(peak.split()[1]) * 1024}
        finally:
            process.terminate()


def plant(folder: Path) -> None:
    """A run of that size: every table that the app reads, with numbers drawn at random."""
    draw = np.random.default_rng(0)
    steps = [0, *(2**power for power in range(SNAPSHOTS - 1))]
    run = Run(folder)
    study = preset("demo")
    dictionary = study.dictionary.model_copy(update={"n_features": FEATURES})
    write_text(folder / "study.yaml", dump_study(study.model_copy(update={"dictionary": dictionary, "analyses": []})))
    snapshots = [{"repo": "planted", "revision": f"step{step}", "commit": None, "step": step} for step in steps]
    write_json(folder / "manifest.json", {"name": "planted", "suite": "planted", "stages": {}, "snapshots": snapshots})
    _tokenizer(run.corpus_folder / "tokenizer")
    at = np.arange(SNAPSHOTS)
    birth = draw.integers(0, SNAPSHOTS, FEATURES)
    rise = np.clip((at - birth[:, None] + 1) / 4, 0, 1) * draw.uniform(0.8, 1, (FEATURES, SNAPSHOTS))
    strength = (rise / rise.max(1, keepdims=True)).astype(np.float32).reshape(-1)
    _write(
        run, "features", FEATURES, draw,
        birth_step=np.asarray(steps)[birth],
        density=draw.uniform(0, 1, FEATURES) ** 4 / 10,
        origin=np.where(birth == 0, "initial", "emergent"),
        fate=draw.choice(["persistent", "transient"], FEATURES),
    )  # fmt: skip
    snapshot = np.tile(at, FEATURES)
    _write(
        run, "trajectories", len(snapshot), draw,
        feature=np.repeat(np.arange(FEATURES), SNAPSHOTS),
        snapshot=snapshot,
        step=np.asarray(steps)[snapshot],
        strength=strength,
        strength_relative=strength,
    )  # fmt: skip
    count = FEATURES * EXAMPLES
    tokens = draw.integers(0, VOCABULARY, (count, CONTEXT)).astype(np.uint32)
    activations = draw.uniform(0, 1, (count, CONTEXT)).astype(np.float32)
    _write(
        run, "examples", count, draw,
        feature=np.repeat(np.arange(FEATURES), EXAMPLES),
        kind=np.full(count, "top"),
        rank=np.tile(np.arange(EXAMPLES), FEATURES),
        position=np.full(count, 20),
        first_position=np.full(count, 12),
        tokens=pl.Series(tokens, dtype=pl.Array(pl.UInt32, CONTEXT)).cast(pl.List(pl.UInt32)),
        activations=pl.Series(activations, dtype=pl.Array(pl.Float32, CONTEXT)).cast(pl.List(pl.Float32)),
    )  # fmt: skip
    each = 2 * LOGITS
    count = FEATURES * SNAPSHOTS * each
    _write(
        run, "logit_effects", count, draw,
        feature=np.repeat(np.arange(FEATURES), SNAPSHOTS * each),
        snapshot=np.tile(np.repeat(at, each), FEATURES),
        rank=np.tile(np.arange(LOGITS), count // LOGITS),
        kind=np.tile(np.repeat(["promoted", "suppressed"], LOGITS), count // each),
        token=draw.integers(0, VOCABULARY, count),
    )  # fmt: skip
    _write(run, "quality", SNAPSHOTS, draw, snapshot=at, step=steps)
    run.dictionary_folder.mkdir(parents=True)
    W_dec = draw.standard_normal((SNAPSHOTS, FEATURES, D_MODEL), dtype=np.float32)
    safetensors.numpy.save_file({"W_dec": W_dec}, run.dictionary_folder / "weights.safetensors")


def _write(run: Run, name: str, rows: int, draw: np.random.Generator, **given: Any) -> None:
    """A table: the columns that are given, the others drawn at random."""
    columns = {}
    for column, spec in tables.TABLES[name].items():
        if column in given:
            columns[column] = given[column]
        elif column == "feature" and rows == FEATURES:
            columns[column] = np.arange(FEATURES)
        elif spec.dtype.is_numeric():
            columns[column] = draw.integers(0, 100, rows) if spec.dtype.is_integer() else draw.uniform(0, 1, rows)
        else:
            columns[column] = (
                pl.Series([None] * rows, dtype=spec.dtype) if spec.dtype != pl.Boolean else np.zeros(rows, bool)
            )
    run.write_table(name, pl.DataFrame(columns))


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    letters = "abcdefghijklmnop"
    words = [letters[place // 256] + letters[place // 16 % 16] + letters[place % 16] for place in range(VOCABULARY)]
    folder.mkdir(parents=True)
    Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token=words[0])).save(
        str(folder / "tokenizer.json")
    )


def _at_server(base: str) -> dict[str, Any]:
    """Medians of the seconds of each query and of feature pages, once everything is loaded."""

    def seconds(path: str, query: list[tuple[str, Any]]) -> float:
        started = time.perf_counter()
        with urllib.request.urlopen(f"{base}api/runs/planted-run/{path}?{urlencode(query)}") as answer:
            answer.read()
        return time.perf_counter() - started

    found = {}
    for path, query in QUERIES:
        what = f"{path} " + " ".join(f"{name}={value}" for name, value in query)
        found[what] = median(seconds(path, query) for _ in range(ROUNDS))
    pages = [seconds(f"features/{feature}", []) for feature in np.linspace(0, FEATURES - 1, 15).astype(int)]
    return {"queries": found, "feature_page": median(pages), "feature_page_worst": max(pages)}


def _in_browser(base: str) -> dict[str, Any]:
    """Seconds to the first views of a fresh server, and frames a second of the Atlas while it moves."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        found: dict[str, Any] = {}
        for view in ("overview", "atlas", "timeline", "feature/77"):
            started = time.perf_counter()
            page.goto(f"{base}#/planted-run/{view}")
            page.wait_for_selector(f'main[data-ready="planted-run/{view.split("/")[0]}"]', timeout=120_000)
            found[f"view {view.split('/')[0]}"] = time.perf_counter() - started
        page.goto(f"{base}#/planted-run/atlas")
        page.wait_for_selector('main[data-ready="planted-run/atlas"]')
        page.wait_for_timeout(1000)
        for way, move in (("pan", "scatter.shift(Math.sin(n / 9) / 60, Math.cos(n / 9) / 60)"),
                          ("zoom", "scatter.zoom(n % 60 < 30 ? 0.95 : 1 / 0.95)")):  # fmt: skip
            found[f"frames {way}"] = page.evaluate(
                f"""() => new Promise((resolve) => {{
                    const scatter = window.ontogenyScatter, started = performance.now(), before = scatter.frames;
                    let n = 0;
                    const go = (now) => {{
                        n += 1;
                        {move};
                        if (now - started < 4000) requestAnimationFrame(go);
                        else resolve((1000 * (scatter.frames - before)) / (now - started));
                    }};
                    requestAnimationFrame(go);
                }})"""
            )
        browser.close()
    return found


if __name__ == "__main__":
    print(json.dumps(app(2), indent=1))
