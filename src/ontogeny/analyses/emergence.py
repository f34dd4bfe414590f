"""Births, deaths and living features per snapshot. Source: arXiv 2509.17196, with the life history defined here."""

import polars as pl

from ontogeny.run import Run


def emergence(run: Run) -> pl.DataFrame:
    """The table `emergence`, a row per snapshot, from `features` and `trajectories`; dead features left out."""
    features = run.features.filter(~pl.col("dead"))
    threshold = run.study.measure.alive_threshold
    living = run.trajectories.join(features.select("feature"), on="feature")
    per_snapshot = living.group_by("snapshot", "step").agg(
        alive=(pl.col("strength_relative") >= threshold).sum(),
        mean_strength_relative=pl.col("strength_relative").mean(),
    )
    births = features.group_by(step="birth_step").agg(births=pl.len())
    deaths = features.group_by(step="death_step").agg(deaths=pl.len())
    return (
        per_snapshot.join(births, on="step", how="left")
        .join(deaths, on="step", how="left")
        .with_columns(pl.col("births", "deaths").fill_null(0))
        .sort("snapshot")
    )
