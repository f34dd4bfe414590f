"""Decoder directions, read from a dictionary's file as far as they are asked for. Loads no torch."""

import numpy as np
from safetensors import SafetensorError, safe_open

from ontogeny.errors import RunError
from ontogeny.run import Run

ROWS_AT_ONCE = 16_384


class Directions:
    """Unit decoder directions of a run's dictionary.

    Raises:
        RunError: there is no dictionary, or its file is damaged.
    """

    def __init__(self, run: Run) -> None:
        self.file = run.dictionary_folder / "weights.safetensors"
        if not self.file.is_file():
            raise RunError(f"{run.folder} has no dictionary yet: ontogeny train {run.folder}")
        try:
            with safe_open(self.file, framework="np") as weights:
                self.n_snapshots, self.n_features, self.d_model = weights.get_slice("W_dec").get_shape()
        except SafetensorError as error:
            raise RunError(f"{self.file} cannot be read: {error}") from None

    def at(self, snapshot: int, features: slice) -> np.ndarray:
        """Of some features at one snapshot, unit [feature, d_model]; zero where a direction is."""
        start, end, _ = features.indices(self.n_features)
        return self._unit(slice(snapshot, snapshot + 1), slice(start, end))[0]

    def of(self, feature: int) -> np.ndarray:
        """Of one feature at every snapshot, unit [snapshot, d_model]."""
        return self._unit(slice(0, self.n_snapshots), slice(feature, feature + 1))[:, 0]

    def _unit(self, snapshots: slice, features: slice) -> np.ndarray:
        try:
            with safe_open(self.file, framework="np") as weights:
                rows = weights.get_slice("W_dec")[snapshots, features]
        except (SafetensorError, OSError) as error:
            raise RunError(f"{self.file} cannot be read: {error}") from None
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

    def pieces(self) -> list[slice]:
        """The features in pieces that fit into memory."""
        return [slice(start, start + ROWS_AT_ONCE) for start in range(0, self.n_features, ROWS_AT_ONCE)]

    def cosines(self, feature: int, snapshot: int) -> np.ndarray:
        """Of one feature's direction with all at one snapshot [feature]."""
        own = self.at(snapshot, slice(feature, feature + 1))[0]
        return np.concatenate([self.at(snapshot, piece) @ own for piece in self.pieces()])


def plane(run: Run) -> np.ndarray:
    """Unit directions at the last snapshot in the plane of their two leading principal components [feature, 2]."""
    directions = Directions(run)
    last, d = directions.n_snapshots - 1, directions.d_model
    total, products = np.zeros(d), np.zeros((d, d))
    for piece in directions.pieces():
        rows = directions.at(last, piece)
        total += rows.sum(0)
        products += rows.T @ rows
    mean = total / directions.n_features
    _, vectors = np.linalg.eigh(products / directions.n_features - np.outer(mean, mean))
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    flat = [(directions.at(last, piece) - mean) @ axes for piece in directions.pieces()]
    return np.concatenate(flat).astype(np.float32)
