"""What the app shows of a run as a whole: its story, figures, heat map, tables, and how far it has come."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ontogeny import tables
from ontogeny.app.feature import feature_page
from ontogeny.app.joined import UNREADABLE as UNREADABLE_TABLES
from ontogeny.app.joined import Joined, first_line
from ontogeny.app.rows import Rows
from ontogeny.errors import OntogenyError, RunError, did_you_mean
from ontogeny.progress import read_events
from ontogeny.report import figures
from ontogeny.report.sentences import summary
from ontogeny.run import Run

MOST_EVENTS, ROWS_AT_ONCE = 400, 50_000
UNREADABLE = (*UNREADABLE_TABLES, KeyError, IndexError)
"""What reading half-written or damaged files of a run raises."""
GROUPS: dict[str, tuple[str, ...]] = {
    "The model": ("loss", "divergences"),
    "The dictionary": ("quality", "splices", "pareto"),
    "Births": ("births", "thresholds", "kin"),
    "Directions": ("drift", "cosines", "settling", "paths"),
    "Kinds": ("kinds", "induction", "complexity", "detection", "senses", "dimensions"),
    "Formation": ("progress", "levels", "formed", "umap", "gaps", "track"),
    "Trust": ("trust", "proxy", "memorisation"),
}
"""Figures of the overview; what features do for tasks has a view of its own."""
TASKS = ("accuracy", "effects", "ablation", "half_margin", "elsewhere", "prediction", "turnover", "relie")


class View:
    """One run as the app shows it. Files are read when they are asked for; what cannot be read is named."""

    def __init__(self, run: Run) -> None:
        self.run, self.rows = run, Rows(run)
        self._held: tuple[tuple[int, int], np.ndarray] | None = None

    def about(self) -> dict[str, Any]:
        """What a run is: suite, snapshots, dictionary, columns of its features, tables, figures; what is missing."""
        run, study = self.run, self.run.study
        try:
            joined = self.rows.joined()
            features, columns, missing = joined.n_features, _columns(joined), dict(joined.missing)
        except OntogenyError as error:
            features, columns, missing = study.dictionary.n_features, [], {"features": str(error)}
        held, drawn = self.tables(), self._drawn()
        if outdated := run.outdated:
            missing["earlier settings"] = (
                f"{', '.join(outdated)} are of an earlier state of the study: ontogeny run {run.folder}"
            )
        missing |= {row["table"]: row["problem"] for row in held if row["problem"]}
        manifest = run.manifest
        return {
            "name": study.name,
            "suite": self.suite,
            "pretrained": study.suite.pretrain is not None,
            "steps": [snapshot["step"] for snapshot in manifest.get("snapshots", [])],
            "hookpoint": study.hookpoint,
            "dictionary": study.dictionary.model_dump(mode="json"),
            "features": features,
            "columns": columns,
            "tables": held,
            "figures": _grouped(drawn),
            "tasks": [name for name in TASKS if name in drawn],
            "missing": missing,
        }

    @property
    def suite(self) -> str | None:
        """The suite's name; of one in a folder the folder's own."""
        name = self.run.manifest.get("suite")
        return None if name is None else Path(name).name if Path(name).is_absolute() else name

    # the story

    def sentences(self) -> dict[str, Any]:
        """What the run says in short, each sentence with the tables that it comes from."""
        try:
            found = summary(self.run)
        except UNREADABLE as error:
            return {"sentences": [], "problem": first_line(error)}
        return {"sentences": [{"text": one.text, "tables": one.tables} for one in found], "problem": None}

    def _drawn(self) -> list[str]:
        """The figures that this run has; those whose tables cannot be read are among them, and say so when asked."""
        try:
            asked = figures.asked(self.run)
        except UNREADABLE:
            return []
        return [name for name in asked if self._has_rows(name)]

    def _has_rows(self, name: str) -> bool:
        try:
            return figures.has_rows(self.run, name)
        except UNREADABLE:
            return True

    def figure(self, name: str) -> dict[str, Any]:
        """A figure as a Vega-Lite specification.

        Raises:
            RunError: there is no such figure, or its tables cannot be read.
        """
        drawn = self._drawn()
        if name not in drawn:
            raise RunError(f"no figure '{name}'{did_you_mean(name, drawn)}: there are {', '.join(drawn) or 'none yet'}")
        try:
            return figures.FIGURES[name][1](self.run)
        except UNREADABLE as error:
            raise RunError(f"the figure {name} cannot be drawn: {first_line(error)}") from None

    # features

    def _strengths(self) -> np.ndarray:
        """Relative strengths [snapshot, feature], as bytes; 255 is the greatest of a feature. Snapshots
        that a run which grows has not measured yet are zero."""
        file = self.run.folder / tables.FILES["trajectories"]
        if not file.is_file():
            raise RunError(f"{self.run.folder} has no trajectories yet: ontogeny measure {self.run.folder}")
        state = file.stat().st_mtime_ns, len(self.run.steps)
        if self._held is None or self._held[0] != state:
            self._held = state, self._read_strengths(file, len(self.run.steps))
        return self._held[1]

    def _read_strengths(self, file: Path, n_snapshots: int) -> np.ndarray:
        as_byte = (pl.col("strength_relative").fill_null(0) * 255).round().cast(pl.UInt8).alias("it")
        try:
            table = pl.scan_parquet(file).select("feature", "snapshot", as_byte).collect()
        except UNREADABLE as error:
            raise RunError(f"{file} cannot be read: {first_line(error)}") from None
        rows, columns = (table[name].to_numpy() for name in ("snapshot", "feature"))
        shape = (max(n_snapshots, rows.max(initial=-1) + 1), max(self.rows.count(), columns.max(initial=-1) + 1))
        held = np.zeros(shape, dtype=np.uint8)
        held[rows, columns] = table["it"].to_numpy()
        return held[:n_snapshots]

    def heat(self, filters: list[str], *, sort: str, descending: bool, rows: int) -> dict[str, Any]:
        """Relative strengths of the features that filters let through, in at most `rows` rows: means over equal parts
        of them, in their order.

        Returns:
            data: base64 of bytes [row, snapshot]; features: the first feature of each row; total: features let through.
        """
        chosen = self.rows.chosen(filters, sort=sort, descending=descending)
        strengths = self._strengths()[:, chosen]
        edges = np.linspace(0, len(chosen), min(rows, len(chosen)) + 1).astype(int)
        if len(chosen) > rows:
            sums = np.add.reduceat(strengths, edges[:-1], axis=1, dtype=np.float64)
            strengths = np.round(sums / np.diff(edges)).astype(np.uint8)
        return {
            "data": base64.b64encode(np.ascontiguousarray(strengths.T).tobytes()).decode(),
            "features": chosen[edges[:-1]].tolist(),
            "total": len(chosen),
        }

    def feature(self, feature: int, *, only: str | None = None) -> dict[str, Any]:
        """Everything known of one feature, or one section of it."""
        return feature_page(self.rows, feature, only=only)

    # files

    def tables(self) -> list[dict[str, Any]]:
        """Every table of the run with its rows and bytes; `problem` where it is there but cannot be read, or ought to
        be there."""
        found = []
        recorded = {
            name
            for stage in self.run.manifest["stages"].values()
            for name in stage["outputs"]
            if name.endswith(".parquet")
        }
        for name, relative in tables.FILES.items():
            file = self.run.folder / relative
            if not file.is_file():
                if relative in recorded:
                    found.append({"table": name, "rows": None, "bytes": 0, "problem": f"{relative} has gone"})
                continue
            try:
                rows, problem = pl.scan_parquet(file).select(pl.len()).collect().item(), None
            except UNREADABLE as error:
                rows, problem = None, f"{relative} cannot be read: {first_line(error)}"
            found.append({"table": name, "rows": rows, "bytes": file.stat().st_size, "problem": problem})
        return found

    def table_file(self, name: str) -> Path:
        """The file of a table.

        Raises:
            RunError: there is no such table, or this run does not have it.
        """
        if name not in tables.FILES:
            raise RunError(f"no table '{name}'{did_you_mean(name, tables.FILES)}")
        file = self.run.folder / tables.FILES[name]
        if not file.is_file():
            raise RunError(f"this run has no table '{name}'")
        return file

    def csv(self, name: str) -> Iterator[bytes]:
        """A table as CSV, some rows at a time; lists as JSON.

        Raises:
            RunError: there is no such table, or it cannot be read.
        """
        file = self.table_file(name)
        try:
            table = pl.scan_parquet(file)
            schema, rows = table.collect_schema(), table.select(pl.len()).collect().item()
        except UNREADABLE as error:
            raise RunError(f"{file} cannot be read: {first_line(error)}") from None
        as_text = [
            pl.col(column).map_elements(lambda values: json.dumps(list(values)), return_dtype=pl.String)
            for column, dtype in schema.items()
            if isinstance(dtype, pl.List)
        ]
        return (
            table.slice(start, ROWS_AT_ONCE)
            .with_columns(as_text)
            .collect()
            .write_csv(include_header=not start)
            .encode()
            for start in range(0, rows or 1, ROWS_AT_ONCE)
        )

    # the run itself

    def progress(self) -> dict[str, Any]:
        """Stages that are done, and the latest events of one that is not."""
        manifest = self.run.manifest
        events = read_events(self.run.folder / "events.jsonl")[-MOST_EVENTS:]
        return {"stages": {name: _stage(record) for name, record in manifest["stages"].items()}, "events": events}

    def settings(self) -> dict[str, Any]:
        """The resolved study, the snapshots, and what the run was made with."""
        manifest = self.run.manifest
        measured = manifest["stages"].get("measure", {})
        return {
            "study": self.run.study_path.read_text(encoding="utf-8"),
            "snapshots": manifest.get("snapshots", []),
            "provenance": measured.get("provenance"),
            "numerics": manifest.get("numerics"),
            "corpus": self._corpus(),
        }

    def _corpus(self) -> dict[str, Any] | None:
        file = self.run.corpus_folder / "train" / "manifest.json"
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _stage(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in ("finished", "seconds")}


def _columns(joined: Joined) -> list[dict[str, Any]]:
    return [
        {"name": name, "kind": joined.kinds[name], "unit": column.unit, "meaning": column.meaning}
        for name, column in joined.columns.items()
    ]


def _grouped(drawn: list[str]) -> list[dict[str, Any]]:
    """Groups of the overview with their figures."""
    groups = [{"title": title, "figures": [one for one in names if one in drawn]} for title, names in GROUPS.items()]
    return [group for group in groups if group["figures"]]
