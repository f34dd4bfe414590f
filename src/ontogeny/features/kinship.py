"""Which feature another one came from: the nearest of those that were there before, or one that was the same."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FEATURES_AT_ONCE = 256
THERE = 0.1
"""Share of its greatest strength from which on a feature can be a parent: weaker than alive, but not absent."""
FADED = 0.5
"""A parent fades where its strength falls by this factor more, from the birth to the end, than the median feature's."""
SAME, OTHER = 0.9, 0.7
"""Cosine from which on two directions are one, and below which they are two."""
KEPT, LOST = 0.75, 0.15
"""A token keeps a feature's direction where this share of it is left; a feature from which more than this share of its
tokens is lost was absorbed, not split."""


@dataclass(frozen=True)
class Kin:
    """The nearest earlier feature of one that is born.

    Attributes:
        feature: the one that is born.
        snapshot: the snapshot of its birth.
        parent: the feature of greatest kinship among those born before and there at the birth or just before.
        cosine: of the two decoder directions at the birth; the parent's just before it where it is gone by then.
        code_correlation: Pearson, of the two codes.
        kinship: mean of the cosine, whatever its sign, and the code correlation.
        lost: share of the parent's tokens from which its direction goes with the birth.
        label: `novel` where kinship is small; else `handover` where the parent fades, `absorption` where it loses many
            of its tokens, `split` where it does not.
    """

    feature: int
    snapshot: int
    parent: int
    cosine: float
    code_correlation: float
    kinship: float
    lost: float
    label: str


def kin_of_births(
    W_dec: Tensor, codes: Tensor, *, tokens: int, relative: np.ndarray, birth: np.ndarray, kin_threshold: float
) -> Iterator[Kin]:
    """The nearest earlier feature of every feature born after the first snapshot, where there is an earlier one.

    Args:
        W_dec: decoder rows [snapshot, feature, d_model].
        codes: sparse [feature, token].
        tokens: number of tokens, those without any code among them.
        relative: strength as a share of the greatest, 0 for dead features [snapshot, feature].
        birth: snapshot of each birth, -1 for features that are never born [feature].
        kin_threshold: kinship below which a feature is `novel`.
    """
    directions = W_dec / W_dec.norm(dim=2, keepdim=True).clamp_min(1e-12)
    for snapshot in range(1, len(directions)):
        here, before = relative[snapshot] >= THERE, relative[snapshot - 1] >= THERE
        earlier = np.flatnonzero((here | before) & (birth >= 0) & (birth < snapshot))
        born = np.flatnonzero(birth == snapshot)
        if len(earlier) == 0 or len(born) == 0:
            continue
        lasting = relative[-1] / np.maximum(relative[snapshot - 1], 1e-12)
        fades = lasting < FADED * _usual(relative, snapshot - 1, -1)
        unit = torch.where(torch.from_numpy(here)[:, None], *directions[[snapshot, snapshot - 1]]).numpy()
        for first in range(0, len(born), FEATURES_AT_ONCE):
            block = born[first : first + FEATURES_AT_ONCE]
            cosine = unit[block] @ unit[earlier].T
            correlation = code_correlations(codes, block, tokens=tokens)[:, earlier]
            kinship = (np.abs(cosine) + correlation) / 2
            for row, place in enumerate(kinship.argmax(1)):
                feature, parent = int(block[row]), int(earlier[place])
                lost = lost_share(W_dec, codes, parent, feature, snapshot - 1, snapshot, relative=relative)
                label = "handover" if fades[parent] else "absorption" if lost >= LOST else "split"
                yield Kin(
                    feature=feature,
                    snapshot=snapshot,
                    parent=parent,
                    cosine=float(cosine[row, place]),
                    code_correlation=float(correlation[row, place]),
                    kinship=float(kinship[row, place]),
                    lost=lost,
                    label="novel" if kinship[row, place] < kin_threshold else label,
                )


@dataclass(frozen=True)
class Parting:
    """Two features that were one and became two.

    Attributes:
        feature: the one whose direction turned more.
        other: the one whose direction turned less.
        snapshot: the first at which they have parted.
        cosine_before, cosine_last: of their directions just before and at the last snapshot.
        lost: share of their tokens from which the direction that they had in common goes.
        label: `absorption` where it goes from many, else `split`.
    """

    feature: int
    other: int
    snapshot: int
    cosine_before: float
    cosine_last: float
    lost: float
    label: str


def partings(W_dec: Tensor, codes: Tensor, *, relative: np.ndarray) -> Iterator[Parting]:
    """Pairs of features that had one direction wherever both were there, and have two at the last snapshot.

    Where a feature splits, a dictionary often has both parts from the start, each active on its own tokens.

    Args:
        W_dec: decoder rows [snapshot, feature, d_model].
        codes: sparse [feature, token].
        relative: strength as a share of the greatest, 0 for dead features [snapshot, feature].
    """
    n, n_features, _ = W_dec.shape
    unit = W_dec / W_dec.norm(dim=2, keepdim=True).clamp_min(1e-12)
    there = torch.from_numpy(relative >= THERE)
    to_last = torch.einsum("sfd,fd->sf", unit, unit[-1])
    for first in range(0, n_features, FEATURES_AT_ONCE):
        block = slice(first, first + FEATURES_AT_ONCE)
        last = unit[-1, block] @ unit[-1].T
        later = torch.arange(n_features) > torch.arange(n_features)[block, None]
        candidates = later & (last < OTHER) & there[-1, block, None] & there[-1]
        shared, before = torch.zeros_like(candidates), last
        for snapshot in range(n):
            both = there[snapshot, block, None] & there[snapshot]
            cosine = unit[snapshot, block] @ unit[snapshot].T
            apart = both & (cosine < SAME)
            for row, column in (apart & shared & candidates).nonzero().tolist():
                pair = (first + row, column)
                feature, other = pair if to_last[snapshot - 1, pair[0]] < to_last[snapshot - 1, column] else pair[::-1]
                two = ((unit[:, feature] * unit[:, other]).sum(1) < OTHER).tolist()
                lost = lost_share(
                    W_dec, codes, other, feature, snapshot - 1, two.index(True, snapshot), relative=relative
                )
                cosines = float(before[row, column]), float(last[row, column])
                yield Parting(feature, other, snapshot, *cosines, lost, "absorption" if lost >= LOST else "split")
            candidates &= ~apart
            shared |= both
            before = cosine


def lost_share(
    W_dec: Tensor, codes: Tensor, older: int, younger: int, before: int, after: int, *, relative: np.ndarray
) -> float:
    """Share of the tokens of two features from which the older one's direction goes between two snapshots.

    The direction is the older one's at `before`. On each token both codes are summed along it, as decoded at either
    snapshot; it is gone where less than `KEPT` is left of it, the median feature's strength being the measure.

    Args:
        codes: sparse [feature, token].
        relative: strength as a share of the greatest [snapshot, feature].
    """
    pair = [older, younger]
    code = torch.stack([codes[feature].to_dense() for feature in pair], dim=1)
    direction = W_dec[before, older] / W_dec[before, older].norm()
    was, has = (code @ (W_dec[snapshot, pair] @ direction) for snapshot in (before, after))
    said = was > 0
    kept = has[said] >= KEPT * _usual(relative, before, after) * was[said]
    return float(1 - kept.float().mean()) if len(kept) else float("nan")


def _usual(relative: np.ndarray, before: int, after: int) -> float:
    """By what factor the median feature's strength changes from one snapshot to another."""
    there = relative[before] >= THERE
    return float(np.median(relative[after, there] / relative[before, there])) if there.any() else 1.0


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
