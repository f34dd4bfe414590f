"""Where emergent features come from: for each birth the nearest feature that was there before."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.run import Run
from ontogeny.tables import TABLES

if TYPE_CHECKING:
    from torch import Tensor

FEATURES_AT_ONCE = 256


def lineage(run: Run) -> pl.DataFrame:
    """The table `lineage`: each emergent feature's nearest earlier one, and whether it is new, split off or took over.

    Kinship is the mean of two likenesses: the cosine of the decoder directions at the snapshot of birth, and the
    correlation of the codes over the sampled held-out tokens. The parent is the feature of greatest kinship among those
    born before and alive at the birth.
    """
    features = run.features.sort("feature")
    steps, settings = run.steps, run.study.analysis
    relative = run.matrix("strength_relative")
    alive = (relative >= run.study.measure.alive_threshold) & ~features["dead"].to_numpy()
    birth = np.array([-1 if step is None else steps.index(step) for step in features["birth_step"]])
    directions = run.dictionary().W_dec.numpy()
    codes, tokens = _codes(run)
    rows = []
    for snapshot in range(1, len(steps)):
        earlier = np.flatnonzero(alive[snapshot] & (birth >= 0) & (birth < snapshot))
        born = np.flatnonzero(birth == snapshot)
        if len(earlier) == 0:
            continue
        unit = directions[snapshot] / np.maximum(np.linalg.norm(directions[snapshot], axis=1, keepdims=True), 1e-12)
        for first in range(0, len(born), FEATURES_AT_ONCE):
            block = born[first : first + FEATURES_AT_ONCE]
            cosine = unit[block] @ unit[earlier].T
            correlation = code_correlations(codes, block, tokens=tokens)[:, earlier]
            kinship = (cosine + correlation) / 2
            for row, place in enumerate(kinship.argmax(1)):
                parent, kin = int(earlier[place]), float(kinship[row, place])
                kind = "split" if alive[-1, parent] else "handover"
                rows.append(
                    {
                        "feature": int(block[row]),
                        "birth_step": steps[snapshot],
                        "parent": parent,
                        "cosine": float(cosine[row, place]),
                        "code_correlation": float(correlation[row, place]),
                        "kinship": kin,
                        "label": "novel" if kin < settings.kin_threshold else kind,
                    }
                )
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


def code_correlations(codes: "Tensor", block: np.ndarray, *, tokens: int) -> np.ndarray:
    """Pearson correlation of the codes of some features with those of all [block, feature]; 0 for constant ones.

    Args:
        codes: sparse [feature, token].
        block: the features to correlate.
        tokens: number of tokens, those without any code among them.
    """
    import torch

    dense = torch.stack([codes[int(feature)].to_dense() for feature in block], dim=1).double()
    codes = codes.double()
    mean, square = (
        torch.sparse.sum(codes, 1).to_dense() / tokens,
        torch.sparse.sum(codes * codes, 1).to_dense() / tokens,
    )
    spread = (square - mean.square()).clamp_min(0).sqrt()
    chosen = torch.from_numpy(block)
    covariance = (codes @ dense).T / tokens - mean[chosen, None] * mean
    scale = spread[chosen, None] * spread
    return torch.where(scale > 0, covariance / scale, 0.0).numpy()
