"""The run folder: where things are, what made them, and which stages are done.

Stages meet only here. A stage is recorded with a key, the fingerprint of everything that its outputs depend on; a
record counts while the key is the same and the outputs are as long as they were when written.
"""

import os
import platform
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ontogeny import tables
from ontogeny.config.study import StudyConfig, dump_study, load_study
from ontogeny.errors import DictionaryError, RunError, did_you_mean
from ontogeny.files import atomic_path, read_json, write_json, write_text
from ontogeny.progress import Events

if TYPE_CHECKING:
    from ontogeny.dictionaries.dictionary import Dictionary

PACKAGES = ("ontogeny", "torch", "transformers", "tokenizers", "safetensors", "numpy", "polars")


def provenance() -> dict[str, Any]:
    """Versions and machine, as far as results can depend on them."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "packages": versions,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
    }


def run_folder(study: StudyConfig, out: str | Path | None = None) -> Path:
    """Where a study's run is: `out`, else `runs/NAME` below the working directory."""
    return Path("runs") / study.name if out is None else Path(out)


class Run:
    """A folder that holds a whole study, from resolved config to report. Reading it is instant and loads no torch.

    Tables are polars DataFrames with the columns of `ontogeny/columns/`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._study: tuple[int, StudyConfig] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # what users read

    @property
    def study(self) -> StudyConfig:
        """The resolved settings; read again when they have changed."""
        path = self.study_path
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        if self._study is None or self._study[0] != changed:
            self._study = changed, load_study(path)
        return self._study[1]

    @property
    def manifest(self) -> dict[str, Any]:
        """Snapshots and the record of every stage with its provenance."""
        path = self.folder / "manifest.json"
        again = "remove it with the folder's other files, or bring it back from a copy"
        return read_json(path, mend=again) if path.is_file() else {"stages": {}}

    @property
    def outdated(self) -> list[str]:
        """Stages whose outputs are of an earlier state of the study, which has not been run to its end since."""
        return [name for name, record in self.manifest["stages"].items() if record.get("outdated")]

    def require_current(self) -> None:
        """Refuse to show tables under settings that they are not of.

        Raises:
            RunError: some are of an earlier state of the study.
        """
        if old := self.outdated:
            raise RunError(f"{self.folder}: {', '.join(old)} are of earlier settings: ontogeny run {self.folder}")

    @property
    def features(self) -> pl.DataFrame:
        """A row per feature."""
        return self.table("features")

    @property
    def trajectories(self) -> pl.DataFrame:
        """A row per feature and snapshot."""
        return self.table("trajectories")

    @property
    def examples(self) -> pl.DataFrame:
        """A row per feature, snapshot and rank."""
        return self.table("examples")

    @property
    def effects(self) -> pl.DataFrame:
        """A row per task, feature and snapshot."""
        return self.table("effects")

    def store_gb_of(self, study: StudyConfig) -> float | None:
        """The budget of the store of activations; where the study says `auto`, what was decided for this run, or 0."""
        asked = study.train.store_gb
        return self.manifest.get("store", {}).get("gb", 0.0) if asked == "auto" else asked

    def analysis(self, name: str) -> pl.DataFrame:
        """The table of one analysis, such as `emergence`."""
        return self.table(name)

    def table(self, name: str) -> pl.DataFrame:
        """Any table of the run by its name in `ontogeny/tables.py`.

        Raises:
            RunError: no such table, or this run does not have it yet, or it cannot be read.
        """
        try:
            return self.scan(name).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            path = self.folder / tables.FILES[name]
            raise RunError(
                f"{path} cannot be read ({error}): remove it, then ontogeny run {self.folder} makes it again"
            ) from None

    def scan(self, name: str) -> pl.LazyFrame:
        """The same, to be read as far as it is asked for."""
        if name not in tables.FILES:
            raise RunError(f"no table '{name}'{did_you_mean(name, tables.FILES)}; there are {', '.join(tables.FILES)}")
        path = self.folder / tables.FILES[name]
        if not path.is_file():
            raise RunError(f"{self.folder} has no table '{name}' yet: ontogeny run {self.folder}")
        return pl.scan_parquet(path)

    def matrix(self, column: str) -> np.ndarray:
        """A column of `trajectories`, such as `strength`, as an array [snapshot, feature]."""
        return self.trajectories.sort("snapshot", "feature")[column].to_numpy().reshape(len(self.steps), -1)

    def dictionary(self) -> "Dictionary":
        """The trained dictionary, its weights and golden vectors checked (loads torch).

        Raises:
            DictionaryError: it is not there, or damaged.
        """
        from ontogeny.dictionaries.load import load_dictionary

        try:
            return load_dictionary(self.dictionary_folder)
        except DictionaryError as error:
            again = f"or remove {self.dictionary_folder}, and ontogeny run {self.folder} trains it again"
            raise DictionaryError(f"{error}, {again}") from None

    @property
    def steps(self) -> list[int]:
        """The pre-training step of every snapshot, ascending."""
        return [snapshot["step"] for snapshot in self.manifest["snapshots"]]

    # where things are

    @property
    def study_path(self) -> Path:
        return self.folder / "study.yaml"

    @property
    def schedule_path(self) -> Path:
        """Where the snapshots are named that were chosen by how far activations move."""
        return self.folder / "schedule.json"

    @property
    def corpus_folder(self) -> Path:
        return self.folder / "corpus"

    @property
    def replies(self) -> Path:
        """What a language model behind an endpoint has replied so far, with what it cost."""
        return self.folder / "endpoint" / "replies.sqlite"

    @property
    def suite_folder(self) -> Path:
        return self.folder / "suite"

    @property
    def dictionary_folder(self) -> Path:
        return self.folder / "dictionary"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def report_path(self) -> Path:
        return self.folder / "report.html"

    @property
    def events(self) -> Events:
        return Events(self.folder / "events.jsonl")

    # what stages write

    def require_own_folder(self, study: StudyConfig) -> bool:
        """Whether the run is new.

        Raises:
            RunError: the folder is a file, holds something that is not a run, or a run of another name.
        """
        above = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not above.is_dir():
            raise RunError(f"the run is to be written to {self.folder}, but {above} is a file: give another --out")
        held = [path for path in self.folder.iterdir() if not path.name.startswith(".")] if self.folder.is_dir() else []
        if held and not (self.folder / "manifest.json").is_file():
            raise RunError(f"{self.folder} is not empty and not a run: give --out a new folder, or an earlier run's")
        if held and (name := self.manifest.get("name", study.name)) != study.name:
            raise RunError(
                f"{self.folder} is a run of '{name}', the study is called '{study.name}': give --out a new folder, or "
                "remove that one"
            )
        return not held

    def prepare(self, study: StudyConfig) -> None:
        """Make the folder and write the resolved study."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.update_manifest(name=study.name)
        write_text(self.study_path, dump_study(study))
        self._study = None

    def update_manifest(self, **entries: Any) -> None:
        write_json(self.folder / "manifest.json", self.manifest | entries)

    def write_table(self, name: str, table: pl.DataFrame) -> Path:
        """Write a table; stages that are recorded with it count as done no longer, until they are recorded again."""
        path = self.folder / tables.FILES[name]
        records = self.manifest["stages"]
        if with_it := [record for record in records.values() if tables.FILES[name] in record["outputs"]]:
            for record in with_it:
                record["outputs"][tables.FILES[name]] = None
            self.update_manifest(stages=records)
        with atomic_path(path) as temporary:
            tables.conform(name, table).write_parquet(temporary, compression="zstd")
        return path

    def stage_done(self, stage: str, key: str) -> bool:
        """Whether the stage is recorded under this key and its outputs are all there."""
        record = self.manifest["stages"].get(stage)
        if record is None or record["key"] != key:
            return False
        outputs = record["outputs"]
        return all(
            (self.folder / name).is_file() and (self.folder / name).stat().st_size == size
            for name, size in outputs.items()
        )

    def mark_outdated(self, stages: Sequence[str]) -> None:
        """Say of what is recorded of some stages that it is of earlier settings, until they are done again."""
        held = self.manifest["stages"]
        old = {name: record | {"outdated": True} for name, record in held.items() if name in stages}
        self.update_manifest(stages=held | old)

    def forget_stages(self, stages: Sequence[str]) -> None:
        """Take out what is recorded of some stages, and of analyses where that is among them: they are done again."""
        held = self.manifest["stages"]
        kept = {name: record for name, record in held.items() if name.split()[0] not in stages}
        self.update_manifest(stages=kept)

    def confirm_stage(self, stage: str) -> None:
        """Say of a stage that is done that it is of these settings after all."""
        held = self.manifest["stages"]
        if held[stage].pop("outdated", False):
            self.update_manifest(stages=held)

    def finish_stage(self, stage: str, key: str, outputs: Sequence[Path], seconds: float) -> None:
        """Record a stage as done, with the size of every file that it wrote."""
        files = [file for path in outputs for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        sizes = {str(file.relative_to(self.folder)): file.stat().st_size for file in files if file.is_file()}
        finished = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
        record = {
            "key": key,
            "finished": finished,
            "seconds": round(seconds, 2),
            "outputs": sizes,
            "provenance": provenance(),
        }
        self.update_manifest(stages=self.manifest["stages"] | {stage: record})


def open_run(folder: str | Path) -> Run:
    """Open a run folder to read it; a warning says where tables are of earlier settings than its study.

    Raises:
        RunError: the folder is not a run.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        raise RunError(f"{folder} is not a run: it has no manifest.json (ontogeny run STUDY.yaml makes one)")
    run = Run(folder)
    if old := run.outdated:
        warnings.warn(f"{folder}: {', '.join(old)} are of earlier settings: ontogeny run {folder}", stacklevel=2)
    return run


def runs_in(folder: Path) -> list[Path]:
    """A run's own folder, or those of the runs that stand in a folder; itself where there are none."""
    if (folder / "manifest.json").is_file() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/manifest.json")) or [folder]
