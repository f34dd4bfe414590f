"""Activations kept on disk: sequences are stored when they are first read, and not harvested again.

A shard is a safetensors file with the rows of some whole sequences, [row, snapshot, d_model], all snapshots of a token
side by side; the manifest says which, with the hash of every shard. So the store serves any order of the sequences:
further epochs, further seeds, further dictionaries.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ontogeny.errors import StoreError
from ontogeny.files import atomic_path, file_hash, write_json
from ontogeny.progress import progress_bar

FORMAT = 1
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
HEADER_BYTES = 1024
"""Room for a shard's header."""


class Rounded(NamedTuple):
    """Activations as they are stored.

    Attributes:
        values: [row, snapshot, d_model].
        scale: of each row and snapshot [row, snapshot, 1]; None but for `int8`.
    """

    values: Tensor
    scale: Tensor | None

    def restored(self) -> Float[Tensor, "row snapshot d_model"]:
        """As float32."""
        return self.values.float() if self.scale is None else self.values.float() * self.scale

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


def rounded(rows: Float[Tensor, "row snapshot d_model"], dtype: str) -> Rounded:
    """float32 activations in a dtype of the store.

    `float16` and `bfloat16` keep 11 and 8 significant bits; `int8` is off by at most 1/254 of the row's greatest value:
    see `rounding_error`.

    Raises:
        StoreError: a value is beyond what float16 holds.
    """
    if dtype == "int8":
        scale = rows.abs().amax(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        return Rounded((rows / scale).round().to(torch.int8), scale)
    values = rows.to(DTYPES[dtype])
    if dtype == "float16" and not values.isfinite().all():
        raise StoreError("activations beyond 65,504 do not fit into float16: set train.store_dtype to bfloat16")
    return Rounded(values, None)


def rounding_error(rows: Float[Tensor, "*row d_model"], dtype: str) -> Float[Tensor, "*row"]:
    """The most by which rounding moves each row, in its own units; float16's subnormals left out."""
    if dtype == "int8":
        return rows.abs().amax(-1) * rows.shape[-1] ** 0.5 / 254
    return rows.norm(dim=-1) * {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]


class ActivationStore:
    """A folder of shards within a budget.

    Args:
        folder: made where it is not there.
        key: fingerprint of the models, the hookpoint and the corpus; a store of others is refused.
        steps: of the snapshots.
        width: d_model.
        dtype: a row of DTYPES.
        n_sequences: of the corpus.
        max_bytes: what the shards never exceed; sequences beyond it are not kept.
    Raises:
        StoreError: the folder holds other activations, or its manifest is damaged.
    """

    def __init__(
        self, folder: Path, *, key: str, steps: Sequence[int], width: int, dtype: str, n_sequences: int, max_bytes: int
    ) -> None:
        self.folder, self.dtype, self.max_bytes = folder, dtype, max_bytes
        self.about = {"format": FORMAT, "key": key, "steps": list(steps), "d_model": width, "dtype": dtype}
        self.shard_of = np.full(n_sequences, -1, dtype=np.int32)
        self.first_row = np.zeros(n_sequences, dtype=np.int64)
        self.rows_of = np.zeros(n_sequences, dtype=np.int64)
        self.shards: list[dict[str, Any]] = []
        self.opened: dict[int, Any] = {}
        path = folder / "manifest.json"
        if path.is_file():
            self._take_up(path)
        self.swept = False

    def _take_up(self, path: Path) -> None:
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} is damaged ({error}): remove {self.folder}, it will be made again") from None
        for name, wanted in self.about.items():
            if manifest.get(name) != wanted:
                raise StoreError(
                    f"{self.folder} holds activations of {name} {manifest.get(name)}, this study has {wanted}: "
                    "remove it, or choose another folder for the run"
                )
        for shard in manifest["shards"]:
            self._enter(shard)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard["bytes"] for shard in self.shards)

    def has(self, sequences: Int[np.ndarray, " sequence"]) -> np.ndarray:
        """Whether sequences are kept [sequence]."""
        return self.shard_of[sequences] >= 0

    def add(
        self, sequences: Int[np.ndarray, " sequence"], lengths: Int[np.ndarray, " sequence"], rows: Rounded
    ) -> None:
        """Keep the rows of some whole sequences, one after another, as far as the budget goes."""
        if not self.swept:
            self._sweep()
        per_row = rows.nbytes / max(1, len(rows.values))
        ends = lengths.cumsum()
        fit = int(np.searchsorted(ends, (self.max_bytes - self.nbytes - HEADER_BYTES) / per_row, side="right"))
        if fit == 0:
            return
        kept = int(ends[fit - 1])
        tensors = {"values": rows.values[:kept].contiguous()}
        if rows.scale is not None:
            tensors["scale"] = rows.scale[:kept].contiguous()
        name = f"{len(self.shards):06d}.safetensors"
        with atomic_path(self.folder / name) as temporary:
            save_file(tensors, temporary)
        path = self.folder / name
        self._enter(
            {
                "name": name,
                "bytes": path.stat().st_size,
                "sha256": file_hash(path),
                "sequences": sequences[:fit].tolist(),
                "lengths": lengths[:fit].tolist(),
            }
        )
        write_json(self.folder / "manifest.json", {**self.about, "shards": self.shards})

    def _sweep(self) -> None:
        """Remove what a kill left: shards that were not entered. Only who adds does so, or it might be another's."""
        known = {shard["name"] for shard in self.shards}
        for stray in self.folder.glob("*.safetensors"):
            if stray.name not in known:
                stray.unlink()
        self.swept = True

    def _enter(self, shard: dict[str, Any]) -> None:
        sequences, lengths = np.array(shard["sequences"]), np.array(shard["lengths"])
        self.shard_of[sequences] = len(self.shards)
        self.first_row[sequences] = lengths.cumsum() - lengths
        self.rows_of[sequences] = lengths
        self.shards.append(shard)

    def read(self, sequence: int, snapshots: slice) -> Float[Tensor, "row snapshot d_model"]:
        """The rows of a sequence, in order of positions, as float32."""
        first = int(self.first_row[sequence])
        here = slice(first, first + int(self.rows_of[sequence]))
        file = self._file(int(self.shard_of[sequence]))
        scale = file.get_slice("scale")[here, snapshots] if self.dtype == "int8" else None
        return Rounded(file.get_slice("values")[here, snapshots], scale).restored()

    def _file(self, shard: int) -> Any:
        if shard not in self.opened:
            path = self.folder / self.shards[shard]["name"]
            try:
                self.opened[shard] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise StoreError(f"{path} cannot be read as safetensors: {error}") from None
        return self.opened[shard]

    def view(self, snapshots: Sequence[int]) -> "StoreView":
        """What a stream of some of the snapshots sees of the store."""
        return StoreView(self, list(snapshots))

    def verify(self, *, again: bool = False) -> None:
        """Read every shard and compare its size and hash.

        Args:
            again: also those that this process has read and nobody changed since.
        Raises:
            StoreError: a shard is missing, short or changed.
        """
        unread = [shard for shard in self.shards if again or self._state(shard) not in _VERIFIED]
        with progress_bar("verify store", len(unread), unit="shards") as bar:
            for shard in unread:
                path = self.folder / shard["name"]
                advice = f"remove {self.folder}, it will be made again"
                if not path.is_file():
                    raise StoreError(f"{path} is missing: {advice}")
                if path.stat().st_size != shard["bytes"]:
                    raise StoreError(f"{path} has {path.stat().st_size:,} bytes, not {shard['bytes']:,}: {advice}")
                if file_hash(path) != shard["sha256"]:
                    raise StoreError(f"{path} has changed since it was written (its hash differs): {advice}")
                _VERIFIED.add(self._state(shard))
                bar.advance(1)

    def _state(self, shard: dict[str, Any]) -> tuple[object, ...]:
        """What changes with a shard or with what is known of it."""
        path = self.folder / shard["name"]
        changed = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()
        return (path.absolute(), shard["sha256"], *changed)


