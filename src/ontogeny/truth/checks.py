"""Checks of a user's own study: other seeds, nulls, plants in its likeness, and what follows for every feature.

CHECKS lists them: functions from a run to a table. None loads torch before it is called.
"""

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.features.life import alive_mask, life_history
from ontogeny.intervals import wilson_count
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of
from ontogeny.tables import from_rows

if TYPE_CHECKING:
    from ontogeny.dictionaries.crosscoder import Crosscoder

WITHIN = 0.05
"""Strengths within this share of the greatest count as equal."""
FREQUENCY_PARTS = 4
LEAST_IN_CELL = 5
"""Fewer planted features in a cell of birth and frequency, and the expectation is taken from the birth alone."""


# seeds


def seed_matches(run: Run) -> pl.DataFrame:
    """The table `seed_matches`: every living feature's counterpart in the dictionary of each further seed."""
    from ontogeny.dictionaries.variants import seed_variant
    from ontogeny.features.matching import match_features

    own, living, tables = run.dictionary(), _living(run), []
    for seed in _settings(run).seeds:
        other = seed_variant(run, seed)
        found = match_features(own, other, living=living, living_other=np.flatnonzero(_fires(run, other)))
        births = alive_mask(other.strength().numpy(), run.study.measure.alive_threshold).argmax(0)
        born = [run.steps[place] for place in births[found.other]]
        columns = {"feature": found.feature, "seed": seed, "other": found.other, "cosine": found.cosine}
        tables.append(pl.DataFrame({**columns, "birth_step_other": born}))
    return pl.concat(tables)


def stability(run: Run) -> pl.DataFrame:
    """The table `stability`: how alike the dictionary and those of further seeds are, a row per seed and cosine."""
    from ontogeny.features.agreement import LEVELS, agreement

    matches = run.table("seed_matches").join(run.features.select("feature", "birth_step"), on="feature")
    places = {step: place for place, step in enumerate(run.steps)}
    living = run.features.filter(~pl.col("dead"))
    emergent, rows = int((living["birth_step"] > run.steps[0]).sum()), []
    for seed in _settings(run).seeds:
        of_seed = matches.filter(seed=seed)
        cosine = of_seed["cosine"].to_numpy()
        births = [of_seed[name].replace_strict(places).to_numpy() for name in ("birth_step", "birth_step_other")]
        for level in LEVELS:
            found = agreement(cosine, *births, n_features=len(living), n_emergent=emergent, level=level)
            rows.append({"seed": seed, "cosine": level, **found})
    return from_rows("stability", rows)


def _living(run: Run) -> np.ndarray:
    """The features that are not dead."""
    return np.flatnonzero(~run.features.sort("feature")["dead"].to_numpy())


def _fires(run: Run, dictionary: "Crosscoder") -> np.ndarray:
    """Which features fire on the held-out tokens."""
    from ontogeny.activations.harvest import harvester_of
    from ontogeny.features.quality import reconstruct_held_out

    held_out, harvester = Corpus(run.corpus_folder / "held_out"), harvester_of(run)
    return (
        reconstruct_held_out(dictionary.to(harvester.device), harvester, held_out, run.study.measure)
        .fired.cpu()
        .numpy()
    )


# nulls


