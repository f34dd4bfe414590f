"""A suite and its snapshots. Opening one reads names and configurations only, no weights, and loads no torch."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ontogeny.config import StudyConfig
from ontogeny.errors import RunError, SuiteError
from ontogeny.families import shape_of
from ontogeny.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SETTLED_SECONDS = 10.0
STEP_IN_NAME = re.compile(r"^(?:step|checkpoint|global_step|ckpt)[-_]?(\d+)$")
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of a suite.

    Attributes:
        repo: the folder that holds the suite.
        revision: the snapshot's name in it, such as `step512`.
        commit: pins the content, where the source has one.
        step: optimiser steps taken.
        tokens_seen: tokens read until then, where known.
    """

    repo: str
    revision: str
    commit: str | None
    step: int
    tokens_seen: int | None

    @property
    def path(self) -> Path:
        return Path(self.repo) / self.revision


@dataclass(frozen=True)
class Suite:
    """The ordered snapshots of one model's pre-training run."""

    name: str
    snapshots: tuple[Snapshot, ...]

    @property
    def steps(self) -> list[int]:
        return [snapshot.step for snapshot in self.snapshots]

    def model_config(self) -> dict[str, Any]:
        """The transformers configuration of the first snapshot, as plain values."""
        return json.loads((self.snapshots[0].path / "config.json").read_text(encoding="utf-8"))

    def width(self) -> int:
        """d_model of all snapshots, from their configurations.

        Raises:
            SuiteError: they differ.
        """
        widths: dict[int, int] = {}
        for snapshot in self.snapshots:
            config = json.loads((snapshot.path / "config.json").read_text(encoding="utf-8"))
            widths.setdefault(shape_of(config).width, snapshot.step)
        if len(widths) > 1:
            found = ", ".join(f"{width} at step {step}" for width, step in widths.items())
            raise SuiteError(f"suite {self.name}: snapshots differ in width ({found}): take those of one model")
        return next(iter(widths))

    def only(self, indices: Sequence[int]) -> "Suite":
        """Some of the snapshots."""
        return Suite(self.name, tuple(self.snapshots[index] for index in indices))

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The suite's tokenizer: of the last snapshot that has one.

        Raises:
            SuiteError: no snapshot has one.
        """
        from transformers import PreTrainedTokenizerFast

        for snapshot in reversed(self.snapshots):
            if (snapshot.path / "tokenizer.json").is_file():
                return PreTrainedTokenizerFast.from_pretrained(snapshot.path)
        raise SuiteError(f"suite {self.name}: no snapshot has a tokenizer.json")


def open_suite(
    source: str | Path, *, steps: Sequence[int] | None = None, missing: Literal["refuse", "skip"] = "refuse"
) -> Suite:
    """Open a folder with one saved transformers checkpoint per snapshot (step0/, step512/, checkpoint-500/, …).

    Args:
        source: the folder.
        steps: only these, in ascending order; None for all that exist.
        missing: whether steps without a snapshot are refused or left out.
    Raises:
        SuiteError: the folder is missing or holds no snapshot, a step is missing (its neighbours are named), two
            snapshots have the same step, or a snapshot lacks its configuration or weights.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise SuiteError(
            f"no suite at {folder}: expected a folder with one saved checkpoint per step (step0/, step512/)"
        )
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = STEP_IN_NAME.match(path.name)
        if match is None or not path.is_dir():
            continue
        step = int(match[1])
        if step in found:
            raise SuiteError(f"{folder}: {found[step].name} and {path.name} are both step {step}: remove one")
        found[step] = path
    if not found:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise SuiteError(f"{folder} holds no snapshot: expected folders such as step0, found {names}")
    wanted = sorted(found if steps is None else set(steps))
    if missing == "skip":
        wanted = [step for step in wanted if step in found]
        if not wanted:
            raise SuiteError(f"{folder} has none of the steps asked for (ontogeny suites show {folder})")
    for step in wanted:
        if step not in found:
            raise SuiteError(
                f"no snapshot at step {step}: {_neighbours(step, list(found))} (ontogeny suites show {folder})"
            )
        for names in (("config.json",), WEIGHT_FILES):
            if not any((found[step] / name).is_file() for name in names):
                raise SuiteError(f"{found[step]} is not a saved checkpoint: it has no {names[0]}")
    tokens = _tokens_a_step(folder)
    snapshots = tuple(
        Snapshot(
            repo=str(folder),
            revision=found[step].name,
            commit=None,
            step=step,
            tokens_seen=None if tokens is None else step * tokens,
        )
        for step in wanted
    )
    return Suite(name=folder.resolve().name, snapshots=snapshots)


