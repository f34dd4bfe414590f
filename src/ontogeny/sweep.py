"""A study made for several hookpoints, seeds or selections of snapshots: a run each, jobs for a cluster, one table.

Members are runs of their own, below one folder. A job is one command on one member up to a stage; what an earlier job
has not done, a later one does, and what is done is not done again, so that jobs may come in any order and be repeated.
"""

import shlex
import sys
from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ontogeny import tables
from ontogeny.config.settings import parse
from ontogeny.config.study import StudyConfig
from ontogeny.errors import ConfigError, RunError, did_you_mean
from ontogeny.files import atomic_path, write_text
from ontogeny.plan.plan import plan_study
from ontogeny.preflight import check_names
from ontogeny.progress import started_together
from ontogeny.run import Run, run_folder
from ontogeny.study import Say, run_study

UNTIL = ("train", "report")
"""Stages at whose ends jobs end: what a GPU is for, and the rest."""
FOR_GPUS = ("--gres", "--gpu", "-G")
"""How options of SLURM begin that ask for GPUs, which merging has no use for."""
LONGEST = 40
"""Letters that a selection of steps may take in a member's name."""


class Member(NamedTuple):
    """One of a sweep's studies.

    Attributes:
        values: of the settings that differ, by axis: hookpoint, seed, steps.
        study: with these.
    """

    values: dict[str, str | int]
    study: StudyConfig


def members(study: StudyConfig) -> dict[str, Member]:
    """The studies of a sweep by their names, such as `resid_post.0-seed1`.

    Raises:
        ConfigError: the study is no sweep, or a member of it cannot be.
    """
    sweep = study.sweep
    if sweep is None:
        raise ConfigError(f"{study.name} is one study: add `sweep: {{hookpoints: […], seeds: […]}}` for several")
    hookpoints, seeds = sweep.hookpoints or [study.hookpoint], sweep.seeds or [study.train.seed]
    found = {}
    for hookpoint, seed, steps in product(hookpoints, seeds, sweep.steps or [study.suite.steps]):
        shown = steps if isinstance(steps, str) else "-".join(map(str, steps))
        if len(shown) > LONGEST:
            shown = f"{len(steps)}steps-{sha256(shown.encode()).hexdigest()[:6]}"
        parts = [
            hookpoint if sweep.hookpoints else "",
            f"seed{seed}" if sweep.seeds else "",
            shown if sweep.steps else "",
        ]
        name = "-".join(filter(None, parts)).replace("=", "")
        changes = {
            "name": f"{study.name}-{name}",
            "sweep": None,
            "hookpoint": hookpoint,
            "train": study.train.model_dump() | {"seed": seed},
            "suite": study.suite.model_dump() | {"steps": steps},
        }
        values: dict[str, str | int] = {"hookpoint": hookpoint, "seed": seed, "steps": shown}
        found[name] = Member(values, parse(StudyConfig, study.model_dump() | changes, where=name))
    return found


def run_sweep(
    study: StudyConfig,
    *,
    out: str | Path | None = None,
    until: str = "report",
    only: str | None = None,
    say: Say = print,
) -> Path:
    """Run every member of a sweep, one after the other, or one of them; what is done already is not done again.

    Args:
        out: the folder of all members; None for `runs/NAME`.
        until: the last stage to run.
        only: the name of one member.
    Returns:
        The folder.
    Raises:
        ConfigError: the study is no sweep, or has no such member.
    """
    folder, found = run_folder(study, out), members(study)
    if only is None and started_together() > 1:
        raise ConfigError(f"torchrun runs one study at a time: give --member, one of {', '.join(found)}")
    if only is not None and only not in found:
        raise ConfigError(f"no member '{only}'{did_you_mean(only, found)}: there are {', '.join(found)}")
    chosen = {name: member.study for name, member in found.items() if only in (None, name)}
    for name, one in chosen.items():  # all, before the first takes its time; the rest is checked when each starts
        check_names(one)
        plan_study(one, folder / name)
    for name, one in chosen.items():
        say(f"{name}:")
        run_study(one, out=folder / name, until=until, say=say)
    return folder


