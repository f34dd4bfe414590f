"""Columns of the tables of what measuring finds."""

import polars as pl

from ontogeny.columns.column import FEATURE, SNAPSHOT, STEP, Column

TOKEN_IDS = Column(pl.List(pl.UInt32), "token id", "tokens of the context around the example, in order")

MEASURED: dict[str, dict[str, Column]] = {
    "features": {
        "feature": FEATURE,
        "origin": Column(pl.String, "", "`initial` (alive at the first snapshot) or `emergent`; null where dead"),
        "fate": Column(pl.String, "", "`persistent`, `transient` or `censored` (born in the last snapshots)"),
        "birth_after": Column(pl.Int64, "step", "last snapshot before the birth; null where initial"),
        "birth_step": Column(pl.Int64, "step", "first snapshot with relative strength at or above the threshold"),
        "birth_step_rescaled": Column(
            pl.Int64, "step", "the same if snapshots were scaled by the other normalisation (mean or robust)"
        ),
        "peak_step": Column(pl.Int64, "step", "snapshot of greatest strength"),
        "death_step": Column(pl.Int64, "step", "first snapshot after the last living one; null where it lives on"),
        "revived": Column(pl.Boolean, "", "whether it lives again after a snapshot below the threshold"),
        "persistence": Column(
            pl.Float32, "share", "of the snapshots after its birth at which it lives; null where born at the last"
        ),
        "persistence_log": Column(pl.Float32, "share", "the same of log-steps, log2(1 + step)"),
        "rise_width": Column(
            pl.Float32,
            "log-steps",
            "from 10 % to 90 % of its greatest strength, in log2(1 + step), between snapshots interpolated; null where "
            "it never was below 10 % before",
        ),
        "dead": Column(pl.Boolean, "", "silent on all measured tokens"),
        "max_activation": Column(pl.Float32, "code", "greatest code on the measured tokens"),
        "density": Column(pl.Float32, "share", "share of measured tokens on which it is active"),
        "max_strength": Column(pl.Float32, "normalised", "greatest strength over the snapshots"),
    },
    "trajectories": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "strength": Column(
            pl.Float32,
            "normalised",
            "norm of the decoder direction in the snapshot's normalised units; 0 where the feature is never active or, "
            "in a series, its index stands for another",
        ),
        "strength_relative": Column(pl.Float32, "share", "strength over the feature's greatest strength"),
        "firing_rate": Column(pl.Float32, "share", "share of measured tokens on which the code is active"),
        "mean_activation": Column(pl.Float32, "code", "mean code where active; null where it never is"),
        "own_part": Column(
            pl.Float32, "code", "mean of the snapshot's own part x·W_enc of the code, where active; null if never"
        ),
    },
    "examples": {
        "feature": FEATURE,
        "snapshot": Column(pl.Int16, "index", "snapshot; null for rankings by a code that all snapshots share"),
        "kind": Column(
            pl.String,
            "",
            "`top` (by the code, the greatest of all snapshots), `own` (by the snapshot's own part of the code), "
            "`quantile` (sampled from all contexts in which it fires)",
        ),
        "rank": Column(pl.Int16, "index", "0 is the most active"),
        "sequence": Column(pl.Int32, "index", "sequence of the corpus"),
        "position": Column(pl.Int32, "index", "position of the peak in the sequence"),
        "first_position": Column(pl.Int32, "index", "position of the first token listed"),
        "tokens": TOKEN_IDS,
        "activations": Column(pl.List(pl.Float32), "code", "code (or own part) at each of the tokens"),
    },
    "logit_effects": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "kind": Column(pl.String, "", "`promoted` or `suppressed`"),
        "rank": Column(pl.Int16, "index", "0 is the strongest"),
        "token": Column(pl.UInt32, "token id", "token of the vocabulary"),
        "effect": Column(
            pl.Float32, "logit", "unit decoder direction through the final norm's weights and the unembedding, centred"
        ),
    },
    "quality": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "explained_variance": Column(pl.Float64, "share", "1 - squared error / variance, held-out tokens"),
        "explained_variance_per_token": Column(pl.Float64, "share", "mean of the ratio taken token by token"),
        "pca_explained_variance": Column(
            pl.Float64, "share", "the same for as many principal directions of the snapshot as a token has features"
        ),
        "l0": Column(pl.Float64, "features", "active features a token, by the inference rule"),
        "dead_share": Column(pl.Float64, "share", "features silent on all measured tokens at this snapshot"),
        "silent_share": Column(pl.Float64, "share", "features silent on the held-out tokens at this snapshot"),
        "ultra_low_share": Column(
            pl.Float64, "share", "not dead, but density < 1e-6 or greatest code < 1 % of the median feature's"
        ),
        "norm_scale": Column(pl.Float64, "1 / raw unit", "factor that brings the mean norm to sqrt(d_model)"),
        "other_norm_scale": Column(
            pl.Float64, "1 / raw unit", "the factor of the other normalisation (mean or robust)"
        ),
        "tokens": Column(pl.Int64, "tokens", "held-out tokens measured"),
        "ce_clean": Column(pl.Float64, "nat / token", "loss of the model as it is, on `splice_tokens`"),
        "ce_spliced": Column(pl.Float64, "nat / token", "its loss from the reconstruction on"),
        "ce_mean_ablated": Column(pl.Float64, "nat / token", "its loss from the mean activation on"),
        "delta_ce": Column(pl.Float64, "nat / token", "ce_spliced - ce_clean"),
        "loss_recovered": Column(
            pl.Float64,
            "share",
            "(ce_mean_ablated - ce_spliced) / (ce_mean_ablated - ce_clean); null where the denominator is under 0.1",
        ),
        "splice_tokens": Column(pl.Int64, "tokens", "held-out tokens predicted from positions that were replaced"),
    },
    "codes": {
        "snapshot": Column(pl.Int16, "index", "whose code it is; null where all snapshots share it"),
        "sequence": Column(pl.Int32, "index", "sequence of the held-out corpus"),
        "position": Column(pl.Int32, "index", "position in it"),
        "feature": FEATURE,
        "code": Column(pl.Float32, "code", "active code there; with the per_snapshot gate the encoder output"),
    },
}
