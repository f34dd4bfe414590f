"""The report's opening paragraphs: what a study found, every number taken from a table that the sentence names."""

from typing import NamedTuple

import polars as pl

from ontogeny.analyses.lineage import LABELS
from ontogeny.run import Run


class Sentence(NamedTuple):
    """A sentence or two, and the tables that its numbers come from."""

    text: str
    tables: tuple[str, ...]


def summary(run: Run) -> list[Sentence]:
    """What the study found, in the order in which one would ask."""
    analyses = run.study.analyses
    return [
        *([_model(run)] if "phases" in analyses else []),
        _dictionary(run),
        *([_beside_saes(run)] if "single_saes" in analyses else []),
        _births(run),
        *(_sensitivity(run) if "emergence" in analyses else []),
        *(_turning(run) if "turning_point" in analyses else []),
        *([_kinds(run)] if "kinds" in analyses else []),
        *(_complexity(run) if "complexity" in analyses else []),
        *(_senses(run) if "senses" in analyses else []),
        *(_proxy(run) if "probes" in analyses else []),
        *([_dimensions(run)] if "dimensions" in analyses else []),
        *([_formation(run), _patterns(run)] if "formation" in analyses else []),
        *([_tracking(run)] if "tracking" in analyses and len(run.steps) > 1 else []),
        *(_tasks(run) if run.study.attribution is not None else []),
        *(_checks(run) if run.study.truth is not None else []),
    ]


def _model(run: Run) -> Sentence:
    phases = run.analysis("phases")
    return Sentence(
        f"Held-out loss falls from {phases['loss'][0]:.2f} to {phases['loss'][-1]:.2f} nat a token over "
        f"{phases['step'][-1]:,} steps; it {_passing(phases, 'unigram')} and {_passing(phases, 'bigram')}.",
        ("phases",),
    )


def _passing(phases: pl.DataFrame, bound: str) -> str:
    """Between which steps the loss goes from above a bound to below it for good, each beyond doubt (95 %)."""
    value, step = f"{phases[bound][0]:.2f}", phases["step"].to_list()
    above = (phases[f"above_{bound}_ci_low"] > 0).to_list()
    below = (phases[f"above_{bound}_ci_high"] < 0).to_list()
    if not below[-1]:
        return f"does not pass the {bound} model ({value})"
    if not any(above):
        return f"is never above the {bound} model ({value})"
    last_above = len(above) - 1 - above[::-1].index(True)
    since = next(index for index in range(last_above + 1, len(below)) if all(below[index:]))
    return f"passes the {bound} model ({value}) between steps {step[last_above]:,} and {step[since]:,}"


def _dictionary(run: Run) -> Sentence:
    quality, n_features = run.table("quality").sort("snapshot"), len(run.features)
    ahead = int((quality["explained_variance"] > quality["pca_explained_variance"]).sum())
    last, worst = quality.row(-1, named=True), quality.sort("dead_share", descending=True).row(0, named=True)
    dead = float(run.features["dead"].mean() or 0)  # pyright: ignore[reportArgumentType]
    recovered = last["loss_recovered"]
    l0 = (
        f"{last['l0']:.1f}"
        if quality["l0"].n_unique() == 1
        else f"{quality['l0'].min():.1f} to {quality['l0'].max():.1f}"
    )
    return Sentence(
        f"The dictionary has {n_features:,} features, {l0} active a token; it explains "
        f"{quality['explained_variance'].min():.1%} to {quality['explained_variance'].max():.1%} of each snapshot's "
        f"variance on held-out tokens, more than a PCA with as many components at {ahead} of {len(quality)} snapshots. "
        f"With its reconstruction spliced in, the last snapshot loses {last['delta_ce']:.3f} nat a token"
        + (f" and keeps {recovered:.1%} of what the activations are worth" if recovered is not None else "")
        + f". {int(run.features['dead'].sum()):,} of the features are dead"
        + (f", {worst['dead_share']:.1%} at step {worst['step']:,}." if worst["dead_share"] > dead else "."),
        ("quality", "features"),
    )


def _beside_saes(run: Run) -> Sentence:
    table = run.analysis("single_saes")
    gaps = [
        f"{row['sae_explained_variance'] - row['explained_variance']:+.3f} at step {row['step']:,}"
        for row in table.iter_rows(named=True)
    ]
    return Sentence(
        "SAEs of single snapshots, with as many features and active features, explain more or less than it by "
        f"{', '.join(gaps)} (share of the variance).",
        ("single_saes",),
    )


