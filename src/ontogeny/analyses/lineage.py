"""Where emergent features come from: for each birth the nearest feature that was there before."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.run import Run
from ontogeny.tables import TABLES

if TYPE_CHECKING:
    from torch import Tensor


def lineage(run: Run) -> pl.DataFrame:
    """The table `lineage`: each emergent feature's nearest earlier one, and whether it is new, split off or took over.

    Kinship is the mean of two likenesses: the cosine of the decoder directions at the snapshot of birth, and the
    correlation of the codes over the sampled held-out tokens. The parent is the feature of greatest kinship among those
    born before and alive at the birth.
    """
    from ontogeny.features.kinship import kin_of_births

    features, steps = run.features.sort("feature"), run.steps
    relative = run.matrix("strength_relative")
    codes, tokens = _codes(run)
    kin = kin_of_births(
        run.dictionary().W_dec,
        codes,
        tokens=tokens,
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


def _codes(run: Run) -> "tuple[Tensor, int]":
    """The sampled codes as a sparse matrix [feature, token], and the number of tokens sampled."""
    import torch

    table, lengths = run.table("codes"), Corpus(run.corpus_folder / "held_out").lengths
    key = table["sequence"].cast(pl.Int64) * (int(lengths.max()) + 1) + table["position"]
    token = key.rank("dense").to_numpy().astype(np.int64) - 1
    tokens = int((lengths[table["sequence"].unique().to_numpy()].astype(np.int64) - 1).sum())
    places = torch.from_numpy(np.stack([table["feature"].to_numpy().astype(np.int64), token]))
    size = (len(run.features), tokens)
    values = torch.from_numpy(table["code"].to_numpy().copy())
    return torch.sparse_coo_tensor(places, values, size, check_invariants=True).coalesce(), tokens
