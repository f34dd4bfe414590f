"""From a dictionary to a run's tables: each of its parts is measured by itself, then their tables become one.

A crosscoder is one part. An SAE series has a part for every snapshot; what was measured of each is kept, so that a
snapshot that is added later, or a pass that was killed, costs no more than what is missing.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl

from ontogeny.activations.harvest import harvester_of
from ontogeny.activations.key import snapshot_keys
from ontogeny.config.settings import fingerprint
from ontogeny.config.study import MeasureConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.dictionary import Part
from ontogeny.features.carried import carried, correlations_before, tables_codes
from ontogeny.features.codes import sample_codes
from ontogeny.features.life import relative_strength
from ontogeny.features.measure import measure_features
from ontogeny.features.quality import quality_table, reconstruct_held_out
from ontogeny.features.splice import measure_splices
from ontogeny.features.tables import (
    examples_table,
    features_table,
    found_table,
    logit_effects_table,
    trajectories_table,
)
from ontogeny.files import is_kept, keeping, remove
from ontogeny.run import Run
from ontogeny.suites.suite import Suite, suite_of

Tables = dict[str, pl.DataFrame]


def measure_dictionary(run: Run, *, key: str) -> Tables:
    """Measure a run's dictionary: the tables features, trajectories, examples, logit_effects, quality and codes.

    Args:
        key: fingerprint of dictionary, models, corpora and settings, for a pass that may be interrupted.
    """
    dictionary, suite = run.dictionary(), suite_of(run)
    parts = dictionary.parts()
    if len(parts) == 1:
        tables = measure_part(run, parts[0].crosscoder, suite, key=key, checkpoint=run.checkpoints / "measure.pt")
    else:
        tables = joined([_kept_part(run, part, suite) for part in parts], run.study.measure)
        tables["trajectories"] = _as_carried(run, tables["trajectories"], tables["codes"])
    features = features_table(tables.pop("found"), tables["trajectories"], tables["quality"], run.study.measure)
    return {"features": features} | tables


def measure_part(run: Run, crosscoder: Crosscoder, suite: Suite, *, key: str, checkpoint: Path) -> Tables:
    """Measure a crosscoder on the snapshots that it covers; in place of the table features there is `found`."""
    settings, study = run.study.measure, run.study
    corpus, held_out = (Corpus(run.corpus_folder / split) for split in ("train", "held_out"))
    harvester = harvester_of(run, suite=suite)
    crosscoder = crosscoder.to(harvester.device)
    measurement = measure_features(
        crosscoder, harvester, corpus, settings, checkpoint=checkpoint, key=key, events=run.events
    )
    centre = measurement.mean()
    reconstruction = reconstruct_held_out(crosscoder, harvester, held_out, settings, centre=centre)
    rescaling = reconstruction.rescaling("robust" if study.train.normalisation == "mean" else "mean")
    sample = sample_codes(crosscoder, harvester, held_out, settings)
    splices = measure_splices(crosscoder, suite, held_out, sample, harvester=harvester, centre=centre)
    return {
        "found": found_table(measurement),
        "trajectories": trajectories_table(measurement, steps=suite.steps),
        "examples": examples_table(measurement, corpus),
        "logit_effects": logit_effects_table(
            crosscoder, suite, settings, dtype=study.suite.dtype, device=harvester.device
        ),
        "codes": sample.table(),
        "quality": quality_table(reconstruction, measurement, splices, steps=suite.steps, rescaling=rescaling),
    }


def part_key(run: Run, part: Part) -> str:
    """Fingerprint of a part, of its snapshots' activations, and of the corpora that they are measured on."""
    weights = [sha256(tensor.numpy().tobytes()).hexdigest() for tensor in part.crosscoder.tensors().values()]
    corpora = [Corpus(run.corpus_folder / split).fingerprint for split in ("train", "held_out")]
    return fingerprint(weights, part.crosscoder.settings(), corpora, snapshot_keys(run)[part.snapshots])


