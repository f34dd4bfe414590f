"""Columns of the tables of checks against known answers."""

import polars as pl

from ontogeny.columns.column import FEATURE, Column

SEED = Column(pl.Int64, "", "seed of the other dictionary, and of the order of its tokens")

CHECKS: dict[str, dict[str, Column]] = {
    "stability": {
        "seed": SEED,
        "cosine": Column(pl.Float64, "cosine", "from which on two features count as the same"),
        "features": Column(pl.Int64, "features", "living ones that have a counterpart, one to one"),
        "matched": Column(pl.Float64, "share", "whose cosine to it is high enough"),
        "emergent_matched": Column(pl.Float64, "share", "of the features born after the first snapshot, as `matched`"),
        "births_same": Column(pl.Float64, "share", "of the matched, born at the same snapshot"),
        "births_same_ci_low": Column(pl.Float64, "share", "its 95 % interval (Wilson)"),
        "births_same_ci_high": Column(pl.Float64, "share", "and upwards"),
        "emergent": Column(pl.Int64, "features", "born after the first snapshot in either dictionary"),
        "emergent_same": Column(pl.Float64, "share", "of those, born at the same snapshot"),
        "emergent_near": Column(pl.Float64, "share", "of those, born within one snapshot"),
        "emergent_both": Column(pl.Int64, "features", "born after the first snapshot in both"),
        "births_spearman": Column(pl.Float64, "correlation", "of the births of those, by ranks"),
        "births_spearman_ci_low": Column(pl.Float64, "correlation", "its 95 % interval, by bootstrap over the pairs"),
        "births_spearman_ci_high": Column(pl.Float64, "correlation", "and upwards"),
    },
    "seed_matches": {
        "feature": FEATURE,
        "seed": SEED,
        "other": Column(pl.Int32, "index", "its counterpart in that dictionary"),
        "cosine": Column(pl.Float32, "cosine", "of the decoder directions at all snapshots as one vector"),
        "birth_step_other": Column(pl.Int64, "step", "where the counterpart is born"),
    },
    "nulls": {
        "null": Column(
            pl.String,
            "",
            "`study` (its own dictionary); `no change`: the last snapshot's activations at all snapshots, each turned "
            "and scaled; `shuffled rows`: no two snapshots share tokens",
        ),
        "features": Column(pl.Int64, "features", "living"),
        "births": Column(pl.Int64, "features", "born after the first snapshot"),
        "births_ci_low": Column(pl.Float64, "features", "95 % interval, Wilson"),
        "births_ci_high": Column(pl.Float64, "features", "95 % interval, Wilson"),
        "equal_share": Column(pl.Float64, "share", "with strengths within 5 % of each other at all snapshots"),
        "specific_share": Column(pl.Float64, "share", "with nine tenths of Σ strength² in one snapshot"),
    },
    "recovery": {
        "birth_step": Column(pl.Int64, "step", "where the planted features are born; null for all"),
        "frequency_part": Column(pl.Int64, "index", "quarter of the frequencies, 0 the rarest; null for all"),
        "features": Column(pl.Int64, "features", "planted"),
        "frequency": Column(pl.Float64, "share", "of the tokens, median"),
        "recovered": Column(pl.Float64, "share", "found with a mean cosine of .9 over the snapshots where they are"),
        "recovered_ci_low": Column(pl.Float64, "share", "95 % interval, Wilson"),
        "recovered_ci_high": Column(pl.Float64, "share", "95 % interval, Wilson"),
        "births_exact": Column(pl.Float64, "share", "of the recovered, born at the right snapshot"),
    },
    "trust": {
        "feature": FEATURE,
        "level": Column(pl.String, "", "`high`, `medium` or `low`"),
        "reasons": Column(pl.String, "", "what speaks against it, with semicolons between; empty where nothing does"),
        "emergent": Column(pl.Boolean, "", "born after the first snapshot"),
        "seed_cosine": Column(pl.Float32, "cosine", "mean over further seeds, to its counterpart; 0 where it has none"),
        "confirmed": Column(
            pl.Boolean,
            "",
            "whether what a probe on the snapshot alone knows of the feature, above the token's baseline, rises in the "
            "interval of its birth; null where there is no birth, too little to probe, or "
            "nothing to gain above that baseline",
        ),
        "auc_rise": Column(pl.Float32, "share", "by how much"),
        "there_before": Column(
            pl.Boolean,
            "",
            "whether it is alive just before its birth by `strength_refit`, well above what was learned: shrunken, not "
            "absent; null where there is no birth or too little to fit",
        ),
        "same_at_thresholds": Column(pl.Boolean, "", "births at all thresholds lie within one snapshot"),
        "same_rescaled": Column(pl.Boolean, "", "born at the same snapshot under the other normalisation"),
        "expected_recovery": Column(pl.Float32, "share", "of plants with its birth and frequency"),
        "memorised": Column(pl.Float32, "share", "of its top examples whose last 8 tokens stand in the text again"),
    },
}
