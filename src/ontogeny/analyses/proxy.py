"""Is strength a good proxy for what a snapshot knows of a feature? Beside probes on the snapshot alone.

Source: SAE-Track and Evolution of Concepts take a decoder's norm for a feature's presence; latent scaling, which shows
where an L1 penalty has shrunken a decoder, is arXiv 2504.02922.
"""

import numpy as np
import polars as pl

from ontogeny.intervals import cluster_draws, rank_correlation
from ontogeny.run import Run
from ontogeny.tables import from_rows

MEASURES = ("auc", "auc_above_token", "strength_refit")


def proxies(run: Run) -> pl.DataFrame:
    """The table `proxies`: a row per feature that probes were measured on."""
    from ontogeny.features.probes import there_before

    strength, refit = run.matrix("strength"), _refit(run)
    birth = np.zeros(strength.shape[1], dtype=np.int64)
    living = run.features.filter(~pl.col("dead"))
    births = [run.steps.index(step) for step in living["birth_step"]]
    birth[living["feature"].to_numpy()] = births
    before = there_before(refit, strength, birth, alive_threshold=run.study.measure.alive_threshold)
    rows = []
    for (feature,), table in pairs(run).sort("feature", "snapshot").group_by("feature", maintain_order=True):
        own = {
            measure: rank_correlation(table["strength"].to_numpy(), table[measure].to_numpy(), samples=0)[0]
            for measure in MEASURES
            if table[measure].is_not_null().all()
        }
        shrunken = before[int(str(feature))]
        rows.append({"feature": feature, "shrunken": None if np.isnan(shrunken) else bool(shrunken), **own})
    return from_rows("proxies", rows)


def proxy(run: Run) -> pl.DataFrame:
    """The table `proxy`: relative strength beside each measure, over all pairs of a feature and a snapshot."""
    found, own = pairs(run), run.table("proxies")
    settings, rows = run.study.analysis, []
    for measure in MEASURES:
        table = found.drop_nulls([measure, "strength_relative"])
        if table["feature"].n_unique() < 4:
            continue
        value, low, high = _clustered(table, measure, samples=settings.bootstrap, seed=settings.seed)
        if np.isnan(value):
            continue
        each = own[measure].drop_nulls()
        rows.append(
            {
                "measure": measure,
                "pairs": len(table),
                "features": table["feature"].n_unique(),
                "spearman": value,
                "spearman_ci_low": low,
                "spearman_ci_high": high,
                "within_feature": each.median() if len(each) else None,
            }
        )
    return from_rows("proxy", rows)


def pairs(run: Run) -> pl.DataFrame:
    """Pairs of a living feature and a snapshot that a probe was measured on: both keys, strength, strength_relative,
    auc, auc_token, auc_above_token, strength_refit."""
    keys = ["feature", "snapshot"]
    living = run.features.filter(~pl.col("dead")).select("feature")
    table = run.table("probes").join(living, on="feature").drop_nulls("auc")
    table = table.join(run.trajectories.select(*keys, "strength", "strength_relative"), on=keys)
    return table.with_columns(auc_above_token=pl.col("auc") - pl.col("auc_token"))


def _refit(run: Run) -> np.ndarray:
    table = run.table("probes").sort("snapshot", "feature")
    return table["strength_refit"].cast(pl.Float64).fill_null(np.nan).to_numpy().reshape(len(run.steps), -1)


def _clustered(table: pl.DataFrame, measure: str, *, samples: int, seed: int) -> tuple[float, float, float]:
    """Spearman's correlation of relative strength and a measure, with its interval over features drawn anew."""
    from scipy.stats import rankdata

    x, y = (rankdata(table[name].to_numpy()) for name in ("strength_relative", measure))
    x, y = x - x.mean(), y - y.mean()
    features, index = np.unique(table["feature"].to_numpy(), return_inverse=True)
    sums = np.stack([np.bincount(index, part) for part in (np.ones(len(x)), x, y, x * x, y * y, x * y)], axis=1)
    draws = np.concatenate(
        [np.ones((1, len(features))), cluster_draws(np.arange(len(features)), samples=samples, seed=seed)]
    )
    n, sx, sy, sxx, syy, sxy = (draws @ sums).T
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (sxy - sx * sy / n) / np.sqrt((sxx - sx**2 / n) * (syy - sy**2 / n))
    low, high = np.nanquantile(drawn[1:], [0.025, 0.975])
    return float(drawn[0]), float(low), float(high)
