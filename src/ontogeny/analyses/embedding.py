"""Datapoints in a plane: the activations at some features' examples among random tokens, at several snapshots.

Source: SAE-Track, arXiv 2412.17626 (UMAP of datapoints); McInnes, Healy and Melville 2018, arXiv 1802.03426 (UMAP).
"""

import warnings

import numpy as np
import polars as pl
from jaxtyping import Float

from ontogeny.run import Run
from ontogeny.tables import from_rows

FEATURES, BACKGROUND, SNAPSHOTS = 6, 500, 6
LEAST_DIRECTIONS = 5
"""Fewer are not laid out."""
EVERY_DISTANCE = 4096
"""From so many points on UMAP (umap-learn .5) looks for neighbours by an approximate search."""


def umap(run: Run) -> pl.DataFrame:
    """The table `umap`: a row per token and snapshot, placed by one fit for all snapshots.

    Activations are centred and compared by the cosine, so that the plane shows which deviate alike from their
    snapshot's mean.
    """
    import torch

    from ontogeny.corpus.pack import Corpus
    from ontogeny.features.codes import stored_codes
    from ontogeny.features.sample import leading_of, stored_activations

    settings, stored = run.study.analysis, stored_codes(run)
    leading = leading_of(stored, ranks=settings.formation_examples)
    features = _shown(run, leading)
    random = np.random.default_rng([settings.seed, 8]).permutation(stored.tokens)[:BACKGROUND]
    # a token that is among two features' examples stands for the first
    places = {int(token): None for token in random}
    places |= {int(token): int(feature) for feature in reversed(features) for token in leading[feature] if token >= 0}
    tokens = np.array(list(places))
    snapshots = np.unique(np.linspace(0, len(run.steps) - 1, SNAPSHOTS).round().astype(int)).tolist()
    points = []
    for snapshot in snapshots:
        x = stored_activations(run, snapshot, stored.sequences)
        points.append(torch.nn.functional.normalize(x[tokens] - x.mean(0), dim=1))
    plane = _plane(torch.cat(points).numpy(), seed=settings.seed).reshape(len(snapshots), len(tokens), 2)
    tokenizer = Corpus(run.corpus_folder / "held_out").tokenizer
    rows = [
        {
            "snapshot": snapshot,
            "step": run.steps[snapshot],
            "feature": places[int(token)],
            "token": tokenizer.decode([int(stored.token[token])]),
            "x": plane[number, point, 0],
            "y": plane[number, point, 1],
        }
        for number, snapshot in enumerate(snapshots)
        for point, token in enumerate(tokens)
    ]
    return from_rows("umap", rows)


def umap_directions(run: Run) -> pl.DataFrame:
    """The table `umap_directions`: a row per living feature, placed by its direction at the last snapshot.

    Directions are compared by the cosine.
    """
    living = run.features.filter(~pl.col("dead"))["feature"].sort().to_numpy()
    directions = run.dictionary().W_dec[-1].detach().numpy()[living]
    if len(living) < LEAST_DIRECTIONS:
        return from_rows("umap_directions", [])
    places = _plane(directions, seed=run.study.analysis.seed)
    rows = [{"feature": int(feature), "x": x, "y": y} for feature, (x, y) in zip(living, places, strict=True)]
    return from_rows("umap_directions", rows)


def _plane(points: Float[np.ndarray, "point d_model"], *, seed: int) -> Float[np.ndarray, "point 2"]:
    """Points in a plane, those of a small angle near each other.

    Of few points UMAP takes every distance, a call of a function in Python each; they are handed over instead. Numba
    sets PyTorch's threads to its own number; they are set back, since the last bits of later results depend on them.
    """
    import torch
    from umap import UMAP

    threads, metric = torch.get_num_threads(), "cosine"
    if len(points) < EVERY_DISTANCE:
        unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
        points, metric = np.maximum(1 - unit @ unit.T, 0), "precomputed"
        np.fill_diagonal(points, 0)
    try:
        plane = UMAP(metric=metric, n_neighbors=min(15, len(points) - 1), random_state=seed, n_jobs=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "using precomputed metric", UserWarning)
            return np.asarray(plane.fit_transform(points))
    finally:
        torch.set_num_threads(threads)


def _shown(run: Run, leading: np.ndarray) -> list[int]:
    """Features to show, of those with all their examples: those that formed most, or where that is not known, some."""
    whole = np.flatnonzero((leading >= 0).all(1))
    if "formation" in run.study.analyses:
        progress = run.table("formation").sort("snapshot", "feature")["progress"].to_numpy().reshape(len(run.steps), -1)
        rise = np.nan_to_num(progress[-1] - progress[0], nan=-np.inf)
        return whole[np.argsort(-rise[whole], kind="stable")][:FEATURES].tolist()
    return np.random.default_rng([run.study.analysis.seed, 9]).permutation(whole)[:FEATURES].tolist()
