"""How features form, and whether a series can be followed."""

import polars as pl

from ontogeny.report.sentences.sentence import Sentence
from ontogeny.run import Run

LOST = 0.5
"""Share of the features that keep their meaning over a link, under which births there tell of the series."""


def formation(run: Run) -> Sentence:
    table = run.table("progress").sort("snapshot")
    first, last = table.row(0, named=True), table.row(-1, named=True)
    foretold = (
        f"; at step {first['step']:,} what tokens alone would give goes with it at a correlation of "
        f"{first['expected_correlation']:.2f} and a slope of {first['expected_slope']:.2f}"
        if first["expected_correlation"] is not None
        else ""
    )
    tokens = dict(run.table("similarity").select("step", "between_tokens").iter_rows())
    pairs = [
        f"{row['same_token']:.2f} at step {row['step']:,}"
        f" (two tokens of a feature's examples by {row['other_tokens']:.2f}, random ones by {tokens[row['step']]:.2f})"
        for row in (first, last)
        if row["same_token"] is not None and row["other_tokens"] is not None
    ]
    if pairs:
        foretold += (
            f". Tokens alone would make two contexts of one token the same; they are alike by {', '.join(pairs)}"
        )
    similarity = run.table("similarity").sort("snapshot")
    alike, others = similarity.filter("collapsed"), similarity.filter(~pl.col("collapsed"))
    steps = ", ".join(f"{step:,}" for step in alike["step"])
    elsewhere = f", elsewhere at most {others['random'].max():.2f}" if len(others) else ""
    return Sentence(
        f"The mean progress of formation goes from {first['progress']:.3f} at step {first['step']:,} to "
        f"{last['progress']:.3f} at step {last['step']:,} ({last['features']:,} features){foretold}."
        + (
            f" At {'step' if len(alike) == 1 else 'steps'} {steps} random tokens become alike (mean cosine up to "
            f"{alike['random'].max():.2f}{elsewhere}), and progress says little."
            if len(alike)
            else ""
        ),
        ("progress", "similarity"),
    )


def patterns(run: Run) -> Sentence:
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


def tracking(run: Run) -> Sentence:
    drift, name = run.table("track_drift"), run.study.series.direction
    own, null = drift.filter(variant=name), drift.filter(variant="null")
    floor = f", {null['angle'].mean():.1f}° where nothing has changed" if len(null) else ""
    beyond = int((own["beyond_ci_low"] > 0).sum())
    links = f"; {beyond} of {len(own)} links turn more than that beyond doubt (95 %)" if len(null) else ""
    carried = run.table("gaps").drop_nulls("carried").sort("carried")
    worst = carried.row(0, named=True)
    kept = (
        f"{carried['carried'].median():.0%} of the indices stand for the same feature at both ends of the median link, "
        f"{worst['carried']:.0%} from step {worst['step_a']:,} to {worst['step_b']:,}"
        + (": what is born there may have been in the model before" if worst["carried"] < LOST else "")
    )
    same = run.table("identity").filter(variant=name)["same"]
    gate = run.table("gate")
    failed = gate.filter(~pl.col("passed"))
    steps = ", ".join(f"{step:,}" for step in failed["step"])
    judged = ["dead features", "the loss recovered"]
    judged += ["the number of active features"] if run.study.sae_series.used_k is not None else []
    judged += ["cold SAEs' explained variance"] if gate["cold_explained_variance"].is_not_null().any() else []
    passes = f"By {', '.join(judged)}, {len(gate) - len(failed)} of {len(gate)} SAEs pass the gate"
    passes += f" (not step{'s' if len(failed) > 1 else ''} {steps})" if steps else ""
    return Sentence(
        f"{passes}. From one SAE to the next directions turn by {own['angle'].mean():.1f}° in the mean{floor}{links}. "
        f"In the worst link {same.min():.1%} of the features have themselves for nearest neighbour in the next SAE; "
        f"{kept}.",
        ("gate", "track_drift", "identity", "gaps"),
    )
