"""Which feature another one came from: the nearest of those that were there before, or one that was the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FEATURES_AT_ONCE = 256
CodesAt = Callable[[int], Tensor]
"""Sparse codes [feature, token] at a snapshot, of the same tokens at all; the same at all where they share one code."""
THERE = 0.1
"""Share of its greatest strength from which on a feature can be a parent: weaker than alive, but not absent."""
FADED = 0.5
"""A parent fades where its strength falls by this factor more, from the birth to the end, than the median feature's."""
SAME, OTHER = 0.9, 0.7
"""Cosine from which on two directions are one, and below which they are two."""
KEPT, LOST = 0.75, 0.15
"""A token keeps a feature's direction where this share of it is left; a feature that loses more than this share of what
it says was absorbed, not split."""


@dataclass(frozen=True)
class Kin:
    """The nearest earlier feature of one that is born.

    Attributes:
        feature: the one that is born.
        snapshot: the snapshot of its birth.
        parent: the feature of greatest kinship among those born before and there at the birth or just before.
        cosine: of the two decoder directions at the birth; the parent's just before it where it is gone by then.
        code_correlation: Pearson, of the two codes at the birth; the parent's just before it where it is gone by then.
        kinship: mean of the cosine, whatever its sign, and the code correlation.
        lost: share of what the parent says, by code and tokens, from where its direction goes with the birth.
        label: `novel` where kinship is small; else `handover` where the parent fades or turns into the newborn,
            `absorption` where it loses much, `split` where it does not.
    """

    feature: int
    snapshot: int
    parent: int
    cosine: float
    code_correlation: float
    kinship: float
    lost: float | None
    label: str


def kin_of_births(
    W_dec: Tensor, codes_at: CodesAt, *, tokens: int, relative: np.ndarray, birth: np.ndarray, kin_threshold: float
) -> Iterator[Kin]:
    """The nearest earlier feature of every feature born after the first snapshot, where there is an earlier one.

    Args:
        W_dec: decoder rows [snapshot, feature, d_model].
        codes_at: the codes of each snapshot.
        tokens: number of tokens, those without any code among them.
        relative: strength as a share of the greatest, 0 for dead features [snapshot, feature].
        birth: snapshot of each birth, -1 for features that are never born [feature].
        kin_threshold: kinship below which a feature is `novel`.
    """
    for snapshot in range(1, len(W_dec)):
        here, before = relative[snapshot] >= THERE, relative[snapshot - 1] >= THERE
        earlier = np.flatnonzero((here | before) & (birth >= 0) & (birth < snapshot))
        born = np.flatnonzero(birth == snapshot)
        if len(earlier) == 0 or len(born) == 0:
            continue
        lasting = relative[-1] / np.maximum(relative[snapshot - 1], 1e-12)
        fades = lasting < FADED * _usual(relative, snapshot - 1, -1)
        directions = torch.where(torch.from_numpy(here)[:, None], W_dec[snapshot], W_dec[snapshot - 1])
        unit = torch.nn.functional.normalize(directions, dim=1).numpy()
        codes, codes_before = codes_at(snapshot), codes_at(snapshot - 1)
        for first in range(0, len(born), FEATURES_AT_ONCE):
            block = born[first : first + FEATURES_AT_ONCE]
            cosine = unit[block] @ unit[earlier].T
            at_birth, just_before = (
                code_correlations(codes, block, others, tokens=tokens) for others in (codes, codes_before)
            )
            correlation = np.where(here, at_birth, just_before)[:, earlier]
            kinship = (np.abs(cosine) + correlation) / 2
            for row, place in enumerate(kinship.argmax(1)):
                feature, parent = int(block[row]), int(earlier[place])
                was = snapshot - 1 if before[parent] else snapshot
                lost = lost_share(W_dec, codes_at, parent, feature, was, snapshot, relative=relative)
                gone = fades[parent] or _turns_into(W_dec, parent, feature, was, snapshot)
                label = "handover" if gone else _kind(lost)
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


def _turns_into(W_dec: Tensor, parent: int, feature: int, was: int, snapshot: int) -> bool:
    """Whether a parent had another direction than the newborn has at its birth, and has the same at the last snapshot.

    What a dictionary's feature stood for is then gone, however strong it is: it is active together with the newborn.
    """
    then = torch.cosine_similarity(W_dec[was, parent], W_dec[snapshot, feature], dim=0).abs()
    last = torch.cosine_similarity(W_dec[-1, parent], W_dec[-1, feature], dim=0).abs()
    return bool(then < SAME <= last)


@dataclass(frozen=True)
class Parting:
    """Two features that were one and became two.

    Attributes:
        feature: the one whose direction turned more.
        other: the one whose direction turned less.
        snapshot: the first at which they have parted.
        cosine_before, cosine_last: of their directions just before and at the last snapshot.
        lost: share of what they say, by code and tokens, from where the direction that they had in common goes.
        label: `absorption` where that is much, else `split`.
    """

    feature: int
    other: int
    snapshot: int
    cosine_before: float
    cosine_last: float
    lost: float | None
    label: str


