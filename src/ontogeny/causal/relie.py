"""RelIE and RelDec: which snapshot a feature matters to. Source: Crosscoding Through Time, arXiv 2509.05291."""

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike


def relie(effects: ArrayLike, *, pairwise: bool = False, compat: Literal["ctt"] | None = None) -> np.ndarray:
    """Share of each snapshot in a feature's total absolute effect.

    Args:
        effects: mean effects [snapshot, feature].
        pairwise: compare pairs of snapshots instead, the later one's share.
        compat: `ctt` gives 0.5 where all effects compared are zero, as the published code does.
    Returns:
        Two snapshots: [feature], |B| / (|A| + |B|). More: [snapshot, feature] shares that sum to 1. Pairwise:
        [pair, feature], neighbours first and then first against last: B/(A+B), C/(B+C), C/(A+C). nan where all
        effects compared are zero.
    Raises:
        ValueError: fewer than two snapshots.
    """
    size = np.abs(np.asarray(effects, dtype=float))
    if size.ndim != 2 or len(size) < 2:
        raise ValueError(f"effects must be [snapshot, feature] with two snapshots or more, found {size.shape}")
    empty = 0.5 if compat == "ctt" else np.nan
    if pairwise:
        pairs = [(i, i + 1) for i in range(len(size) - 1)]
        pairs += [(0, len(size) - 1)] if len(size) > 2 else []
        return np.stack([_share(size[late], size[early] + size[late], empty) for early, late in pairs])
    if len(size) == 2:
        return _share(size[1], size.sum(0), empty)
    return _share(size, np.broadcast_to(size.sum(0), size.shape), empty)


@runtime_checkable
class _HasStrength(Protocol):
    def strength(self) -> Any: ...


def reldec(dictionary: _HasStrength, *, pairwise: bool = False) -> np.ndarray:
    """The same shares of a feature's strengths.

    Args:
        dictionary: its `strength()` is a tensor [snapshot, feature].
        pairwise: compare pairs of snapshots, as in `relie`.
    """
    return relie(dictionary.strength().detach().cpu().numpy(), pairwise=pairwise)


def _share(part: np.ndarray, total: np.ndarray, empty: float) -> np.ndarray:
    return np.divide(part, total, out=np.full(part.shape, empty), where=total > 0)