MANY = 8
"""A view of one in as many snapshots does not read."""
_VERIFIED: set[tuple[object, ...]] = set()
"""Shards as this process has read and found them."""


class StoreView:
    """A store as a stream of some of its snapshots sees it; only a stream of all adds to it.

    All snapshots of a token lie side by side, so one in many is harvested again rather than read past the others.
    """

    def __init__(self, store: ActivationStore, snapshots: list[int]) -> None:
        self.store, self.snapshots = store, snapshots
        n = len(store.about["steps"])
        self.all = snapshots == list(range(n))
        self.reads = len(snapshots) * MANY > n

    def has(self, sequences: Int[np.ndarray, " sequence"]) -> np.ndarray:
        """Whether sequences are kept and worth reading [sequence]."""
        return self.store.has(sequences) & self.reads

    def read(self, sequence: int) -> Float[Tensor, "row snapshot d_model"]:
        """The rows of a sequence."""
        first, last = min(self.snapshots), max(self.snapshots) + 1
        rows = self.store.read(sequence, slice(first, last))
        return rows if len(self.snapshots) == last - first else rows[:, [place - first for place in self.snapshots]]

    def take(
        self, sequences: np.ndarray, lengths: np.ndarray, rows: Float[Tensor, "row snapshot d_model"]
    ) -> Float[Tensor, "row snapshot d_model"]:
        """Rows of whole sequences as they are once stored; they are kept where there is room."""
        kept = rounded(rows, self.store.dtype)
        if self.all:
            self.store.add(sequences, lengths, kept)
        return kept.restored()
