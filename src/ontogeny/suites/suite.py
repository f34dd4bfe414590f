"""A suite and its snapshots. Opening one reads names and configurations only, no weights, and loads no torch."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ontogeny.config.study import StudyConfig
from ontogeny.config.suite import SuiteConfig
from ontogeny.errors import RunError, SuiteError
from ontogeny.families import shape_of
from ontogeny.run import Run
from ontogeny.suites.hub import hub_of
from ontogeny.suites.registry import ANY, PublicSuite, Revision, find_suite, parse_all, parse_revision
from ontogeny.suites.selection import select
from ontogeny.suites.source import FILES, WEIGHT_FILES
from ontogeny.suites.source import Snapshot as Snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SETTLED_SECONDS = 10.0
LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors file's header, by the format."""
STEP_IN_NAME = re.compile(ANY)


@dataclass(frozen=True)
class Suite:
    """The ordered snapshots of one model's pre-training run.

    Attributes:
        spare_tokenizer: a folder with the tokenizer, for where no snapshot has one.
    """

    name: str
    snapshots: tuple[Snapshot, ...]
    spare_tokenizer: Path | None = None

    @property
    def steps(self) -> list[int]:
        return [snapshot.step for snapshot in self.snapshots]

    def model_config(self) -> dict[str, Any]:
        """The transformers configuration of the first snapshot, as plain values."""
        first = self.snapshots[0]
        return first.source.config(first)

    def width(self) -> int:
        """d_model of all snapshots, from their configurations.

        Raises:
            SuiteError: they differ.
        """
        widths: dict[int, int] = {}
        for snapshot in self.snapshots:
            widths.setdefault(shape_of(snapshot.source.config(snapshot)).width, snapshot.step)
        if len(widths) > 1:
            found = ", ".join(f"{width} at step {step}" for width, step in widths.items())
            raise SuiteError(f"suite {self.name}: snapshots differ in width ({found}): take those of one model")
        return next(iter(widths))

    def only(self, indices: Sequence[int]) -> "Suite":
        """Some of the snapshots."""
        return replace(self, snapshots=tuple(self.snapshots[index] for index in indices))

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The suite's tokenizer: of the last snapshot that has one.

        Raises:
            SuiteError: no snapshot has one, and no other was given.
        """
        from transformers import PreTrainedTokenizerFast

        folders = (snapshot.source.tokenizer(snapshot) for snapshot in reversed(self.snapshots))
        found = next((folder for folder in folders if folder is not None), self.spare_tokenizer)
        if found is None or not (found / "tokenizer.json").is_file():
            there = "" if found is None else f", nor has {found}"
            raise SuiteError(
                f"suite {self.name}: no snapshot has a tokenizer.json{there}: give a saved one as corpus.tokenizer"
            )
        try:
            return PreTrainedTokenizerFast.from_pretrained(found)
        except Exception as error:  # the library in Rust raises its own
            raise SuiteError(f"{found / 'tokenizer.json'} cannot be read as a tokenizer: {error}") from None


def open_suite(
    source: str | Path | Sequence[str],
    *,
    steps: Sequence[int] | str | None = None,
    missing: Literal["refuse", "skip"] = "refuse",
    revisions: str | None = None,
    tokens_per_step: int | None = None,
    stage: str | None = None,
    disk_gb: float | None = None,
    pins: Mapping[str, str] | None = None,
) -> Suite:
    """Open a suite: a folder, or a repository on the hub whose branches or tags are snapshots.

    A folder holds one saved transformers checkpoint per snapshot (step0/, step512/, checkpoint-500/, …), or one
    safetensors file per snapshot (step512.safetensors, …) beside one config.json.

    Args:
        source: the folder; a repository, such as `EleutherAI/pythia-160m`; a published suite's name, `pythia-160m`; or
            repositories that hold one snapshot each.
        steps: only these, or a selection (`log`, `every=2`, `n=32`, a schedule's name); None for all that exist.
        missing: whether steps without a snapshot are refused or left out.
        revisions: a regular expression with a group `step`, and perhaps `stage` and `tokens`, for names of snapshots
            that are not understood otherwise.
        tokens_per_step: where the suite does not say.
        stage: of a suite that has several; None for the first.
        disk_gb: disk for weights fetched from the hub, in 1e9 bytes; None: they are kept in the hub's cache.
        pins: commits of revisions, instead of what the hub says now.
    Raises:
        SuiteError: there is no such suite, it holds no snapshot, a step is missing (its neighbours are named), two
            snapshots have the same step, or a snapshot lacks its configuration or weights.
    """
    if not isinstance(source, str | Path):
        found, name = _of_repositories(source, revisions, tokens_per_step, disk_gb, pins), str(source[0])
    elif (folder := Path(source)).is_dir():
        found = _in_folder(folder, revisions, tokens_per_step, stage)
        name = folder.resolve().name
    elif folder.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise SuiteError(
            f"no suite at {folder}: expected a folder with one saved checkpoint per step (step0/, step512/), or a "
            "repository on the hub"
        )
    else:
        name, suite = find_suite(str(source))
        if revisions is not None:
            suite = PublicSuite(name, (name,), revisions)
        suite = replace(suite, tokens_per_step=tokens_per_step or suite.tokens_per_step)
        found = _on_hub(name, suite, stage, disk_gb, pins)
    chosen = select(sorted(found), steps or "all", missing=missing, of=str(source))
    snapshots = tuple(found[step] for step in chosen)
    for snapshot in snapshots:
        if snapshot.commit is None:
            _require_whole(snapshot)
    if snapshots[0].commit is not None:
        hub_of(disk_gb).in_order(snapshots)
    return Suite(name=name, snapshots=snapshots)


def _in_folder(
    folder: Path, revisions: str | None, tokens_per_step: int | None, stage: str | None
) -> dict[int, Snapshot]:
    """The snapshots of a folder by their steps."""
    grammar, tokens = revisions or ANY, tokens_per_step or _tokens_a_step(folder)
    parsed: dict[Path, Revision] = {}
    for path in sorted(folder.iterdir()):
        name = path.name if path.is_dir() else path.name.removesuffix(".safetensors")
        one = parse_revision(name, grammar, tokens_per_step=tokens)
        if one is not None and (path.is_dir() or path.suffix == ".safetensors"):
            parsed[path] = one
    if not parsed:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise SuiteError(
            f"{folder} holds no snapshot: expected folders such as step0, found {names}; give `revisions` where names "
            "are others"
        )
    found: dict[int, Snapshot] = {}
    for path, revision in _of_stage(parsed, stage, str(folder)).items():
        if revision.step in found:
            other = found[revision.step].revision
            raise SuiteError(f"{folder}: {other} and {path.name} are both step {revision.step}: remove one")
        own = {} if path.is_dir() else {"source": FILES}
        found[revision.step] = Snapshot(str(folder), path.name, None, revision.step, revision.tokens, **own)
    return found


def _on_hub(
    repo: str, suite: PublicSuite, stage: str | None, disk_gb: float | None, pins: Mapping[str, str] | None
) -> dict[int, Snapshot]:
    """The snapshots of a repository by their steps; what the hub lists is not asked for where all are pinned."""
    hub = hub_of(disk_gb)
    commits = dict(pins) if pins else hub.refs(repo)
    parsed = parse_all(commits, suite)
    if not parsed:
        names = ", ".join(sorted(commits)[:5]) or "nothing"
        raise SuiteError(
            f"{repo} has no branch or tag that names a snapshot: found {names}; give `revisions` where names are others"
        )
    found: dict[int, Snapshot] = {}
    for name, revision in _of_stage(parsed, stage, repo).items():
        if revision.step in found:
            other = found[revision.step].revision
            raise SuiteError(f"{repo}: {other} and {name} are both step {revision.step}: give `stage`")
        found[revision.step] = Snapshot(repo, name, commits[name], revision.step, revision.tokens, source=hub)
    return found


def _of_repositories(
    repos: Sequence[str],
    revisions: str | None,
    tokens_per_step: int | None,
    disk_gb: float | None,
    pins: Mapping[str, str] | None,
) -> dict[int, Snapshot]:
    """Snapshots of a repository each, their main branches, by the steps in the repositories' names."""
    hub, found = hub_of(disk_gb), {}
    for repo in repos:
        parsed = parse_revision(repo, revisions or rf".*?{ANY}", tokens_per_step=tokens_per_step)
        if parsed is None:
            raise SuiteError(f"no step in the name of {repo}: give `revisions`, such as .*-step(?P<step>\\d+)")
        if parsed.step in found:
            raise SuiteError(f"{found[parsed.step].repo} and {repo} are both step {parsed.step}: remove one")
        commit = pins[repo] if pins else hub.refs(repo).get("main")
        if commit is None:
            raise SuiteError(f"{repo} has no branch main")
        found[parsed.step] = Snapshot(repo, "main", commit, parsed.step, parsed.tokens, source=hub)
    return found


def _of_stage(parsed: Mapping[Any, Revision], stage: str | None, of: str) -> dict[Any, Revision]:
    """Those of one stage of the pre-training: of the first, where none is asked for."""
    stages = sorted({one.stage for one in parsed.values() if one.stage is not None}, key=_rank)
    if stage is not None and stage not in stages:
        raise SuiteError(f"{of} has no stage '{stage}': there are {', '.join(stages) or 'none'}")
    first = stage or (stages[0] if stages else None)
    return {key: one for key, one in parsed.items() if one.stage == first or (one.stage is None and stage is None)}


def _rank(stage: str) -> tuple[bool, list[int], str]:
    """Numbered stages first, in the order of their numbers."""
    return re.match(r"(stage|phase)\d", stage) is None, [int(number) for number in re.findall(r"\d+", stage)], stage


def _require_whole(snapshot: Snapshot) -> None:
    """Check that a snapshot on disk is a saved checkpoint."""
    if snapshot.source is FILES:
        if not (snapshot.path.parent / "config.json").is_file():
            raise SuiteError(f"{snapshot.repo} has a file for each snapshot but no config.json beside them")
        return
    for names in (("config.json",), WEIGHT_FILES):
        if not any((snapshot.path / name).is_file() for name in names):
            raise SuiteError(f"{snapshot.path} is not a saved checkpoint: it has no {names[0]}")


def complete_steps(folder: str | Path) -> list[int]:
    """Steps of the snapshots in a folder whose files are all there in full, ascending; the folder need not exist yet.

    For a suite that is still being written: a snapshot counts once its configuration is there and its weights are as
    long as their own header says; files without one once they have not changed for a while.
    """
    folder = Path(folder)
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = STEP_IN_NAME.fullmatch(path.name)
        if match is not None and path.is_dir() and _is_complete(path):
            found.append(int(match["step"]))
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
    return _is_settled(file) if file.suffix != ".safetensors" else tensors_of(file) is not None


def tensors_of(file: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a safetensors file's tensors by name; None where it is shorter or longer than its header says."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(length) if length < LONGEST_HEADER else b""
    try:
        entries = json.loads(header)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    return shapes if file.stat().st_size == 8 + length + end else None


def _is_settled(file: Path) -> bool:
    """Whether a file has not changed for a while; a small text file, whether it can be read."""
    if file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return False
        return True
    return time.time() - file.stat().st_mtime > SETTLED_SECONDS


def _tokens_a_step(folder: Path) -> int | None:
    """Tokens of one optimiser step, where the folder's suite.json states it (our own pre-training writes it)."""
    path = folder / "suite.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("tokens_per_step")


def study_suite(study: StudyConfig, run: Run | None = None) -> Suite:
    """The suite that a study names, where it does not pre-train its own.

    Args:
        run: of the study; what it read from the hub before, it reads again, whatever the branches say now.
    Raises:
        SuiteError: the suite or one of its snapshots is missing.
    """
    asked = study.suite
    source = asked.folder if asked.repo is None else asked.repo
    assert source is not None
    pins = None if run is None else _pins(run, asked)
    names = ("missing", "revisions", "tokens_per_step", "stage", "disk_gb")
    suite = open_suite(
        source,
        steps=None if pins else asked.steps,  # what is pinned was chosen before
        pins=pins,
        **{name: getattr(asked, name) for name in names},
    )
    given = study.corpus.tokenizer
    if not isinstance(given, Path):
        return suite
    return replace(suite, spare_tokenizer=given.parent if given.name == "tokenizer.json" else given)


def pin(run: Run) -> None:
    """Write down the commits that a run reads from the hub, if it has not yet."""
    asked = run.study.suite
    if asked.repo is not None and _pins(run, asked) is None:
        several = not isinstance(asked.repo, str)
        snapshots = study_suite(run.study).snapshots
        commits = {one.repo if several else one.revision: one.commit for one in snapshots}
        run.update_manifest(commits={"of": _selection(asked), "revisions": commits})


def is_pinned(run: Run, asked: SuiteConfig) -> bool:
    """Whether a run has written its commits down, and with that has had them audited."""
    return _pins(run, asked) is not None


def _pins(run: Run, asked: SuiteConfig) -> dict[str, str] | None:
    """The commits that a run wrote down, if it was for the same selection of the same repository."""
    noted = run.manifest.get("commits")
    return None if asked.repo is None or noted is None or noted["of"] != _selection(asked) else noted["revisions"]


def _selection(asked: SuiteConfig) -> list[Any]:
    return [asked.repo, asked.steps, asked.missing, asked.revisions, asked.stage, asked.bad_snapshots]


def candidates_of(run: Run) -> Suite:
    """The suite that a run's study names: of its own pre-training, or of a folder.

    Raises:
        SuiteError: the folder or one of its snapshots is missing.
    """
    settings = run.study.suite
    if settings.pretrain is None:
        return study_suite(run.study, run)
    there = settings.pretrain.schedule
    steps = select(there, settings.steps, missing=settings.missing, of=run.study.name)
    return open_suite(run.suite_folder, steps=steps)


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
