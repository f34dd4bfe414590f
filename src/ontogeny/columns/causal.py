"""Columns of the tables of what features do for tasks."""

import polars as pl

from ontogeny.columns.column import FEATURE, SNAPSHOT, STEP, Column

TASK = Column(pl.String, "", "name of the task")
COMPARISON = Column(pl.String, "", "steps compared, with slashes between")
METHOD = Column(pl.String, "", "`exact`, `atp` or `ig`")
LEAST, GREATEST = "lower end of the 95 % interval", "upper end of the 95 % interval"


def _interval(unit: str) -> tuple[Column, Column]:
    return Column(pl.Float64, unit, LEAST), Column(pl.Float64, unit, GREATEST)


def _with_interval(name: str, unit: str, meaning: str) -> dict[str, Column]:
    low, high = _interval(unit)
    return {name: Column(pl.Float64, unit, meaning), f"{name}_ci_low": low, f"{name}_ci_high": high}


CAUSAL: dict[str, dict[str, Column]] = {
    "tasks": {
        "task": TASK,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "items": Column(pl.Int64, "items", "minimal pairs"),
        **_with_interval("accuracy", "share", "items whose good token has the greater logit; even ones count half"),
        **_with_interval("margin", "logit", "mean of logit(good) - logit(bad)"),
        "learned": Column(
            pl.Boolean, "", "above `attribution.learned_accuracy` beyond doubt, at 5 % over all snapshots"
        ),
    },
    "task_dropped": {
        "task": TASK,
        "reason": Column(pl.String, "", "why pairs were left out"),
        "pairs": Column(pl.Int64, "pairs", "how many, of those read until there were enough"),
    },
    "effects": {
        "task": TASK,
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "method": METHOD,
        "effect": Column(
            pl.Float64, "logit", "mean over items of m(clean) - m(code replaced), summed over positions; > 0: it helps"
        ),
        "ci_low": Column(pl.Float64, "logit", f"{LEAST}, clusters of items drawn with replacement"),
        "ci_high": Column(pl.Float64, "logit", GREATEST),
        "effect_right": Column(pl.Float64, "logit", "the same over the items that the model gets right"),
        "items_active": Column(pl.Int64, "items", "on which it has an effect"),
    },
    "completeness": {
        "task": TASK,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "method": METHOD,
        "gap_median": Column(
            pl.Float64, "share", "|Σ effects + error - (m(clean) - m(end))| over max(Σ|effect|, .1), median of items"
        ),
        "gap_95": Column(pl.Float64, "share", "95th percentile of it"),
        "margin_clean": Column(pl.Float64, "logit", "mean m"),
        "margin_end": Column(pl.Float64, "logit", "mean m at the end of the path: all codes replaced, no error term"),
        "error_effect": Column(pl.Float64, "logit", "mean effect of the error term"),
        "error_share": Column(pl.Float64, "share", "of the error term in Σ|effect|, mean over items"),
    },
    "relie": {
        "task": TASK,
        "comparison": COMPARISON,
        "feature": FEATURE,
        "step": Column(pl.Int64, "step", "snapshot whose share it is; of two the later one"),
        **_with_interval("relie", "share", "of the snapshots' |mean effect|; null where none has any"),
        "reldec": Column(pl.Float64, "share", "the same of strengths"),
    },
    "bands": {
        "task": TASK,
        "comparison": COMPARISON,
        "feature": FEATURE,
        "band": Column(
            pl.String,
            "",
            "`only STEP`, `shared`, `STEP and STEP`, `other`, `sign change`, `undetermined`, or `unbanded` (four and "
            "more snapshots)",
        ),
        "probability": Column(pl.Float64, "share", "of bootstrap draws in this band"),
        "p": Column(pl.Float64, "chance", "of effects as far from zero without any, snapshots combined"),
        "total_effect": Column(pl.Float64, "logit", "Σ over the snapshots of |mean effect|"),
    },
    "relie_nulls": {
        "task": TASK,
        "comparison": COMPARISON,
        "case": Column(
            pl.String,
            "",
            "`study`; `swapped`: snapshots in a random order for each cluster of items; `same snapshot`: the last one "
            "against itself, on two halves of the items",
        ),
        "features": Column(pl.Int64, "features", "whose effects are determined"),
        "specific": Column(pl.Float64, "share", "of them with a band of one snapshot only"),
        "off_even": Column(pl.Float64, "share", "median distance of a share from 1 over the number of snapshots"),
    },
    "relie_seeds": {
        "seed": Column(pl.Int64, "", "seed of the other dictionary, and of the order of its tokens"),
        "task": TASK,
        "comparison": COMPARISON,
        "features": Column(pl.Int64, "features", "whose effects are determined in the study's dictionary"),
        "matched": Column(pl.Int64, "features", "of them with a counterpart at a cosine of .7, determined there too"),
        **_with_interval("spearman", "correlation", "of their RelIE for the last snapshot with the counterpart's"),
        "same_band": Column(pl.Float64, "share", "of them in the same band as their counterpart"),
    },
    "ablation": {
        "task": TASK,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "condition": Column(
            pl.String,
            "",
            "`clean`; `leading`: by effect on the other half of the items; `random`: as many of those active; "
            "`matched`: as many that are active on about as many items; `all` features; `other task`: the leading ones "
            "of the task that they were `ranked_on`",
        ),
        "ranked_on": Column(pl.String, "", "another task, if the features are the leading ones of that"),
        "way": Column(pl.String, "", "`removed`, `kept` (all others removed) or `none`"),
        "k": Column(pl.Int64, "features", "how many"),
        "items": Column(pl.Int64, "items", "tried on"),
        **_with_interval("margin", "logit", "mean m"),
        **_with_interval("accuracy", "share", "items right"),
    },
    "half_margin": {
        "task": TASK,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "features": Column(
            pl.Int64,
            "features",
            "fewest leading ones tried without which half of the mean margin is lost; null: too few help",
        ),
        "active": Column(pl.Int64, "features", "active on the items at all"),
    },
    "prediction": {
        "task": TASK,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "features": Column(pl.Int64, "features", "of all sizes of effect, active on the task"),
        **_with_interval("spearman", "correlation", "of predicted with exact mean effects; by bootstrap over features"),
        "slope": Column(pl.Float64, "ratio", "of exact on predicted effects, through zero"),
    },
    "exact": {
        "task": TASK,
        "feature": FEATURE,
        "snapshot": SNAPSHOT,
        "step": STEP,
        "predicted": Column(pl.Float64, "logit", "mean effect by the study's method"),
        "exact": Column(pl.Float64, "logit", "mean effect of replacing its code"),
    },
    "ratios": {
        "task": TASK,
        "comparison": COMPARISON,
        "features": Column(pl.Int64, "features", "with exact effects at both snapshots"),
        **_with_interval("relie_spearman", "correlation", "of exact |Δ2| / |Δ1| with RelIE"),
        **_with_interval("reldec_spearman", "correlation", "of exact |Δ2| / |Δ1| with RelDec"),
    },
    "overlap": {
        "kind": Column(pl.String, "", "`snapshots` of one task, or `tasks` at one snapshot"),
        "task": TASK,
        "other_task": TASK,
        "step": STEP,
        "other_step": STEP,
        "k": Column(pl.Int64, "features", "leading ones, those that help most first"),
        "overlap": Column(pl.Float64, "share", "of both sets together that is in both"),
        "expected": Column(pl.Float64, "share", "as much of random sets, each among the features active there"),
    },
    "snapshot_similarity": {
        "step": STEP,
        "other_step": STEP,
        "cosine": Column(pl.Float64, "cosine", "mean over held-out tokens of each token's two activations"),
        "cka": Column(pl.Float64, "share", "linear CKA of the same tokens' activations"),
    },
    "proposals": {
        "task": TASK,
        "comparison": COMPARISON,
        "reason": Column(pl.String, "", "what shifts from each snapshot to the next"),
        "used": Column(pl.Boolean, "", "whether RelIE was taken of it"),
    },
}
