"""Columns of the tables of how features form and where they go, and whether a series can be followed."""

import polars as pl

from ontogeny.columns.column import FEATURE, SNAPSHOT, STEP, Column

CHAIN = Column(
    pl.String, "", "`forward`, `reverse`, `null` (on one snapshot again and again), `order` (snapshots permuted)"
)

FORMATION: dict[str, dict[str, Column]] = {
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
        "collapsed": Column(pl.Boolean, "", "whether random tokens have become so alike that progress says little"),
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
        "same_token_share": Column(pl.Float32, "share", "q, of the pairs of its examples that are of one token"),
        "same_token": Column(pl.Float32, "cosine", "mean over those pairs; null where there is none"),
        "other_tokens": Column(pl.Float32, "cosine", "mean over its pairs of two tokens; null where there is none"),
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
        "collapsed": Column(pl.Boolean, "", "as in `similarity`"),
        "expected": Column(pl.Float64, "cosine", "mean of what tokens alone would give"),
        "same_token": Column(pl.Float64, "cosine", "mean over all examples' pairs of one token: 1 if tokens were all"),
        "other_tokens": Column(
            pl.Float64, "cosine", "mean over all examples' pairs of two tokens: `between_tokens` if tokens were all"
        ),
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
        "p_random_directions": Column(
            pl.Float32, "probability", "that a random direction's examples are as alike, repeated tokens allowed for"
        ),
        "p_same_tokens": Column(
            pl.Float32, "probability", "that they are so much more alike than the same tokens in random contexts"
        ),
    },
    "formed": {
        "feature": FEATURE,
        "pattern": Column(
            pl.String,
            "",
            "`maintaining`, `shifting_to_…` or `grouping_to_…` (`token`, `concept`), `dissolving`, `unformed`, "
            "`rare` (too few examples at the last snapshot), `dead` (silent everywhere)",
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
        "progress_after": Column(
            pl.Int64, "step", "the snapshot before at which activations have not collapsed; null where there is none"
        ),
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
    "umap": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "feature": Column(pl.Int32, "index", "among whose examples the token is; null for a random one"),
        "token": Column(pl.String, "", "its text"),
        "x": Column(pl.Float32, "", "place in the plane, the same for all snapshots"),
        "y": Column(pl.Float32, "", "its second coordinate"),
    },
    "umap_directions": {
        "feature": FEATURE,
        "x": Column(pl.Float32, "", "place in the plane by its direction at the last snapshot"),
        "y": Column(pl.Float32, "", "its second coordinate"),
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
    "gate": {
        "snapshot": SNAPSHOT,
        "step": STEP,
        "rounds": Column(pl.Int32, "rounds", "in which the SAE took its tokens"),
        "tokens": Column(pl.Int64, "tokens", "that it was trained on at this snapshot"),
        "explained_variance": Column(pl.Float64, "share", "1 - squared error / variance, held-out tokens"),
        "cold_explained_variance": Column(
            pl.Float64, "share", "of an SAE with as many active features, trained from the start on `train.tokens`"
        ),
        "l0": Column(pl.Float64, "features", "active features a token, by the inference rule"),
        "dead_share": Column(pl.Float64, "share", "features silent on all measured tokens at this snapshot"),
        "loss_recovered": Column(pl.Float64, "share", "of the model's loss; null where ablation costs under 0.1 nat"),
        "passed": Column(pl.Boolean, "", "the gate"),
        "failed": Column(
            pl.String,
            "",
            "why not: `dead` (over .1), `variance` (over .02 below the cold SAE's), `active features` (over a tenth "
            "off k), `loss` (under .9 recovered)",
        ),
    },
    "gaps": {
        "step_a": STEP,
        "step_b": Column(pl.Int64, "step", "the next snapshot's"),
        "moved": Column(pl.Float64, "share", "mean ‖Δx‖ of the sampled tokens over mean ‖x‖ before"),
        "cka_distance": Column(pl.Float64, "share", "1 - linear CKA of their activations"),
        "tokens": Column(pl.Int64, "tokens", "sampled ones"),
        "carried": Column(
            pl.Float64,
            "share",
            "of `features`, whose index stands for the same at both: their codes correlate by .5 or more",
        ),
        "features": Column(pl.Int64, "features", "active on them at the next snapshot, and at one before"),
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
        "cosine_last_low": Column(pl.Float64, "cosine", "that 5 % of the features are below"),
        "beyond": Column(
            pl.Float64,
            "degree",
            "that less the angle of the null's link over the gap of the same number, which is trained alike: drift "
            "beyond retraining",
        ),
        "beyond_ci_low": Column(pl.Float64, "degree", "95 % interval over features of both"),
        "beyond_ci_high": Column(pl.Float64, "degree", "95 % interval over features of both"),
    },
    "identity": {
        "variant": CHAIN,
        "link": Column(pl.Int32, "index", "of the chain, 0-based, the earlier snapshot first"),
        "step_a": STEP,
        "step_b": Column(pl.Int64, "step", "of the chain's next snapshot"),
        "features": Column(pl.Int64, "features", "active at both"),
        "same": Column(pl.Float64, "share", "whose nearest direction in the next SAE is their own"),
        "same_ci_low": Column(pl.Float64, "share", "95 % interval (Wilson) over features"),
        "same_ci_high": Column(pl.Float64, "share", "95 % interval (Wilson) over features"),
    },
    "track_matches": {
        "variant": CHAIN,
        "step": STEP,
        "features": Column(pl.Int64, "features", "of the series that are active here"),
        "level": Column(pl.Float64, "cosine", "from which on features count as counterparts"),
        "matched": Column(pl.Float64, "share", "of them with a counterpart, matched one to one"),
        "cosine": Column(pl.Float64, "cosine", "mean over matched pairs"),
    },
}
