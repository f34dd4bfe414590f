"""Columns, dtypes and units of every table that a run holds. The one place; the documentation is made from it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Column:
    dtype: Any
    unit: str
    meaning: str


FEATURE = Column(pl.Int32, "index", "feature, 0-based")
SNAPSHOT = Column(pl.Int16, "index", "snapshot, 0-based, in order of step")
STEP = Column(pl.Int64, "step", "pre-training step of the snapshot")
THRESHOLD = Column(pl.Float64, "share", "of its greatest strength at which a feature counts as alive")
VARIANT = Column(
    pl.String,
    "",
    "`all` snapshots; `thinned`, every second one; `independent`, another dictionary, its decoder drawn per snapshot",
)
CHAIN = Column(
    pl.String, "", "`forward`, `reverse`, `null` (on one snapshot again and again), `order` (snapshots permuted)"
)
SEED = Column(pl.Int64, "", "seed of the other dictionary, and of the order of its tokens")
TOKEN_IDS = Column(pl.List(pl.UInt32), "token id", "tokens of the context around the example, in order")

TABLES: dict[str, dict[str, Column]] = {
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
            "norm of the decoder direction in the snapshot's normalised units; 0 where the feature is never active",
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
    "emergence": {
        "alive_threshold": THRESHOLD,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "births": Column(pl.Int64, "features", "born in (previous step, step]; at the first snapshot: initial"),
        "births_ci_low": Column(pl.Float64, "features", "95 % interval (Wilson) over features"),
        "births_ci_high": Column(pl.Float64, "features", "95 % interval (Wilson) over features"),
        "deaths": Column(pl.Int64, "features", "whose last living snapshot is the one before"),
        "alive": Column(pl.Int64, "features", "alive at this snapshot"),
        "alive_ci_low": Column(pl.Float64, "features", "95 % interval (Wilson) over features"),
        "alive_ci_high": Column(pl.Float64, "features", "95 % interval (Wilson) over features"),
        "born_share": Column(pl.Float64, "share", "of the features that are not dead: born at this step or before"),
        "mean_strength_relative": Column(pl.Float64, "share", "mean over features that are not dead"),
    },
    "births": {
        "alive_threshold": THRESHOLD,
        "origin": Column(pl.String, "", "`initial` or `emergent`"),
        "fate": Column(pl.String, "", "`persistent`, `transient` or `censored`"),
        "birth_step": Column(pl.Int64, "step", "end of the interval of birth; null for all steps together"),
        "features": Column(pl.Int64, "features", "of this kind"),
        "ci_low": Column(pl.Float64, "features", "95 % interval (Wilson) over features"),
        "ci_high": Column(pl.Float64, "features", "95 % interval (Wilson) over features"),
    },
    "lineage": {
        "feature": FEATURE,
        "birth_step": Column(pl.Int64, "step", "where it is born; emergent living features only"),
        "parent": Column(pl.Int32, "index", "earlier feature of greatest kinship, there at the birth or just before"),
        "cosine": Column(pl.Float32, "cosine", "of the two decoder directions at the snapshot of birth"),
        "code_correlation": Column(pl.Float32, "correlation", "of their codes over the sampled held-out tokens"),
        "kinship": Column(pl.Float32, "share", "mean of the cosine, whatever its sign, and the correlation"),
        "lost": Column(
            pl.Float32,
            "share",
            "of what the parent says (code over tokens) from where its direction goes with the birth",
        ),
        "label": Column(
            pl.String,
            "",
            "`novel` (kinship below the threshold), `handover` (the parent fades), `absorption` (it lives on but loses "
            "much), `split` (it lives on)",
        ),
    },
    "partings": {
        "feature": Column(pl.Int32, "index", "the one of the two whose direction turned more"),
        "other": Column(pl.Int32, "index", "the one whose direction turned less"),
        "step": Column(pl.Int64, "step", "first at which the cosine of their directions is below .9"),
        "cosine_before": Column(pl.Float32, "cosine", "of their directions just before"),
        "cosine_last": Column(pl.Float32, "cosine", "at the last snapshot; below .7"),
        "lost": Column(pl.Float32, "share", "of what they say, from where the direction that they had in common goes"),
        "label": Column(pl.String, "", "`absorption` where that is much, else `split`"),
    },
    "probes": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "strength_refit": Column(
            pl.Float32, "normalised", "norm of the row that least squares gives the feature for what the others leave"
        ),
        "auc": Column(pl.Float32, "share", "of a linear probe from this snapshot's activations alone to `active`"),
        "auc_own": Column(pl.Float32, "share", "of the snapshot's own part of the encoder output"),
        "auc_token": Column(pl.Float32, "share", "of how often the feature is active on the current token"),
        "positives": Column(pl.Int64, "tokens", "active tokens that areas were measured on"),
        "tokens": Column(pl.Int64, "tokens", "tokens that areas were measured on"),
    },
    "single_saes": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "k": Column(pl.Int64, "features", "active features a token, the dictionary's at this snapshot"),
        "explained_variance": Column(pl.Float64, "share", "of the dictionary, held-out tokens"),
        "sae_explained_variance": Column(
            pl.Float64, "share", "of a BatchTopK SAE of the same size, trained on this snapshot's same tokens"
        ),
        "l0": Column(pl.Float64, "features", "of the dictionary at this snapshot"),
        "sae_l0": Column(pl.Float64, "features", "of the SAE by the inference rule"),
        "features": Column(pl.Int64, "features", "of the dictionary that are alive there"),
        "matched_0.7": Column(pl.Float64, "share", "of them with a counterpart in the SAE at a cosine of .7 or more"),
        "matched_0.9": Column(pl.Float64, "share", "the same at .9"),
        "silent_share": Column(pl.Float64, "share", "features of the dictionary silent on the held-out tokens"),
        "sae_silent_share": Column(pl.Float64, "share", "the same of the SAE"),
    },
    "similarity": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "random": Column(pl.Float64, "cosine", "mean between two of the random tokens' activations"),
        "random_ci_low": Column(pl.Float64, "cosine", "95 % interval over tokens, bootstrap"),
        "random_ci_high": Column(pl.Float64, "cosine", "95 % interval over tokens, bootstrap"),
        "participation_ratio": Column(pl.Float64, "directions", "in how many of them activations vary"),
        "same_token_share": Column(pl.Float64, "share", "of the random pairs that are of one token"),
        "between_tokens": Column(pl.Float64, "cosine", "mean between two of different tokens"),
        "tokens": Column(pl.Int64, "tokens", "random ones, the same at all snapshots"),
        "collapsed": Column(pl.Boolean, "", "whether all activations are so alike that progress says little"),
    },
    "formation": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "within": Column(
            pl.Float32, "cosine", "mean between two of its examples' activations here; null if it has too few"
        ),
        "progress": Column(pl.Float32, "cosine", "`within` less the same of random tokens: progress of formation, M"),
        "expected": Column(pl.Float32, "cosine", "what progress would be if an activation were its token's alone"),
        "points": Column(pl.Int16, "tokens", "its examples: leading tokens at the last snapshot, one a sequence"),
        "code_cosine": Column(pl.Float32, "cosine", "progress by the examples' codes here; null if not sampled"),
        "jaccard": Column(pl.Float32, "share", "the same by the share of active features that two codes have both"),
        "weighted_jaccard": Column(pl.Float32, "share", "the same by Σ min / Σ max of two codes"),
    },
    "progress": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "features": Column(pl.Int64, "features", "with enough examples"),
        "progress": Column(pl.Float64, "cosine", "mean over them"),
        "progress_ci_low": Column(pl.Float64, "cosine", "95 % interval over features, bootstrap"),
        "progress_ci_high": Column(pl.Float64, "cosine", "95 % interval over features, bootstrap"),
        "normalised": Column(pl.Float64, "share", "of the most that it can be, 1 - similarity of random tokens"),
        "collapsed": Column(pl.Boolean, "", "whether all activations are alike at this snapshot"),
        "expected": Column(pl.Float64, "cosine", "mean of what tokens alone would give"),
        "expected_correlation": Column(pl.Float64, "correlation", "over features, of that and progress"),
        "expected_slope": Column(pl.Float64, "share", "of progress on that, by least squares"),
    },
    "levels": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "level": Column(
            pl.String, "", "`token`, `weak_concept`, `concept` or `noise`; null where it has too few examples here"
        ),
        "points": Column(pl.Int16, "tokens", "its examples: leading tokens at this snapshot, one a sequence"),
        "token_share": Column(pl.Float32, "share", "of its examples that are the most frequent token"),
        "word_share": Column(pl.Float32, "share", "that are of the most frequent word, upper case or lower"),
        "stem_share": Column(pl.Float32, "share", "that are of the most frequent stem"),
        "effective": Column(pl.Float32, "tokens or words", "exp of the entropy over them, the lesser of both"),
        "within": Column(pl.Float32, "cosine", "mean between two of its examples' activations here"),
        "p_random_directions": Column(pl.Float32, "probability", "that a random direction's examples are as alike"),
        "p_same_tokens": Column(pl.Float32, "probability", "that the same tokens in other contexts are as alike"),
    },
    "formed": {
        "feature": FEATURE,
        "pattern": Column(
            pl.String,
            "",
            "`maintaining`, `shifting_to_…` or `grouping_to_…` (`token`, `concept`), `dissolving`, `unformed`, `dead`",
        ),
        "first_step": Column(pl.Int64, "step", "first snapshot with enough examples"),
        "first_level": Column(pl.String, "", "level there"),
        "last_level": Column(pl.String, "", "level at the last snapshot"),
        "same_as_first": Column(pl.Float32, "correlation", "of its codes there and at the last snapshot"),
        "meaning_step": Column(pl.Int64, "step", "from which on its codes are like those at the last snapshot"),
        "meaning_after": Column(pl.Int64, "step", "the snapshot before, null where that is the first"),
        "direction_step": Column(
            pl.Int64, "step", "from which on its direction is as near to the last as .9, or as retraining leaves it"
        ),
        "direction_after": Column(pl.Int64, "step", "the snapshot before, null where that is the first"),
        "progress_step": Column(pl.Int64, "step", "first with nine tenths of its rise in progress, if that is .1"),
        "progress_after": Column(pl.Int64, "step", "the snapshot before, null where that is the first"),
        "lag_low": Column(pl.Float32, "log-steps", "least by which its direction settles after its meaning"),
        "lag_high": Column(pl.Float32, "log-steps", "most by which it does"),
        "path_after": Column(pl.Float32, "degree", "that its direction turns, all intervals after its meaning settled"),
        "path_beyond": Column(pl.Float32, "degree", "that less what directions turn there in the null track"),
        "shape": Column(pl.String, "", "of its progress: `flat`, `linear`, `two_piece` or `three_phases`"),
        "rise_from": Column(pl.Int64, "step", "where the rise of the likeliest three phases begins"),
        "rise_to": Column(pl.Int64, "step", "where it ends"),
    },
    "patterns": {
        "pattern": Column(pl.String, "", "how features came to what they are"),
        "features": Column(pl.Int64, "features", "that did"),
        "share": Column(pl.Float64, "share", "of all features"),
        "share_ci_low": Column(pl.Float64, "share", "95 % interval (Wilson) over features"),
        "share_ci_high": Column(pl.Float64, "share", "95 % interval (Wilson) over features"),
    },
    "directions": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "cosine_last": Column(pl.Float32, "cosine", "of its decoder direction here and at the last snapshot"),
        "component_1": Column(pl.Float32, "unit direction", "place along the first principal component of all"),
        "component_2": Column(pl.Float32, "unit direction", "along the second"),
    },
    "direction_components": {
        "component": Column(pl.Int16, "", "principal component of all living directions at all snapshots, 1-based"),
        "explained": Column(pl.Float64, "share", "of their variance"),
    },
    "gaps": {
        "step_a": STEP,
        "step_b": Column(pl.Int64, "step", "the next snapshot's"),
        "moved": Column(pl.Float64, "share", "mean ‖Δx‖ of the sampled tokens over mean ‖x‖ before"),
        "cka_distance": Column(pl.Float64, "share", "1 - linear CKA of their activations"),
        "tokens": Column(pl.Int64, "tokens", "sampled ones"),
    },
    "track_drift": {
        "variant": CHAIN,
        "link": Column(pl.Int32, "index", "of the chain, 0-based, the earlier snapshot first"),
        "step_a": STEP,
        "step_b": Column(pl.Int64, "step", "of the chain's next snapshot"),
        "features": Column(pl.Int64, "features", "active at both"),
        "angle": Column(pl.Float64, "degree", "mean over them of the angle between their two decoder directions"),
        "angle_ci_low": Column(pl.Float64, "degree", "95 % interval over features, bootstrap"),
        "angle_ci_high": Column(pl.Float64, "degree", "95 % interval over features, bootstrap"),
        "cosine_last": Column(pl.Float64, "cosine", "mean over features of the first direction and the chain's last"),
        "beyond": Column(
            pl.Float64, "degree", "that less the angle of the null's link with the same tokens: drift beyond retraining"
        ),
        "beyond_ci_low": Column(pl.Float64, "degree", "95 % interval over features of both, bootstrap"),
        "beyond_ci_high": Column(pl.Float64, "degree", "95 % interval over features of both, bootstrap"),
    },
    "identity": {
        "variant": CHAIN,
        "step_a": STEP,
        "step_b": Column(pl.Int64, "step", "of the chain's next snapshot"),
        "features": Column(pl.Int64, "features", "active at both"),
        "same": Column(pl.Float64, "share", "whose nearest direction in the next SAE is their own"),
        "same_ci_low": Column(pl.Float64, "share", "95 % interval over features, bootstrap"),
        "same_ci_high": Column(pl.Float64, "share", "95 % interval over features, bootstrap"),
    },
    "track_matches": {
        "variant": CHAIN,
        "step": STEP,
        "features": Column(pl.Int64, "features", "of the series that are active here"),
        "level": Column(pl.Float64, "cosine", "from which on features count as counterparts"),
        "matched": Column(pl.Float64, "share", "of them with a counterpart, matched one to one"),
        "cosine": Column(pl.Float64, "cosine", "mean over matched pairs"),
    },
    "cosines": {
        "snapshot_a": SNAPSHOT,
        "snapshot_b": SNAPSHOT,
        "step_a": STEP,
        "step_b": STEP,
        "features": Column(pl.Int64, "features", "alive at both snapshots"),
        "cosine": Column(pl.Float64, "cosine", "mean over them of the cosine of their two decoder directions"),
        "cosine_ci_low": Column(pl.Float64, "cosine", "95 % interval over features, bootstrap"),
        "cosine_ci_high": Column(pl.Float64, "cosine", "95 % interval over features, bootstrap"),
    },
    "drift": {
        "variant": VARIANT,
        "step_a": STEP,
        "step_b": Column(pl.Int64, "step", "the next snapshot's"),
        "features": Column(pl.Int64, "features", "alive at both"),
        "angle": Column(pl.Float64, "degree", "mean over them of the angle between their two decoder directions"),
        "angle_ci_low": Column(pl.Float64, "degree", "95 % interval over features, bootstrap"),
        "angle_ci_high": Column(pl.Float64, "degree", "95 % interval over features, bootstrap"),
        "per_log_step": Column(pl.Float64, "degree / log-step", "angle over the interval's length in log2(1 + step)"),
        "per_log_step_ci_low": Column(pl.Float64, "degree / log-step", "95 % interval over features, bootstrap"),
        "per_log_step_ci_high": Column(pl.Float64, "degree / log-step", "95 % interval over features, bootstrap"),
        "per_thousand_steps": Column(pl.Float64, "degree / 1,000 steps", "angle over the interval's length in steps"),
    },
    "turning_point": {
        "variant": VARIANT,
        "intervals": Column(pl.Int64, "intervals", "between neighbouring snapshots"),
        "features": Column(pl.Int64, "features", "alive at some pair of neighbours"),
        "step": Column(
            pl.Int64, "step", "snapshot at which the most likely break lies; null where there are too few to test"
        ),
        "step_after": Column(pl.Int64, "step", "the snapshot before: the change may lie anywhere between these two"),
        "step_before": Column(pl.Int64, "step", "the snapshot after"),
        "step_ci_low": Column(pl.Int64, "step", "95 % interval of `step`, were wiggles like those seen to fall anew"),
        "step_ci_high": Column(pl.Int64, "step", "95 % interval of `step`, were wiggles like those seen to fall anew"),
        "p_value": Column(
            pl.Float64, "share", "of smooth (cubic) drifts with autocorrelated wiggles that look as broken"
        ),
        "p_value_quadratic": Column(pl.Float64, "share", "the same against quadratic drift"),
        "p_value_quartic": Column(pl.Float64, "share", "the same against quartic drift"),
        "explained": Column(pl.Float64, "share", "of the variance about smooth drift that the break explains"),
        "autocorrelation": Column(pl.Float64, "correlation", "of the wiggles, from one interval to the next"),
        "slope_before": Column(pl.Float64, "log2 rate / log-step", "of the turning rate before the break"),
        "slope_after": Column(pl.Float64, "log2 rate / log-step", "of the turning rate after it"),
        "shift": Column(pl.Float64, "log2 rate", "by which the rate jumps at the break"),
    },
    "stability": {
        "seed": SEED,
        "cosine": Column(pl.Float64, "cosine", "from which on two features count as the same"),
        "features": Column(pl.Int64, "features", "living ones that have a counterpart, one to one"),
        "matched": Column(pl.Float64, "share", "whose cosine to it is high enough; the next columns are of these"),
        "births_same": Column(pl.Float64, "share", "born at the same snapshot"),
        "emergent": Column(pl.Int64, "features", "born after the first snapshot in either dictionary"),
        "emergent_same": Column(pl.Float64, "share", "of those, born at the same snapshot"),
        "emergent_near": Column(pl.Float64, "share", "of those, born within one snapshot"),
        "births_spearman": Column(pl.Float64, "correlation", "of their births, by ranks"),
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
            "interval of its birth; null where there is no birth or too little to probe",
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
    "phases": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "loss": Column(pl.Float64, "nat / token", "held-out cross-entropy of the snapshot"),
        "loss_ci_low": Column(pl.Float64, "nat / token", "95 % interval, bootstrap over documents"),
        "loss_ci_high": Column(pl.Float64, "nat / token", "95 % interval, bootstrap over documents"),
        "unigram": Column(pl.Float64, "nat / token", "held-out cross-entropy of the unigram model, same positions"),
        "bigram": Column(pl.Float64, "nat / token", "the same of the interpolated Kneser-Ney bigram model"),
        "above_unigram_ci_low": Column(
            pl.Float64, "nat / token", "95 % interval of loss - unigram at the same positions, bootstrap over documents"
        ),
        "above_unigram_ci_high": Column(pl.Float64, "nat / token", "its upper end"),
        "above_bigram_ci_low": Column(pl.Float64, "nat / token", "the same of loss - bigram"),
        "above_bigram_ci_high": Column(pl.Float64, "nat / token", "its upper end"),
        "kl_model_unigram": Column(pl.Float64, "nat", "mean KL(model ‖ unigram)"),
        "kl_unigram_model": Column(pl.Float64, "nat", "mean KL(unigram ‖ model)"),
        "kl_model_bigram": Column(pl.Float64, "nat", "mean KL(model ‖ bigram)"),
        "kl_bigram_model": Column(pl.Float64, "nat", "mean KL(bigram ‖ model)"),
        "tokens": Column(pl.Int64, "tokens", "predicted tokens"),
    },
}

CHECKS: tuple[str, ...] = ("stability", "seed_matches", "nulls", "recovery", "trust")
MEASURES: tuple[str, ...] = ("features", "trajectories", "examples", "logit_effects", "quality", "codes")
FOLDERS = {**dict.fromkeys(MEASURES, ""), **dict.fromkeys(CHECKS, "truth/")}
FILES = {name: f"{FOLDERS.get(name, 'analyses/')}{name}.parquet" for name in TABLES}


def from_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """The table `name` of some rows, or of none; what a row lacks, and nan, becomes null."""
    schema = {column: spec.dtype for column, spec in TABLES[name].items()}
    values = [[row.get(column) for column in schema] for row in rows]
    table = pl.DataFrame(values, schema=schema, orient="row", strict=False)
    return table.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


def conform(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """`table` with exactly the columns and dtypes of the table `name`, in their order."""
    columns = TABLES[name]
    assert set(table.columns) == set(columns), f"{name}: {set(table.columns) ^ set(columns)}"
    return table.select([pl.col(column).cast(spec.dtype) for column, spec in columns.items()])


def markdown() -> str:
    """The page of the documentation that lists every table."""
    lines = [
        "# Tables",
        "",
        "Every run folder holds these Parquet files. The page is made from `ontogeny/tables.py`.",
    ]
    for name, columns in TABLES.items():
        lines += ["", f"## {name}", "", f"`{FILES[name]}`", "", "| column | dtype | unit | meaning |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [f"| `{c}` | {s.dtype} | {s.unit} | {s.meaning} |" for c, s in columns.items()]
    return "\n".join(lines) + "\n"
