"""Where directions go: how near each is to where it ends, and all of them in one plane.

Source: SAE-Track, arXiv 2412.17626 (drift of decoder vectors, trajectories).
"""

import numpy as np
import polars as pl

from ontogeny.run import Run
from ontogeny.tables import from_rows

COMPONENTS = 8


def directions(run: Run) -> pl.DataFrame:
    """The table `directions`: a row per feature and snapshot; null where a feature is never active."""
    unit = unit_directions(run)
    _, components, mean = _principal(unit)
    n, n_features, _ = unit.shape
    placed = (unit - mean) @ components[:2].T
    return pl.DataFrame(
        {
            "feature": np.tile(np.arange(n_features), n),
            "snapshot": np.repeat(np.arange(n), n_features),
            "step": np.repeat(run.steps, n_features),
            "cosine_last": np.einsum("sfd,fd->sf", unit, unit[-1]).ravel(),
            "component_1": placed[..., 0].ravel(),
            "component_2": placed[..., 1].ravel(),
        }
    ).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)).sort("feature", "snapshot")  # fmt: skip


def direction_components(run: Run) -> pl.DataFrame:
    """The table `direction_components`: what the first principal components of all directions together explain."""
    variance, _, _ = _principal(unit_directions(run))
    share = variance / variance.sum()
    rows = [{"component": place + 1, "explained": float(one)} for place, one in enumerate(share[:COMPONENTS])]
    return from_rows("direction_components", rows)


def unit_directions(run: Run) -> np.ndarray:
    """Unit decoder directions [snapshot, feature, d_model], nan where a feature is never active."""
    W_dec = run.dictionary().W_dec.numpy()
    return W_dec / np.where(run.matrix("firing_rate") > 0, np.linalg.norm(W_dec, axis=2), np.nan)[..., None]


def _principal(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances, components [component, d_model] and mean of all directions at all snapshots, the greatest first."""
    known = unit[np.isfinite(unit[..., 0])].astype(np.float64)
    mean = known.mean(0)
    variance, vectors = np.linalg.eigh(np.cov(known.T))
    return variance[::-1], vectors[:, ::-1].T, mean