def _kept_part(run: Run, part: Part, suite: Suite) -> Tables:
    """The tables of one part, from the run folder where they are there."""
    own = suite.only(range(len(suite.snapshots))[part.snapshots])
    key = fingerprint(part_key(run, part), run.study.measure)
    folder = run.folder / "measured" / f"step{own.steps[0]}"
    checkpoint = run.checkpoints / f"measure-{own.steps[0]}.pt"
    if not is_kept(folder, key):
        with keeping(folder, key) as temporary:
            for name, table in measure_part(run, part.crosscoder, own, key=key, checkpoint=checkpoint).items():
                shifted(table, part.snapshots.start).write_parquet(temporary / f"{name}.parquet", compression="zstd")
        remove(checkpoint)
    return {path.stem: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def shifted(table: pl.DataFrame, first: int) -> pl.DataFrame:
    """A part's table with the dictionary's numbers of the snapshots; its part of `codes` gets the first one."""
    if "snapshot" not in table.columns:
        return table
    if "code" in table.columns:
        return table.with_columns(snapshot=pl.lit(first, pl.Int16))
    return table.with_columns(pl.col("snapshot") + first)


def joined(parts: list[Tables], config: MeasureConfig) -> Tables:
    """The tables of several parts as one.

    A feature's `own` examples are each part's leading ones, its `top` examples the leading ones of all parts, each
    sequence once; its density and greatest code are the greatest of all parts.
    """
    found = pl.concat([part["found"] for part in parts]).group_by("feature").max().sort("feature")
    return {
        "found": found,
        "trajectories": pl.concat([part["trajectories"] for part in parts]),
        "examples": _examples({part["quality"]["snapshot"][0]: part["examples"] for part in parts}, config),
        **{name: pl.concat([part[name] for part in parts]) for name in ("logit_effects", "codes", "quality")},
    }


def _as_carried(run: Run, trajectories: pl.DataFrame, codes: pl.DataFrame) -> pl.DataFrame:
    """Strengths that are 0 where an index stands for another feature than at the end."""
    lengths = Corpus(run.corpus_folder / "held_out").lengths
    tokens = int((lengths[codes["sequence"].unique().to_numpy()].astype(np.int64) - 1).sum())
    n, n_features = len(run.steps), run.study.dictionary.n_features
    correlation = correlations_before(tables_codes(codes, n_snapshots=n, n_features=n_features, tokens=tokens))
    table = trajectories.sort("snapshot", "feature")
    strength = table["strength"].to_numpy().reshape(n, n_features)
    strength = strength * carried(correlation, strength > 0)
    found = {"strength": strength, "strength_relative": relative_strength(strength)}
    columns = [pl.Series(name, values.ravel()) for name, values in found.items()]
    return table.with_columns(columns).sort("feature", "snapshot")


def _examples(parts: dict[int, pl.DataFrame], config: MeasureConfig) -> pl.DataFrame:
    """Of parts with one snapshot each, by that."""
    of_part = [part.with_columns(snapshot=pl.lit(snapshot, pl.Int16)) for snapshot, part in parts.items()]
    table = pl.concat(of_part).with_columns(peak=pl.col("activations").list.max())
    top, drawn = table.filter(kind="top"), table.filter(kind="quantile")
    own = top.filter(pl.col("rank") < config.snapshot_examples).with_columns(kind=pl.lit("own"))
    everywhere = {"snapshot": pl.lit(None, pl.Int16)}
    top = top.sort("peak", descending=True, maintain_order=True).unique(["feature", "sequence"], maintain_order=True)
    chosen = np.random.default_rng(config.seed).permutation(len(drawn))
    drawn = drawn[chosen].group_by("feature", maintain_order=True).head(config.quantile_examples)
    return (
        pl.concat(
            [
                _ranked(top).filter(pl.col("rank") < config.examples).with_columns(**everywhere),
                _ranked(drawn.select(table.columns)).with_columns(**everywhere),
                own,
            ]
        )
        .drop("peak")
        .sort("feature", "snapshot", "kind", "rank", nulls_last=False)
    )


def _ranked(table: pl.DataFrame) -> pl.DataFrame:
    """Rows ranked by their peak, feature by feature."""
    rank = pl.col("peak").rank("ordinal", descending=True).over("feature") - 1
    return table.sort("feature", "sequence", "position").with_columns(rank=rank.cast(pl.Int16))
