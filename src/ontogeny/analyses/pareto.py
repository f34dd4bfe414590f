"""Sparsity against reconstruction: crosscoders of several sizes beside SAEs of single snapshots, on the same tokens.

Source: arXiv 2509.17196, where a crosscoder is held against SAEs of single snapshots.
"""

from itertools import product

import polars as pl

from ontogeny.analyses.single_saes import compared_places
from ontogeny.corpus.pack import Corpus
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of
from ontogeny.tables import from_rows


def pareto(run: Run) -> pl.DataFrame:
    """The table `pareto`: a row per dictionary and compared snapshot.

    All are BatchTopK, trained as the run's own but for their features, k and tokens; each is kept once it is trained.
    Those of one size are measured together, so that the models read the held-out tokens once for all of them.
    """
    from ontogeny.activations.harvest import harvester_of
    from ontogeny.dictionaries.variants import batch_topk
    from ontogeny.features.quality import reconstruct_together

    suite, held_out, (sizes, ks, steps) = suite_of(run), Corpus(run.corpus_folder / "held_out"), run.study.pareto
    places, rows = compared_places(run), []
    whole, alone = harvester_of(run), {place: harvester_of(run, suite=suite.only([place])) for place in places}
    for features, snapshot in product(sizes, [None, *places]):
        harvester = whole if snapshot is None else alone[snapshot]
        at = "" if snapshot is None else f"-step{run.steps[snapshot]}"
        trained = [
            batch_topk(run, f"pareto-{features}-{k}{at}", k=k, snapshot=snapshot, n_features=features, steps=steps)
            for k in ks
        ]
        together = [each.to(harvester.device) for each in trained]
        measured = reconstruct_together(together, harvester, held_out, run.study.measure)
        for (k, found), place in product(zip(ks, measured, strict=True), places if snapshot is None else [snapshot]):
            own = place if snapshot is None else 0
            rows.append(
                {
                    "kind": "crosscoder" if snapshot is None else "sae",
                    "features": features,
                    "k": k,
                    "snapshot": place,
                    "step": run.steps[place],
                    "tokens": steps * run.study.train.batch_size,
                    "l0": float(found.l0[own]),
                    "explained_variance": float(found.explained_variance[own]),
                    "silent_share": found.silent_share,
                }
            )
    return from_rows("pareto", rows)