def merge(study: StudyConfig, *, out: str | Path | None = None) -> list[Path]:
    """Put the members' tables one below the other, each row with its member and that one's hookpoint, seed and steps.

    Returns:
        The merged tables, in `merged/` beside the members.
    Raises:
        RunError: a member is not done, or of other settings.
    """
    folder, found = run_folder(study, out), members(study)
    runs = {name: Run(folder / name) for name in found}
    last = {name: run.manifest["stages"].get("report") for name, run in runs.items()}
    if open_ones := [name for name, record in last.items() if record is None or record.get("outdated")]:
        raise RunError(f"not done yet: {', '.join(open_ones)}: run their jobs, or `ontogeny run` for all")
    if others := [name for name, run in runs.items() if not _is_of(run.study, found[name].study)]:
        raise RunError(f"of other settings than the sweep's: {', '.join(others)}: run their jobs again")
    shared = {
        table: relative
        for table, relative in tables.FILES.items()
        if all((run.folder / relative).is_file() for run in runs.values())
    }
    with atomic_path(folder / "merged") as temporary:
        for table, relative in shared.items():
            (temporary / relative).parent.mkdir(parents=True, exist_ok=True)
            parts = [_labelled(run.table(table), name, found[name]) for name, run in runs.items()]
            pl.concat(parts).write_parquet(temporary / relative, compression="zstd")
    return [folder / "merged" / relative for relative in shared.values()]


def _labelled(table: pl.DataFrame, name: str, member: Member) -> pl.DataFrame:
    values = {"member": name} | {f"member_{axis}": value for axis, value in member.values.items()}
    kinds = {axis: pl.String if isinstance(value, str) else pl.Int64 for axis, value in values.items()}
    return table.select(*(pl.lit(value, kinds[axis]).alias(axis) for axis, value in values.items()), pl.all())


def _is_of(study: StudyConfig, member: StudyConfig) -> bool:
    """Whether a run's study is a member's, checks that were asked for later left out."""
    own, wanted = (one.model_dump(mode="json", exclude={"truth", "analyses", "report"}) for one in (study, member))
    return own == wanted and set(member.analyses) <= set(study.analyses)


def write_jobs(
    study_file: Path,
    study: StudyConfig,
    folder: str | Path,
    *,
    out: str | Path | None = None,
    options: Sequence[str] = (),
) -> list[Path]:
    """Write a batch script for each job of a sweep, and `submit.sh`, which hands them to SLURM in their order.

    Args:
        study_file: what the jobs name; it has to be readable where they run.
        options: lines for `#SBATCH`, such as `--gres=gpu:1`; for `merge.sh` those that ask for no GPU.
    Returns:
        The jobs, in an order in which they can run one after the other; `merge.sh` and `submit.sh` lie beside them.
    """
    folder = Path(folder)
    on = f"{shlex.quote(str(study_file.absolute()))} --out {shlex.quote(str(run_folder(study, out).absolute()))}"
    jobs, submit = [], ['cd "$(dirname "$0")"', "ends=()"]
    for name in members(study):
        for number, until in enumerate(UNTIL):
            path = folder / f"{name}-{number}-{until}.sh"
            sbatch = [f"--job-name={study.name}-{name}-{until}", f"--output={path.stem}-%j.log", *options]
            _write_script(path, f"run {on} --member {shlex.quote(name)} --until {until}", sbatch)
            jobs.append(path)
            after = '--dependency="afterok:$last" ' if number else ""
            submit.append(f"last=$(sbatch --parsable {after}{shlex.quote(path.name)})")
        submit.append('ends+=("$last")')
    own = [one for one in options if not one.startswith(FOR_GPUS)]
    merging = [f"--job-name={study.name}-merge", "--output=merge-%j.log", *own]
    _write_script(folder / "merge.sh", f"merge {on}", merging)
    submit.append('sbatch --dependency="afterok:$(IFS=:; echo "${ends[*]}")" merge.sh')
    _write(folder / "submit.sh", [], submit)
    return jobs


def _write_script(path: Path, command: str, sbatch: list[str]) -> None:
    """A job that runs one of our commands where we are now, with this interpreter."""
    program = shlex.join([sys.executable, "-m", "ontogeny"])
    _write(path, sbatch, [f"cd {shlex.quote(str(Path.cwd()))}", f"{program} {command}"])


def _write(path: Path, sbatch: list[str], lines: list[str]) -> None:
    head = ["#!/usr/bin/env bash", *(f"#SBATCH {one}" for one in sbatch), "set -euo pipefail"]
    write_text(path, "\n".join([*head, *lines, ""]))
    path.chmod(0o755)
