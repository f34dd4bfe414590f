"""The dictionary beside SAEs of single snapshots: what sharing features over pre-training costs in reconstruction."""

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of
from ontogeny.tables import from_rows


def single_saes(run: Run) -> pl.DataFrame:
    """The table `single_saes`: at some snapshots, the dictionary beside an SAE trained on that snapshot alone.

    The SAE is the same learner on one snapshot: BatchTopK with the number of active features that the dictionary has
    there, as many features, the same tokens in the same order. Both are measured on the same held-out tokens. Features
    are matched one to one by their directions at that snapshot.
    """
    from ontogeny.activations.harvest import harvester_of
    from ontogeny.dictionaries.variants import batch_topk
    from ontogeny.features.agreement import LEVELS
    from ontogeny.features.matching import match_rows
    from ontogeny.features.quality import reconstruct_held_out

    suite, held_out, settings = suite_of(run), Corpus(run.corpus_folder / "held_out"), run.study.measure
    dictionary, quality = run.dictionary(), run.table("quality").sort("snapshot")
    alive = run.matrix("strength_relative") >= settings.alive_threshold
    rows = []
    for snapshot in compared_places(run):
        one = suite.only([snapshot])
        k = max(1, round(quality["l0"][snapshot]))
        sae = batch_topk(run, f"sae-step{one.steps[0]}", k=k, snapshot=snapshot)
        harvester = harvester_of(run, suite=one)
        measured = reconstruct_held_out(sae.to(harvester.device), harvester, held_out, settings)
        match = match_rows(
            dictionary.W_dec[snapshot],
            sae.W_dec[0].cpu(),
            living=np.flatnonzero(alive[snapshot]),
            living_other=np.flatnonzero(measured.fired.cpu().numpy()),
        )
        rows.append(
            {
                "snapshot": snapshot,
                "step": one.steps[0],
                "k": k,
                "explained_variance": quality["explained_variance"][snapshot],
                "sae_explained_variance": float(measured.explained_variance[0]),
                "l0": quality["l0"][snapshot],
                "sae_l0": float(measured.l0[0]),
                "features": int(alive[snapshot].sum()),
                **{
                    f"matched_{level:g}": (match.cosine >= level).sum() / max(alive[snapshot].sum(), 1)
                    for level in LEVELS
                },
                "silent_share": quality["silent_share"][snapshot],
                "sae_silent_share": measured.silent_share,
            }
        )
    return from_rows("single_saes", rows)


def compared_places(run: Run) -> list[int]:
    """Indices of the snapshots to compare at: the first, the middle and the last, unless the study says otherwise."""
    wanted = run.study.analysis.single_sae_steps
    last = len(run.steps) - 1
    return sorted({0, (last + 1) // 2, last} if wanted is None else {run.steps.index(step) for step in wanted})
