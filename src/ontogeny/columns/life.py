"""Columns of the tables of features' life histories, and what stands beside them."""

import polars as pl

from ontogeny.columns.column import FEATURE, SNAPSHOT, STEP, Column

THRESHOLD = Column(pl.Float64, "share", "of its greatest strength at which a feature counts as alive")
VARIANT = Column(
    pl.String,
    "",
    "`all` snapshots; `thinned`, every second one; `independent`, another dictionary, its decoder drawn per snapshot",
)

LIFE: dict[str, dict[str, Column]] = {
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
    "dimensions": {
        "alive_threshold": THRESHOLD,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "features": Column(pl.Int64, "features", "alive at this snapshot"),
        "total": Column(pl.Float64, "share", "Σ of their dimensionalities over d_model"),
        "random": Column(pl.Float64, "share", "the same of random directions with the same norms, mean of ten draws"),
        "random_low": Column(pl.Float64, "share", "least of the draws"),
        "random_high": Column(pl.Float64, "share", "greatest of the draws"),
        "median": Column(pl.Float64, "share", "median dimensionality of a feature, 1 where none overlaps with it"),
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
            "`novel` (kinship below the threshold), `handover` (the parent fades or turns into the newborn), "
            "`absorption` (it lives on but loses much), `split` (it lives on)",
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
    "proxies": {
        "feature": FEATURE,
        "auc": Column(pl.Float64, "correlation", "over snapshots, of strength and a probe's AUC (Spearman)"),
        "auc_above_token": Column(pl.Float64, "correlation", "the same with the AUC above the token's own"),
        "strength_refit": Column(pl.Float64, "correlation", "the same with the refitted strength"),
        "shrunken": Column(pl.Boolean, "", "alive by its refitted strength before its birth by the decoder's"),
    },
    "proxy": {
        "measure": Column(pl.String, "", "column of `proxies`"),
        "pairs": Column(pl.Int64, "pairs", "of a feature and a snapshot"),
        "features": Column(pl.Int64, "features", "among them"),
        "spearman": Column(pl.Float64, "correlation", "over all pairs, of relative strength and the measure"),
        "spearman_ci_low": Column(pl.Float64, "correlation", "95 % interval, bootstrap over features"),
        "spearman_ci_high": Column(pl.Float64, "correlation", "95 % interval, bootstrap over features"),
        "within_feature": Column(pl.Float64, "correlation", "median over features of that over their snapshots"),
    },
    "memorisation": {
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "gap": Column(
            pl.Float32,
            "share",
            "strength that training text shows (least squares) less that of held-out text, in units of the feature's "
            "greatest strength; null where it is active in fewer than 8 groups of documents of either",
        ),
        "gap_ci_low": Column(pl.Float32, "share", "95 % interval over groups of documents"),
        "gap_ci_high": Column(pl.Float32, "share", "95 % interval over groups of documents"),
        "p": Column(pl.Float32, "chance", "of a gap as far from 0 where there is none"),
        "density_train": Column(pl.Float32, "share", "of the training tokens read on which it is active"),
        "density_held_out": Column(pl.Float32, "share", "of the held-out tokens read"),
    },
    "memorisation_snapshots": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "features": Column(pl.Int64, "features", "alive there whose gap is known"),
        "gap": Column(pl.Float64, "share", "mean over them"),
        "gap_ci_low": Column(pl.Float64, "share", "95 % interval, bootstrap over groups of documents of both texts"),
        "gap_ci_high": Column(pl.Float64, "share", "95 % interval, bootstrap over groups of documents of both texts"),
        "stronger": Column(
            pl.Int64, "features", "shown more strongly on training text, at a false discovery rate of 5 %"
        ),
        "weaker": Column(pl.Int64, "features", "shown less strongly on it"),
        "at_random": Column(
            pl.Int64, "features", "either, where groups of documents are dealt to the two texts at random"
        ),
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
    "pareto": {
        "kind": Column(pl.String, "", "`crosscoder` of all snapshots, or `sae` of this one alone"),
        "features": Column(pl.Int64, "features", "of the dictionary"),
        "k": Column(pl.Int64, "features", "active a token in training (BatchTopK)"),
        "snapshot": SNAPSHOT,
        "step": STEP,
        "tokens": Column(pl.Int64, "tokens", "that it was trained on, the same for all"),
        "l0": Column(pl.Float64, "features", "active a token at this snapshot, held-out tokens"),
        "explained_variance": Column(pl.Float64, "share", "of this snapshot's, held-out tokens"),
        "silent_share": Column(pl.Float64, "share", "of its features silent on the held-out tokens"),
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
    "phases": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "loss": Column(pl.Float64, "nat / token", "held-out cross-entropy of the snapshot"),
        "loss_ci_low": Column(pl.Float64, "nat / token", "95 % interval over documents; null with fewer than 5"),
        "loss_ci_high": Column(pl.Float64, "nat / token", "95 % interval over documents; null with fewer than 5"),
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
