"""What features are about."""

import polars as pl

from ontogeny.report.sentences.sentence import Sentence
from ontogeny.run import Run


def kinds(run: Run) -> Sentence:
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


def complexity(run: Run) -> list[Sentence]:
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


def descriptions(run: Run) -> list[Sentence]:
    """How good descriptions are, and whether they still fit earlier snapshots."""
    described = len(run.table("descriptions").drop_nulls("description"))
    if not described:
        return []
    table = run.table("detection")
    whole = table.filter(by="code") if (table["by"] == "code").any() else table.filter(snapshot=len(run.steps) - 1)
    told = (
        f"A language model described {described:,} features; its descriptions tell excerpts on which they are active "
        f"from others with a balanced accuracy of {whole['accuracy'].mean():.2f} (chance: .50)"
    )
    said = [told]
    first = run.table("detection_snapshots").filter(pl.col("alive")).sort("snapshot").head(1)
    for row in first.iter_rows(named=True):
        low, high = row["accuracy_ci_low"], row["accuracy_ci_high"]
        told = f"on the examples of step {row['step']:,} of those alive there {row['accuracy']:.2f}"
        said.append(told if low is None else f"{told} ({low:.2f} to {high:.2f})")
    return [Sentence("; ".join(said) + ".", ("descriptions", "detection", "detection_snapshots"))]


def senses(run: Run) -> list[Sentence]:
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


def proxy(run: Run) -> list[Sentence]:
    table = run.table("proxy").filter(measure="auc")
    return [
        Sentence(
            f"Relative strength goes with what probes on single snapshots find at a rank correlation of "
            f"{row['spearman']:.2f} ({row['spearman_ci_low']:.2f} to {row['spearman_ci_high']:.2f}).",
            ("proxy",),
        )
        for row in table.iter_rows(named=True)
    ]