def partings(W_dec: Tensor, codes_at: CodesAt, *, relative: np.ndarray) -> Iterator[Parting]:
    """Pairs of features that had one direction wherever both were there until they parted, and have two at the end.

    Where a feature splits, a dictionary often has both parts from the start, each active on its own tokens.

    Args:
        W_dec: decoder rows [snapshot, feature, d_model].
        codes_at: the codes of each snapshot.
        relative: strength as a share of the greatest, 0 for dead features [snapshot, feature].
    """
    n, n_features, _ = W_dec.shape
    norm = W_dec.norm(dim=2).clamp_min(1e-12)
    there = torch.from_numpy(relative >= THERE)
    to_last = torch.einsum("sfd,fd->sf", W_dec, W_dec[-1]) / norm / norm[-1]

    def cosines(snapshot: int, block: slice) -> Tensor:
        return W_dec[snapshot, block] @ W_dec[snapshot].T / norm[snapshot, block, None] / norm[snapshot]

    for first in range(0, n_features, FEATURES_AT_ONCE):
        block = slice(first, first + FEATURES_AT_ONCE)
        last = cosines(n - 1, block)
        later = torch.arange(n_features) > torch.arange(n_features)[block, None]
        candidates = later & (last < OTHER) & there[-1, block, None] & there[-1]
        seen_at, seen = torch.full(last.shape, -1, dtype=torch.int16), torch.zeros_like(last)
        for snapshot in range(n):
            if not candidates.any():
                break
            both, cosine = there[snapshot, block, None] & there[snapshot], cosines(snapshot, block)
            apart = both & (cosine < SAME)
            for row, column in (apart & (seen_at >= 0) & candidates).nonzero().tolist():
                before, pair = int(seen_at[row, column]), (first + row, column)
                feature, other = pair if to_last[before, pair[0]] < to_last[before, column] else pair[::-1]
                along = (W_dec[snapshot:, feature] * W_dec[snapshot:, other]).sum(1)
                two = (along / norm[snapshot:, feature] / norm[snapshot:, other] < OTHER).tolist()
                after = snapshot + two.index(True) if True in two else n - 1
                lost = lost_share(W_dec, codes_at, other, feature, before, after, relative=relative)
                yield Parting(
                    feature=feature,
                    other=other,
                    snapshot=snapshot,
                    cosine_before=float(seen[row, column]),
                    cosine_last=float(last[row, column]),
                    lost=lost,
                    label=_kind(lost),
                )
            candidates &= ~apart
            seen_at[both], seen[both] = snapshot, cosine[both]


def _kind(lost: float | None) -> str:
    return "absorption" if lost is not None and lost >= LOST else "split"


def lost_share(
    W_dec: Tensor, codes_at: CodesAt, older: int, younger: int, before: int, after: int, *, relative: np.ndarray
) -> float | None:
    """Share of what two features say along a direction from where it goes between two snapshots.

    The direction is the older one's at `before`. On each token both codes are summed along it, as decoded at either
    snapshot; it is gone where less than `KEPT` is left of it, the median feature's strength being the measure. Tokens
    count by how much was said.

    Args:
        codes_at: the codes of each snapshot.
        relative: strength as a share of the greatest [snapshot, feature].
    Returns:
        None where both are silent.
    """
    pair = [older, younger]
    direction = W_dec[before, older] / W_dec[before, older].norm()

    def along(snapshot: int) -> Tensor:
        codes = codes_at(snapshot)
        code = torch.stack([codes[feature].to_dense() for feature in pair], dim=1)
        return code @ (W_dec[snapshot, pair] @ direction)

    was, has = along(before), along(after)
    was = was.clamp_min(0)
    gone = has < KEPT * _usual(relative, before, after) * was
    return float((was * gone).sum() / was.sum()) if was.any() else None


def _usual(relative: np.ndarray, before: int, after: int) -> float:
    """By what factor the median feature's strength changes from one snapshot to another."""
    there = relative[before] >= THERE
    return float(np.median(relative[after, there] / relative[before, there])) if there.any() else 1.0


def code_correlations(codes: Tensor, block: np.ndarray, others: Tensor, *, tokens: int) -> np.ndarray:
    """Pearson correlation of some features' codes with all of others [block, feature]; 0 for constant ones.

    Args:
        codes, others: sparse [feature, token].
        block: the features to correlate, in `codes`.
        tokens: number of tokens, those without any code among them.
    """
    dense = torch.stack([codes[int(feature)].to_dense() for feature in block], dim=1).double()
    mean, spread = dense.mean(0), dense.std(0, unbiased=False)
    others = others.double()
    mean_other = torch.sparse.sum(others, 1).to_dense() / tokens
    square_other = torch.sparse.sum(others * others, 1).to_dense() / tokens
    spread_other = (square_other - mean_other.square()).clamp_min(0).sqrt()
    covariance = (others @ dense).T / tokens - mean[:, None] * mean_other
    scale = spread[:, None] * spread_other
    return torch.where(scale > 0, covariance / scale, 0.0).numpy()
