"""Which feature another one came from: the nearest of those that were there before."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FEATURES_AT_ONCE = 256


@dataclass(frozen=True)
class Kin:
    """The nearest earlier feature of one that is born.

    Attributes:
        feature: the one that is born.
        snapshot: the snapshot of its birth.
        parent: the feature of greatest kinship among those born before and alive at the birth or just before.
        cosine: of the two decoder directions at the birth; the parent's just before it where it is gone by then.
        code_correlation: Pearson, of the two codes.
        label: `novel` where kinship, the mean of the two, is small; else `split` where the parent is alive at the last
            snapshot, `handover` where it is not.
    """

    feature: int
    snapshot: int
    parent: int
    cosine: float
    code_correlation: float
    label: str

    @property
    def kinship(self) -> float:
        """Mean of cosine and code correlation."""
        return (self.cosine + self.code_correlation) / 2


def kin_of_births(
    W_dec: Tensor, codes: Tensor, *, tokens: int, alive: np.ndarray, birth: np.ndarray, kin_threshold: float
) -> Iterator[Kin]:
    """The nearest earlier feature of every feature born after the first snapshot, where there is an earlier one.

    Args:
        W_dec: decoder rows [snapshot, feature, d_model].
        codes: sparse [feature, token].
        tokens: number of tokens, those without any code among them.
        alive: [snapshot, feature].
        birth: snapshot of each birth, -1 for features that are never born [feature].
        kin_threshold: kinship below which a feature is `novel`.
    """
    directions = W_dec / W_dec.norm(dim=2, keepdim=True).clamp_min(1e-12)
    for snapshot in range(1, len(directions)):
        here, before = alive[snapshot], alive[snapshot - 1]
        earlier = np.flatnonzero((here | before) & (birth >= 0) & (birth < snapshot))
        born = np.flatnonzero(birth == snapshot)
        if len(earlier) == 0 or len(born) == 0:
            continue
        unit = torch.where(torch.from_numpy(here)[:, None], *directions[[snapshot, snapshot - 1]]).numpy()
        for first in range(0, len(born), FEATURES_AT_ONCE):
            block = born[first : first + FEATURES_AT_ONCE]
            cosine = unit[block] @ unit[earlier].T
            correlation = code_correlations(codes, block, tokens=tokens)[:, earlier]
            kinship = (cosine + correlation) / 2
            for row, place in enumerate(kinship.argmax(1)):
                parent = int(earlier[place])
                kind = "split" if alive[-1, parent] else "handover"
                yield Kin(
                    feature=int(block[row]),
                    snapshot=snapshot,
                    parent=parent,
                    cosine=float(cosine[row, place]),
                    code_correlation=float(correlation[row, place]),
                    label="novel" if kinship[row, place] < kin_threshold else kind,
                )


def code_correlations(codes: Tensor, block: np.ndarray, *, tokens: int) -> np.ndarray:
    """Pearson correlation of the codes of some features with those of all [block, feature]; 0 for constant ones.

    Args:
        codes: sparse [feature, token].
        block: the features to correlate.
        tokens: number of tokens, those without any code among them.
    """
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
