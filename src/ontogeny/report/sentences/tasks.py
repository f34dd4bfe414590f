"""What the models can do, and how few features it hangs on."""

from ontogeny.report.sentences.sentence import Sentence
from ontogeny.run import Run


def tasks(run: Run) -> list[Sentence]:
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
