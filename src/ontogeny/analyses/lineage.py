"""Where emergent features come from: for each birth the nearest feature that was there before."""

import numpy as np
import polars as pl

from ontogeny.run import Run
from ontogeny.tables import TABLES


def lineage(run: Run) -> pl.DataFrame:
    """The table `lineage`: each emergent feature's nearest earlier one, and whether it is new, split off or took over.

    Kinship is the mean of two likenesses: the cosine of the decoder directions at the snapshot of birth, and the
    correlation of the codes over the sampled held-out tokens. The parent is the feature of greatest kinship among those
    born before and alive at the birth or just before; one that is gone at the birth is taken as it was just before.
    """
    from ontogeny.features.codes import stored_codes
    from ontogeny.features.kinship import kin_of_births

    features, steps = run.features.sort("feature"), run.steps
    relative = run.matrix("strength_relative")
    stored = stored_codes(run)
    kin = kin_of_births(
        run.dictionary().W_dec,
        stored.codes,
        tokens=stored.tokens,
        alive=(relative >= run.study.measure.alive_threshold) & ~features["dead"].to_numpy(),
        birth=np.array([-1 if step is None else steps.index(step) for step in features["birth_step"]]),
        kin_threshold=run.study.analysis.kin_threshold,
    )
    rows = [
        {
            "feature": one.feature,
            "birth_step": steps[one.snapshot],
            "parent": one.parent,
            "cosine": one.cosine,
            "code_correlation": one.code_correlation,
            "kinship": one.kinship,
            "label": one.label,
        }
        for one in kin
    ]
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in TABLES["lineage"].items()}).sort("feature")
