"""When features are born, how they turn, how much room they have."""

from collections.abc import Iterable

import polars as pl

from ontogeny.analyses.lineage import LABELS
from ontogeny.report.sentences.sentence import Sentence
from ontogeny.run import Run


def births(run: Run) -> Sentence:
    living = run.features.filter(~pl.col("dead"))
    emergent = living.filter(pl.col("origin") == "emergent")
    fates = {row["fate"]: row["len"] for row in emergent.group_by("fate").len().iter_rows(named=True)}
    kinds = ", ".join(f"{fates[fate]:,} {fate}" for fate in ("persistent", "transient", "censored") if fate in fates)
    text = f"Of {len(living):,} living features {len(living) - len(emergent):,} are there at step {run.steps[0]:,} and "
    text += f"{len(emergent):,} emerge{'s' if len(emergent) == 1 else ''} later"
    if len(emergent):
        text += f" ({kinds}), half of them by step {middle(emergent['birth_step']):,}"
        if (widths := emergent["rise_width"].drop_nulls()).len():
            text += f"; a rise from 10 % to 90 % of full strength takes {widths.median():.1f} log-steps in the median"
            text += "" if len(widths) == len(emergent) else f" of the {len(widths):,} that were below 10 % before"
    moved = int((living["birth_step"] != living["birth_step_rescaled"]).sum())
    other = "robust" if run.study.train.normalisation == "mean" else "mean"
    return Sentence(
        f"{text}. Under {other} normalisation {moved:,} of the {len(living):,} would be born elsewhere.", ("features",)
    )


def middle(steps: Iterable[int]) -> int:
    """The first step by which half of the values have come."""
    ordered = sorted(steps)
    return ordered[(len(ordered) - 1) // 2]


def sensitivity(run: Run) -> list[Sentence]:
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
                f"{_counted(len(pairs), 'pair')} of features had one direction and "
                f"{'has' if len(pairs) == 1 else 'have'} two at the end: {_counted(splits, 'split')}, "
                f"{_counted(len(pairs) - splits, 'absorption')}.",
                ("partings",),
            )
        )
    return sentences


def turning(run: Run) -> list[Sentence]:
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


def dimensions(run: Run) -> Sentence:
    table = run.table("dimensions").filter(alive_threshold=run.study.measure.alive_threshold).sort("snapshot")
    first, last = table.row(0, named=True), table.row(-1, named=True)
    return Sentence(
        f"The features alive at step {first['step']:,} fill {first['total']:.0%} of the stream's dimensions (random "
        f"directions: {first['random']:.0%}), those alive at step {last['step']:,} {last['total']:.0%} "
        f"({last['random']:.0%}).",
        ("dimensions",),
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
