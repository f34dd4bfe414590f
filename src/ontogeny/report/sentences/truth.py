"""How far it can be trusted: what further seeds, nulls and plants say, and what the training text alone shows."""

import polars as pl

from ontogeny.report.sentences.sentence import Sentence
from ontogeny.run import Run


def memorisation(run: Run) -> list[Sentence]:
    """Whether the last snapshot shows features more strongly on the text that it was trained on."""
    return [
        Sentence(
            f"The last snapshot shows features on training text by {row['gap']:+.1%} of their greatest strength more "
            f"than on held-out text ({row['gap_ci_low']:+.1%} to {row['gap_ci_high']:+.1%}, mean of "
            f"{row['features']:,}); {row['stronger']:,} are beyond chance stronger and {row['weaker']:,} weaker there "
            f"({row['at_random']:,} with documents dealt at random).",
            ("memorisation_snapshots",),
        )
        for row in run.table("memorisation_snapshots").sort("snapshot").tail(1).iter_rows(named=True)
        if row["gap"] is not None
    ]


def checks(run: Run) -> list[Sentence]:
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
    if len(shares := loose["emergent_matched"].drop_nulls()):
        text += f", of the emergent ones {shares.mean():.0%} and {strict['emergent_matched'].mean():.0%}"
    if len(births):
        text += f"; of those emergent and matched {births.mean():.0%} are born at the same snapshot"
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
    exact = everything["births_exact"]
    exact = "" if exact is None else f", {exact:.0%} of those with the right birth"
    sentences.append(
        Sentence(
            f"Of {everything['features']:,} features planted in the likeness of these {everything['recovered']:.0%} "
            f"are recovered{exact}; of the "
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
