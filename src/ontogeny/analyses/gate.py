"""Which SAEs of a series are good enough to be read: the quality gate of SAE-Track's chain, snapshot by snapshot."""

import polars as pl

from ontogeny.run import Run
from ontogeny.tables import from_rows

MOST_DEAD, BELOW_COLD, OFF_L0, LEAST_RECOVERED = 0.1, 0.02, 0.1, 0.9
"""Share of dead features, explained variance below that of an SAE trained from the start, share by which the number of
active features is off, and share of the loss recovered, up to and from which an SAE passes."""


def gate(run: Run) -> pl.DataFrame:
    """The table `gate`: what each SAE of the series took, and whether it passes.

    An SAE trained from the start is held beside it where the study asks for `single_saes`.
    """
    from ontogeny.dictionaries.track import rounds_taken

    settings, rows = run.study.sae_series, []
    cold = (
        dict(run.table("single_saes").select("snapshot", "sae_explained_variance").iter_rows())
        if "single_saes" in run.study.analyses
        else {}
    )
    taken = rounds_taken(run.folder / "series", len(run.steps))
    for row in run.table("quality").sort("snapshot").iter_rows(named=True):
        place, rounds = row["snapshot"], taken[row["snapshot"]]
        steps = rounds * settings.steps_of(settings.gap_of(place, len(run.steps)))
        found = {
            "dead": row["dead_share"] > MOST_DEAD,
            "variance": place in cold and row["explained_variance"] < cold[place] - BELOW_COLD,
            "active features": settings.used_k is not None and abs(row["l0"] / settings.used_k - 1) > OFF_L0,
            "loss": row["loss_recovered"] is not None and row["loss_recovered"] < LEAST_RECOVERED,
        }
        failed = [name for name, fails in found.items() if fails]
        rows.append(
            {
                **{name: row[name] for name in ("snapshot", "step", "explained_variance", "l0", "dead_share")},
                "loss_recovered": row["loss_recovered"],
                "rounds": rounds,
                "tokens": steps * run.study.train.batch_size,
                "cold_explained_variance": cold.get(place),
                "passed": not failed,
                "failed": ", ".join(failed) or None,
            }
        )
    return from_rows("gate", rows)
