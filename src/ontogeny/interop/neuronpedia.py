"""Features as Neuronpedia's exports hold them: gzipped JSON lines of features, activations and explanations.

    features/batch-N.jsonl.gz, activations/batch-N.jsonl.gz, explanations/batch-N.jsonl.gz

Source: docs.neuronpedia.org, API and data, Exports; field names as its exports and importer have them.
"""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ontogeny.features.describe import last_examples
from ontogeny.features.labels import text_of, token_texts
from ontogeny.files import atomic_path
from ontogeny.interop.about import require_new, transformer_lens_hook
from ontogeny.run import Run

PER_FILE, ACTIVATIONS = 512, 20


def export_neuronpedia(run: Run, folder: str | Path, *, model: str, source: str) -> int:
    """Write all features that are not dead, as they are at the last snapshot, into a new folder.

    Args:
        model, source: ids of the model and of the source (or layer) there, such as `pythia-70m` and `3-mine`.
    Returns:
        How many features were written.
    Raises:
        RunError: the run is not measured yet, or the folder is not empty.
    """
    folder = Path(folder)
    require_new(folder)
    living = _living(run)
    who = {"modelId": model, "layer": source}
    with atomic_path(folder) as temporary:
        for kind, rows in (
            ("features", _features(run, living)),
            ("activations", _activations(run, living["feature"].to_list())),
            ("explanations", _explanations(run)),
        ):
            (temporary / kind).mkdir(parents=True)
            for number, some in enumerate(_batches(rows)):
                with gzip.open(temporary / kind / f"batch-{number}.jsonl.gz", "wt", encoding="utf-8") as file:
                    file.writelines(json.dumps(who | row, ensure_ascii=False) + "\n" for row in some)
    return len(living)


def _living(run: Run) -> pl.DataFrame:
    """Features with `density` and `max_activation`; of a series those that its last SAE has, as it has them."""
    living = run.features.filter(~pl.col("dead")).sort("feature")
    if run.study.dictionary.kind != "sae_series":
        return living
    last = run.trajectories.filter(snapshot=len(run.steps) - 1).filter(pl.col("firing_rate") > 0)
    greatest = (
        last_examples(run, living["feature"].to_list())
        .group_by("feature")
        .agg(max_activation=pl.col("activations").list.max().max())
    )
    rates = last.select("feature", density="firing_rate")
    return living.select("feature").join(rates, on="feature").join(greatest, on="feature", how="left").sort("feature")


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(rows, PER_FILE)):
        yield some


def _features(run: Run, living: pl.DataFrame) -> Iterator[dict[str, Any]]:
    texts, last = token_texts(run), len(run.steps) - 1
    logits = run.table("logit_effects").filter(snapshot=last).sort("feature", "kind", "rank")
    effects = {
        (int(str(key[0])), str(key[1])): (part["token"].to_list(), part["effect"].to_list())
        for key, part in logits.group_by("feature", "kind", maintain_order=True)
    }
    made = datetime.now(UTC).isoformat(timespec="seconds")
    for feature, density, greatest in living.select("feature", "density", "max_activation").iter_rows():
        row: dict[str, Any] = {
            "index": str(feature),
            "createdAt": made,
            "maxActApprox": _plain(greatest),
            "frac_nonzero": _plain(density),
            "hookName": transformer_lens_hook(run.study.hookpoint),
            "hasVector": False,
        }
        for side, name in (("pos", "promoted"), ("neg", "suppressed")):
            tokens, values = effects.get((feature, name), ([], []))
            row[f"{side}_str"] = [text_of(texts, token) for token in tokens]
            row[f"{side}_values"] = [_plain(value) for value in values]
        yield row


def _activations(run: Run, living: list[int]) -> Iterator[dict[str, Any]]:
    texts = token_texts(run)
    table = last_examples(run, living).filter(pl.col("kind") != "quantile", pl.col("rank") < ACTIVATIONS)
    for row in table.iter_rows(named=True):
        values = [max(0.0, _plain(value) or 0.0) for value in row["activations"]]
        at = int(np.argmax(values))
        yield {
            "index": str(row["feature"]),
            "tokens": [text_of(texts, token) for token in row["tokens"]],
            "values": values,
            "maxValue": values[at],
            "maxValueTokenIndex": at,
            "minValue": min(values),
        }


def _explanations(run: Run) -> Iterator[dict[str, Any]]:
    if "descriptions" not in run.study.analyses:
        return
    for row in run.table("descriptions").drop_nulls("description").iter_rows(named=True):
        yield {
            "index": str(row["feature"]),
            "description": row["description"],
            "typeName": "ontogeny_examples",
            "explanationModelName": row["model"],
        }


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 6)
