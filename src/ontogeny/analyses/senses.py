"""Do tokens gain or lose senses? Which feature says most of a token's occurrences, and how evenly they share them.

A feature tells a sense of a token where it is active on some of the token's occurrences, neither on few nor on nearly
all. At each snapshot every occurrence is given to the feature that contributes most there, its code times its strength;
the entropy of that is the token's sense entropy, its exponential the number of senses in effect. Where all snapshots
share one code, only strengths can change it.
"""

import numpy as np
import polars as pl

from ontogeny.progress import progress_bar
from ontogeny.run import Run
from ontogeny.tables import from_rows

LEAST_OCCURRENCES = 50
SEVERAL = 2.0
"""Senses in effect, at some snapshot, from which a token counts as one of several."""


def token_senses(run: Run) -> pl.DataFrame:
    """The table `token_senses`: a row per token and snapshot, for tokens that two features at least tell apart."""
    from ontogeny.features.codes import as_csr, stored_codes
    from ontogeny.features.reading import sense_entropy, sense_features

    strength, dictionary = run.matrix("strength"), run.dictionary()
    alive = run.matrix("strength_relative") >= run.study.measure.alive_threshold
    token = stored_codes(run).token
    # features of any snapshot: who told senses early on counts too
    parts = range(len(run.steps)) if run.study.dictionary.kind == "sae_series" else [-1]
    first, *others = (as_csr(stored_codes(run, snapshot=part).codes) for part in parts)
    merged = sum(others, first)
    found = sense_features(merged.T.tocsr(), token, least=LEAST_OCCURRENCES)
    rows = []
    with progress_bar("senses", len(run.steps), unit="snapshots") as bar:
        for snapshot, step in enumerate(run.steps):
            kept = dictionary.kept_at(stored_codes(run, snapshot=snapshot).codes, snapshot)
            codes = as_csr(kept.coalesce()).T.tocsr()
            weight = np.where(alive[snapshot], np.nan_to_num(strength[snapshot]), 0)
            for identity, (places, features) in found.items():
                entropy = sense_entropy(codes[places][:, features].toarray() * weight[features])
                row = {"token": identity, "snapshot": snapshot, "step": step, "occurrences": len(places)}
                rows.append(row | {"features": len(features), "entropy": entropy, "senses": np.exp(entropy)})
            bar.advance(1)
    return from_rows("token_senses", rows)


def senses(run: Run) -> pl.DataFrame:
    """The table `senses`: of the tokens that have several at some snapshot, the mean at each, and its change."""
    table = run.table("token_senses")
    several = table.group_by("token").agg(pl.col("senses").max()).filter(pl.col("senses") >= SEVERAL)["token"]
    table = table.filter(pl.col("token").is_in(several.to_list())).sort("token", "snapshot")
    tokens = table["token"].n_unique()
    if not tokens:
        return from_rows("senses", [])
    entropy = table["entropy"].to_numpy().reshape(tokens, len(run.steps))
    draws = np.random.default_rng(run.study.analysis.seed).integers(tokens, size=(run.study.analysis.bootstrap, tokens))
    rows = []
    for snapshot, step in enumerate(run.steps):
        own, change = entropy[:, snapshot], entropy[:, -1] - entropy[:, snapshot]
        row = {"snapshot": snapshot, "step": step, "tokens": int(np.isfinite(own).sum())}
        for name, values in (("entropy", own), ("change_to_last", change)):
            if not np.isfinite(values).any():
                continue
            drawn = values[draws]
            counted = np.isfinite(drawn).sum(1)
            means = np.nansum(drawn, axis=1)[counted > 0] / counted[counted > 0]
            low, high = np.quantile(means, [0.025, 0.975])
            row |= {name: float(np.nanmean(values)), f"{name}_ci_low": float(low), f"{name}_ci_high": float(high)}
        rows.append(row)
    return from_rows("senses", rows)