def _births(run: Run) -> Sentence:
    living = run.features.filter(~pl.col("dead"))
    emergent = living.filter(pl.col("origin") == "emergent")
    fates = {row["fate"]: row["len"] for row in emergent.group_by("fate").len().iter_rows(named=True)}
    kinds = ", ".join(f"{fates[fate]:,} {fate}" for fate in ("persistent", "transient", "censored") if fate in fates)
    text = f"Of {len(living):,} living features {len(living) - len(emergent):,} are there at step {run.steps[0]:,} and "
    text += f"{len(emergent):,} emerge{'s' if len(emergent) == 1 else ''} later"
    if len(emergent):
        text += f" ({kinds}), half of them by step {_middle(emergent['birth_step']):,}"
        if (widths := emergent["rise_width"].drop_nulls()).len():
            text += f"; a rise from 10 % to 90 % of full strength takes {widths.median():.1f} log-steps in the median"
    moved = int((living["birth_step"] != living["birth_step_rescaled"]).sum())
    other = "robust" if run.study.train.normalisation == "mean" else "mean"
    return Sentence(
        f"{text}. Under {other} normalisation {moved:,} of the {len(living):,} would be born elsewhere.", ("features",)
    )


def _middle(steps: pl.Series) -> int:
    """The first step by which half of the values have come."""
    return steps.sort()[(len(steps) - 1) // 2]


def _sensitivity(run: Run) -> list[Sentence]:
    table = run.analysis("births").filter(pl.col("birth_step").is_null(), pl.col("origin") == "emergent")
    counts = table.group_by("alive_threshold").agg(pl.col("features").sum()).sort("alive_threshold")
    if len(counts) == 0:
        return []
    by_threshold = ", ".join(f"{count:,} at {threshold:g}" for threshold, count in counts.iter_rows())
    sentences = [
        Sentence(
            f"How many count as emergent depends on the threshold of being alive: {by_threshold} of the greatest "
            "strength.",
            ("births",),
        )
    ]
    labels = run.analysis("lineage")["label"]
    if len(labels):
        parts = ", ".join(f"{int((labels == label).sum()):,} {label}" for label in LABELS)
        sentences.append(Sentence(f"By their nearest earlier feature, the emergent ones are: {parts}.", ("lineage",)))
    if len(pairs := run.analysis("partings")):
        splits = int((pairs["label"] == "split").sum())
        sentences.append(
            Sentence(
                f"{len(pairs):,} pairs of features had one direction and have two at the end: {splits:,} splits, "
                f"{len(pairs) - splits:,} absorptions.",
                ("partings",),
            )
        )
    return sentences


def _turning(run: Run) -> list[Sentence]:
    rows = run.analysis("turning_point").drop_nulls("step")
    if len(rows) == 0:
        return [Sentence("There are too few snapshots to test for a turning point.", ("turning_point",))]
    said = []
    for row in rows.iter_rows(named=True):
        name = {"all": "on all snapshots", "thinned": "on every second", "independent": "started independently"}
        said.append(
            f"{name[row['variant']]} near step {row['step']:,} (between {row['step_after']:,} and "
            f"{row['step_before']:,}, p = {row['p_value']:.3f})"
        )
    verdict = (
        "How fast directions turn breaks from smooth drift:"
        if rows["p_value"][0] <= 0.05
        else "No break from smooth drift is seen in how fast directions turn; the likeliest places are:"
    )
    return [Sentence(f"{verdict} {'; '.join(said)}.", ("turning_point",))]


def _kinds(run: Run) -> Sentence:
    table, last = run.table("kinds"), run.table("induction_scores").sort("snapshot").row(-1, named=True)
    counts = [
        f"{count:,} {kind.replace('_', ' ')}" if (count := int((table["kind"] == kind).sum())) else f"no {kind}"
        for kind in ("induction", "previous_token", "context_sensitive", "token")
    ]
    return Sentence(
        f"By rule {', '.join(counts).replace('_', ' ')} features; the model itself finds the second copy of random "
        f"tokens {last['gain']:.2f} nat cheaper at the last snapshot ({last['gain_ci_low']:.2f} to "
        f"{last['gain_ci_high']:.2f}).",
        ("kinds", "induction_scores"),
    )


def _complexity(run: Run) -> list[Sentence]:
    """Whether what is born later is more complex, by a model's score where there is one."""
    table = run.table("complexity_births").filter(group="living")
    if not len(table):
        return []
    scored = table.filter(measure="score")
    row = (scored if len(scored) else table.filter(measure="words")).row(0, named=True)
    what = "score by a language model" if row["measure"] == "score" else "words that its leading tokens spread over"
    adjusted = (
        f"; adjusted for how often features are active {row['adjusted']:.2f} ({row['adjusted_ci_low']:.2f} to "
        f"{row['adjusted_ci_high']:.2f})"
        if row["adjusted"] is not None
        else ""
    )
    return [
        Sentence(
            f"A feature's complexity ({what}) and its birth correlate at {row['spearman']:.2f} (ranks, 95 % "
            f"{row['spearman_ci_low']:.2f} to {row['spearman_ci_high']:.2f}, {row['features']:,} features){adjusted}.",
            ("complexity_births",),
        )
        if row["spearman"] is not None
        else Sentence("All features are born at one snapshot: complexity has no birth to go with.", ("complexity",))
    ]


def _senses(run: Run) -> list[Sentence]:
    table = run.table("senses").drop_nulls("change_to_last")
    if len(table) < 2:
        return []
    first = table.row(0, named=True)
    low, high = first["change_to_last_ci_low"], first["change_to_last_ci_high"]
    change = "gain" if low > 0 else "lose" if high < 0 else "neither gain nor lose beyond doubt"
    return [
        Sentence(
            f"Tokens of several senses ({first['tokens']:,}) {change} sense entropy from step {first['step']:,} to the "
            f"last: {first['change_to_last']:+.2f} nat ({low:+.2f} to {high:+.2f}).",
            ("senses",),
        )
    ]


def _proxy(run: Run) -> list[Sentence]:
    table = run.table("proxy").filter(measure="auc")
    return [
        Sentence(
            f"Relative strength goes with what probes on single snapshots find at a rank correlation of "
            f"{row['spearman']:.2f} ({row['spearman_ci_low']:.2f} to {row['spearman_ci_high']:.2f}).",
            ("proxy",),
        )
        for row in table.iter_rows(named=True)
    ]


def _dimensions(run: Run) -> Sentence:
    table = run.table("dimensions").filter(alive_threshold=run.study.measure.alive_threshold).sort("snapshot")
    first, last = table.row(0, named=True), table.row(-1, named=True)
    return Sentence(
        f"The features alive at step {first['step']:,} fill {first['total']:.0%} of the stream's dimensions (random "
        f"directions: {first['random']:.0%}), those alive at step {last['step']:,} {last['total']:.0%} "
        f"({last['random']:.0%}).",
        ("dimensions",),
    )


def _formation(run: Run) -> Sentence:
    table = run.table("progress").sort("snapshot")
    first, last = table.row(0, named=True), table.row(-1, named=True)
    foretold = (
        f"; at step {first['step']:,} what tokens alone would give goes with it at a correlation of "
        f"{first['expected_correlation']:.2f} and a slope of {first['expected_slope']:.2f}"
        if first["expected_correlation"] is not None
        else ""
    )
    alike = [f"{step:,}" for step in run.table("similarity").filter("collapsed")["step"]]
    return Sentence(
        f"The mean progress of formation goes from {first['progress']:.3f} at step {first['step']:,} to "
        f"{last['progress']:.3f} at step {last['step']:,} ({last['features']:,} features){foretold}."
        + (
            f" All activations are alike at {'step' if len(alike) == 1 else 'steps'} {', '.join(alike)}."
            if alike
            else ""
        ),
        ("progress", "similarity"),
    )


def _patterns(run: Run) -> Sentence:
    patterns = run.table("patterns").filter(pl.col("features") > 0).sort("features", descending=True)
    ways = [f"{row['share']:.1%} {row['pattern'].replace('_', ' ')}" for row in patterns.iter_rows(named=True)]
    formed = run.table("formed").drop_nulls(["lag_low", "lag_high"])
    lag = (
        f" In {len(formed):,} features whose meaning and direction both settle after the first snapshot, the direction "
        f"settles {formed['lag_low'].median():.1f} to {formed['lag_high'].median():.1f} log-steps after the meaning "
        "(medians of both bounds)."
        if len(formed)
        else ""
    )
    return Sentence(f"By what their leading tokens are, features are {', '.join(ways)}.{lag}", ("patterns", "formed"))


def _tracking(run: Run) -> Sentence:
    drift, name = run.table("track_drift"), run.study.series.direction
    own, null = drift.filter(variant=name), drift.filter(variant="null")
    floor = f", {null['angle'].mean():.1f}° where nothing has changed" if len(null) else ""
    beyond = int((own["beyond_ci_low"] > 0).sum())
    links = f"; {beyond} of {len(own)} links turn more than that beyond doubt (95 %)" if len(null) else ""
    same = run.table("identity").filter(variant=name)["same"]
    gate = run.table("gate")
    failed = gate.filter(~pl.col("passed"))
    steps = ", ".join(f"{step:,}" for step in failed["step"])
    judged = ["dead features", "the loss recovered"]
    judged += ["the number of active features"] if run.study.sae_series.used_k is not None else []
    judged += ["cold SAEs' explained variance"] if gate["cold_explained_variance"].is_not_null().any() else []
    passes = f"By {', '.join(judged)}, {len(gate) - len(failed)} of {len(gate)} SAEs pass the gate"
    passes += f" (not step {steps})" if steps else ""
    return Sentence(
        f"{passes}. From one SAE to the next directions turn by {own['angle'].mean():.1f}° in the mean{floor}{links}. "
        f"In the worst link {same.min():.1%} of the features have themselves for nearest neighbour in the next SAE.",
        ("gate", "track_drift", "identity"),
    )


def _tasks(run: Run) -> list[Sentence]:
    """What the models can do, and how few features it hangs on."""
    table = run.table("tasks")
    last = table.filter(snapshot=len(run.steps) - 1)
    able = last.filter("learned").sort("accuracy", descending=True)
    said = [f"{row['task']} ({row['accuracy']:.0%})" for row in able.iter_rows(named=True)]
    sentences = [
        Sentence(
            f"At the last snapshot {len(able)} of {len(last)} tasks are learned beyond doubt"
            + (f": {', '.join(said)}." if said else "."),
            ("tasks",),
        )
    ]
    half = run.table("half_margin").filter(snapshot=len(run.steps) - 1).drop_nulls("features")
    if len(half):
        counts = ", ".join(f"{row['features']:,} for {row['task']}" for row in half.iter_rows(named=True))
        sentences.append(
            Sentence(
                "Features that, ranked on half of the items, carry half of the margin on the other half: "
                f"{counts}; {half['active'].min():,} to {half['active'].max():,} are active at all.",
                ("half_margin", "ablation"),
            )
        )
    known = run.table("prediction").filter(snapshot=len(run.steps) - 1).drop_nulls("spearman")
    if len(known):
        sentences.append(
            Sentence(
                f"Predicted effects order the exact ones at a rank correlation of {known['spearman'].min():.2f} to "
                f"{known['spearman'].max():.2f}.",
                ("prediction",),
            )
        )
    return sentences


def _checks(run: Run) -> list[Sentence]:
    """What further seeds, nulls and plants say of all this."""
    sentences = []
    stability, seeds = run.table("stability"), run.table("stability")["seed"].n_unique()
    loose, strict = (stability.filter(pl.col("cosine") == level) for level in sorted(set(stability["cosine"])))
    births = loose["emergent_same"].drop_nulls()
    text = (
        f"Trained again with {seeds} other seed{'s' if seeds > 1 else ''}, {loose['matched'].mean():.0%} of the "
        f"features have a counterpart at a cosine of {loose['cosine'][0]:g} and {strict['matched'].mean():.0%} at "
        f"{strict['cosine'][0]:g}"
    )
    if len(births):
        text += f"; of the emergent ones among the former {births.mean():.0%} are born at the same snapshot"
    sentences.append(Sentence(f"{text}.", ("stability",)))
    null = {row["null"]: row for row in run.table("nulls").iter_rows(named=True)}
    still, shuffled, own = (null[name] for name in ("no change", "shuffled rows", "study"))
    sentences.append(
        Sentence(
            f"On activations that never change the same training finds {still['births']:,} births among "
            f"{still['features']:,} features, and {still['equal_share']:.0%} keep their strength within 5 %. With rows "
            f"shuffled {shuffled['specific_share']:.0%} of the features live at a single snapshot, in the study "
            f"{own['specific_share']:.0%}.",
            ("nulls",),
        )
    )
    found = run.table("recovery").filter(pl.col("frequency_part").is_null())
    everything = found.filter(pl.col("birth_step").is_null()).row(0, named=True)
    last = found.drop_nulls("birth_step").sort("birth_step").row(-1, named=True)
    sentences.append(
        Sentence(
            f"Of {everything['features']:,} features planted in the likeness of these {everything['recovered']:.0%} "
            f"are recovered, {everything['births_exact']:.0%} of those with the right birth; of the "
            f"{last['features']:,} born last, at step {last['birth_step']:,}, {last['recovered']:.0%}.",
            ("recovery",),
        )
    )
    emergent = run.table("trust").filter("emergent")
    if len(emergent):
        counts = ", ".join(
            f"{int((emergent['level'] == level).sum()):,} {level}" for level in ("high", "medium", "low")
        )
        confirmed = emergent["confirmed"].drop_nulls()
        sentences.append(
            Sentence(
                f"Trust in the emergent features: {counts}. Of {len(confirmed):,} births that could "
                f"be probed {int(confirmed.sum()):,} are seen from their own snapshot alone.",
                ("trust",),
            )
        )
    return sentences
