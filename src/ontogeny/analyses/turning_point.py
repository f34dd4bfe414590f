"""How directions turn between snapshots. Source: arXiv 2509.17196, decoder cosine over snapshots."""

import numpy as np
import polars as pl

from ontogeny.analyses.bootstrap import bootstrap_mean
from ontogeny.run import Run


def turning_point(run: Run) -> pl.DataFrame:
    """The table `turning_point`: for each pair of snapshots the mean cosine of the decoder directions alive at both."""
    directions = run.dictionary().W_dec.numpy()
    n = len(directions)
    norms = np.linalg.norm(directions, axis=2)
    dead = run.features.sort("feature")["dead"].to_numpy()
    relative = run.trajectories.sort("snapshot", "feature")["strength_relative"].to_numpy().reshape(n, -1)
    alive = (relative >= run.study.measure.alive_threshold) & ~dead
    settings, steps, rows = run.study.analysis, run.steps, []
    for a in range(n):
        for b in range(a, n):
            both = np.flatnonzero(alive[a] & alive[b])
            products = np.einsum("fd,fd->f", directions[a, both], directions[b, both])
            cosine = products / (norms[a, both] * norms[b, both])
            low, high = (
                bootstrap_mean(cosine, np.ones(len(both)), both, samples=settings.bootstrap, seed=settings.seed)
                if len(both)
                else (None, None)
            )
            rows.append((a, b, steps[a], steps[b], len(both), float(cosine.mean()) if len(both) else None, low, high))
    columns = ["snapshot_a", "snapshot_b", "step_a", "step_b", "features", "cosine", "cosine_ci_low", "cosine_ci_high"]
    return pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)