def complete_steps(folder: str | Path) -> list[int]:
    """Steps of the snapshots in a folder whose files are all there in full, ascending; the folder need not exist yet.

    For a suite that is still being written: a snapshot counts once its configuration is there and its weights are as
    long as their own header says; files without one once they have not changed for a while.
    """
    folder = Path(folder)
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = STEP_IN_NAME.match(path.name)
        if match is not None and path.is_dir() and _is_complete(path):
            found.append(int(match[1]))
    return sorted(found)


def _is_complete(snapshot: Path) -> bool:
    weights = next((snapshot / name for name in WEIGHT_FILES if (snapshot / name).is_file()), None)
    config = snapshot / "config.json"
    if weights is None or not config.is_file() or not _is_settled(config):
        return False
    files = [weights]
    if weights.suffix == ".json":
        if not _is_settled(weights):
            return False
        names = set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values())
        files = [snapshot / name for name in names]
    return all(file.is_file() and _is_whole(file) for file in files)


def _is_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says; another file, whether it has settled."""
    if file.suffix != ".safetensors":
        return _is_settled(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(length)
    if len(header) < max(length, 1):
        return False
    ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
    return file.stat().st_size == 8 + length + max(ends, default=0)


def _is_settled(file: Path) -> bool:
    """Whether a file has not changed for a while; a small text file, whether it can be read."""
    if file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return False
        return True
    return time.time() - file.stat().st_mtime > SETTLED_SECONDS


def _neighbours(step: int, steps: list[int]) -> str:
    below = max((s for s in steps if s < step), default=None)
    above = min((s for s in steps if s > step), default=None)
    near = [str(s) for s in (below, above) if s is not None]
    return f"nearest {'are' if len(near) > 1 else 'is'} {' and '.join(near)}"


def _tokens_a_step(folder: Path) -> int | None:
    """Tokens of one optimiser step, where the folder's suite.json states it (our own pre-training writes it)."""
    path = folder / "suite.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("tokens_per_step")


def study_suite(study: StudyConfig) -> Suite:
    """The folder suite that a study names.

    Raises:
        SuiteError: the folder or one of its snapshots is missing.
    """
    assert study.suite.folder is not None
    return open_suite(study.suite.folder, steps=study.suite.asked_steps, missing=study.suite.missing)


def candidates_of(run: Run) -> Suite:
    """The suite that a run's study names: of its own pre-training, or of a folder.

    Raises:
        SuiteError: the folder or one of its snapshots is missing.
    """
    settings = run.study.suite
    if settings.pretrain is None:
        return study_suite(run.study)
    steps = settings.asked_steps or settings.pretrain.schedule
    return open_suite(run.suite_folder, steps=steps, missing=settings.missing)


def suite_of(run: Run) -> Suite:
    """The suite that a run studies: all its study names, or those chosen by how far activations move.

    Raises:
        SuiteError: the folder or one of its snapshots is missing.
        RunError: they are not chosen yet.
    """
    candidates = candidates_of(run)
    if run.study.suite.drift is None:
        return candidates
    if not run.schedule_path.is_file():
        raise RunError(f"{run.folder} has not chosen its snapshots yet (suite.drift): ontogeny run {run.folder}")
    chosen = set(json.loads(run.schedule_path.read_text(encoding="utf-8"))["steps"])
    return candidates.only([place for place, step in enumerate(candidates.steps) if step in chosen])