def nulls(run: Run) -> pl.DataFrame:
    """The table `nulls`: the study's own dictionary, one on activations that never change, one on shuffled rows."""
    from ontogeny.activations.stream import stream_of
    from ontogeny.dictionaries.variants import variant
    from ontogeny.truth.nulls import NoChange, ShuffledRows

    settings, suite, batch_size = _settings(run), suite_of(run), run.study.train.batch_size
    steps = max(1, settings.null_tokens // batch_size)
    last = suite.only([len(suite.snapshots) - 1])

    def unchanged() -> NoChange:
        return NoChange(stream_of(run, suite=last), n_snapshots=len(suite.snapshots), seed=settings.seed)

    def shuffled() -> ShuffledRows:
        return ShuffledRows(stream_of(run), seed=settings.seed)

    made = {"no change": (unchanged, {"decoder_start": "independent"}), "shuffled rows": (shuffled, {})}
    living = ~run.features.sort("feature")["dead"].to_numpy()
    rows = [_null_row(run, "study", run.matrix("strength")[:, living])]
    for name, (batches, changes) in made.items():
        dictionary = variant(
            run, name.replace(" ", "-"), batches=batches, of=(name, settings.seed), steps=steps, **changes
        )
        further = islice(batches().starting_at(steps), max(1, run.study.measure.held_out_tokens // batch_size))
        fires = sum((dictionary.encode(x * dictionary.norm_scale[:, None]) > 0).flatten(0, -2).any(0) for x in further)
        rows.append(_null_row(run, name, dictionary.strength()[:, fires > 0].numpy()))
    return from_rows("nulls", rows)


def _null_row(run: Run, name: str, strength: np.ndarray) -> dict[str, Any]:
    from ontogeny.truth.nulls import specific_share

    greatest = strength.max(0)
    born = int((alive_mask(strength, run.study.measure.alive_threshold).argmax(0) > 0).sum())
    low, high = wilson_count(born, strength.shape[1])
    return {
        "null": name,
        "features": strength.shape[1],
        "births": born,
        "births_ci_low": low,
        "births_ci_high": high,
        "equal_share": float((strength.min(0) >= (1 - WITHIN) * greatest).mean()),
        "specific_share": specific_share(strength),
    }


# plants in the study's likeness


def recovery(run: Run) -> pl.DataFrame:
    """The table `recovery`: how much is found of plants with the study's directions, births and frequencies.

    A row for each birth and each part of the frequencies, and for each alone.
    """
    from ontogeny.dictionaries.variants import variant
    from ontogeny.truth.recovery import score_recovery

    settings, train = _settings(run), run.study.train
    planted = _planted(run)
    steps = (settings.planted_tokens or train.tokens) // train.batch_size
    dictionary = variant(
        run, "planted", batches=lambda: planted.batches(train.batch_size), of=settings.seed, steps=max(1, steps)
    )
    score = score_recovery(planted, dictionary, alive_threshold=run.study.measure.alive_threshold)
    part = (pl.col("frequency").rank("ordinal") - 1) * FREQUENCY_PARTS // pl.len()
    features = score.features.with_columns(
        birth_step=pl.col("birth").replace_strict(dict(enumerate(run.steps))),
        frequency_part=part.cast(pl.Int64),
        exact=pl.col("birth_found") == pl.col("birth"),
    )
    cells = []
    for by in (["birth_step", "frequency_part"], ["birth_step"], ["frequency_part"], []):
        counted = {
            "features": pl.len(),
            "recovered": pl.col("recovered").sum(),
            "births_exact": pl.col("exact").sum(),
            "frequency": pl.col("frequency").median(),
        }
        cells.append(features.group_by(by).agg(**counted) if by else features.select(**counted))
    table = pl.concat(cells, how="diagonal_relaxed")
    bounds = [wilson_count(found, of) for found, of in table.select("recovered", "features").iter_rows()]
    of = pl.col("features")
    return table.with_columns(
        recovered=pl.col("recovered") / of,
        recovered_ci_low=pl.Series([low for low, _ in bounds]) / of,
        recovered_ci_high=pl.Series([high for _, high in bounds]) / of,
        births_exact=(pl.col("births_exact") / pl.col("recovered")).fill_nan(None),
    ).sort("birth_step", "frequency_part", nulls_last=False)


def _planted(run: Run) -> Any:
    """Plants in the likeness of the study's living features."""
    import torch

    from ontogeny.activations.stream import stream_of
    from ontogeny.truth.planted import planted_like

    dictionary = run.dictionary()
    features = run.features.sort("feature")
    living = features.filter(~pl.col("dead"))
    means = run.trajectories.group_by("feature").agg(pl.col("mean_activation").mean()).sort("feature")
    chosen = torch.from_numpy(living["feature"].to_numpy().astype(np.int64))
    with torch.no_grad():
        x = next(stream_of(run).starting_at(0)) * dictionary.norm_scale[:, None]
        residual = (x - dictionary.decode(dictionary.encode(x))).square().sum(2).mean(0).sqrt()
    return planted_like(
        dictionary,
        living=chosen,
        frequency=torch.from_numpy(living["density"].to_numpy().copy()),
        mean_code=torch.from_numpy(means["mean_activation"].to_numpy()[chosen.numpy()].copy()),
        residual=residual,
        seed=_settings(run).seed,
    )


# what follows for every feature


def trust(run: Run) -> pl.DataFrame:
    """The table `trust`: a row per living feature."""
    from ontogeny.features.probes import confirm_births, there_before
    from ontogeny.truth.memorised import memorised_share
    from ontogeny.truth.trust import trust_levels

    features = run.features.sort("feature").filter(~pl.col("dead"))
    seeds = run.table("seed_matches").group_by("feature").agg(seed_cosine=pl.col("cosine").sum())
    n_seeds = len(_settings(run).seeds)
    places = {step: place for place, step in enumerate(run.steps)}
    birth = np.array([places[step] for step in features["birth_step"]])
    probed = run.table("probes").join(features, on="feature", how="semi").sort("snapshot", "feature")
    areas, refit = (
        probed[name].fill_null(float("nan")).to_numpy().reshape(len(run.steps), -1)
        for name in ("auc", "strength_refit")
    )
    first = probed.filter(pl.col("snapshot") == 0)
    found = confirm_births(
        areas,
        first["auc_token"].fill_null(float("nan")).to_numpy(),
        birth,
        positives=first["positives"].to_numpy(),
        tokens=int(first["tokens"][0]),
    )
    strength = run.matrix("strength")[:, features["feature"].to_numpy()]
    before = there_before(refit, strength, birth, alive_threshold=run.study.measure.alive_threshold)
    probable = found.testable & ~np.isnan(found.rise)
    measures = (
        features.select(
            "feature",
            "birth_step",
            emergent=pl.col("origin") == "emergent",
            same_rescaled=pl.col("birth_step") == pl.col("birth_step_rescaled"),
            density="density",
        )
        .with_columns(
            confirmed=pl.when(pl.Series(probable)).then(pl.Series(found.confirmed)),
            auc_rise=pl.Series(found.rise).fill_nan(None),
            there_before=pl.Series(before).fill_nan(None).cast(pl.Boolean),
            same_at_thresholds=pl.Series(_same_at_thresholds(run, features["feature"].to_numpy())),
            frequency_part=((pl.col("density").rank("ordinal") - 1) * FREQUENCY_PARTS // pl.len()).cast(pl.Int64),
        )
        .join(seeds, on="feature", how="left")
        .with_columns(pl.col("seed_cosine").fill_null(0) / n_seeds)
        .join(memorised_share(run.examples, Corpus(run.corpus_folder / "train")), on="feature", how="left")
        .join(_expected(run), on=["birth_step", "frequency_part"], how="left")
    )
    return trust_levels(measures).drop("density", "frequency_part", "birth_step").sort("feature")


def _same_at_thresholds(run: Run, features: np.ndarray) -> np.ndarray:
    """Whether births at all of the study's thresholds lie within one snapshot [feature]."""
    strength = run.matrix("strength")[:, features]
    settings = run.study.measure
    births = [
        life_history(strength, range(len(run.steps)), dead=np.zeros(len(features), bool), alive_threshold=threshold)[
            "birth_step"
        ].to_numpy()
        for threshold in {settings.alive_threshold, *run.study.analysis.alive_thresholds}
    ]
    return np.ptp(np.stack(births), axis=0) <= 1


def _expected(run: Run) -> pl.DataFrame:
    """Expected recovery by birth_step and frequency_part; of the birth alone where a cell has few plants."""
    table = run.table("recovery")
    cells = table.filter(pl.col("birth_step").is_not_null(), pl.col("frequency_part").is_not_null())
    births = table.filter(pl.col("birth_step").is_not_null(), pl.col("frequency_part").is_null())
    joined = cells.join(births.select("birth_step", of_birth="recovered"), on="birth_step")
    enough = pl.col("features") >= LEAST_IN_CELL
    return joined.select(
        "birth_step",
        "frequency_part",
        expected_recovery=pl.when(enough).then("recovered").otherwise("of_birth"),
    )


def _settings(run: Run) -> Any:
    settings = run.study.truth
    assert settings is not None
    return settings


CHECKS: dict[str, Callable[[Run], pl.DataFrame]] = {
    "seed_matches": seed_matches,
    "stability": stability,
    "nulls": nulls,
    "recovery": recovery,
    "trust": trust,
}
