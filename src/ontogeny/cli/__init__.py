"""The command line: one command per stage. Parse, call, say what was written and what comes next.

Commands that are no stage have files of their own, and are put in their place here.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ontogeny.cli.compare import compare
from ontogeny.cli.interop import export, import_, pull, push
from ontogeny.cli.plan import plan
from ontogeny.cli.serve import serve
from ontogeny.cli.shared import JsonOption, OutOption, StudyArgument, load, load_one, print_table
from ontogeny.cli.store import store_app
from ontogeny.cli.suites import suites_app
from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.progress import speaks

if TYPE_CHECKING:
    from ontogeny.config.study import StudyConfig
    from ontogeny.run import Run

app = typer.Typer(
    name="ontogeny",
    help="When and how the features of a language model form during pre-training.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(suites_app, name="suites")
app.add_typer(store_app, name="store")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"ontogeny {version('ontogeny')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

NEXT = {
    "pack": "pretrain",
    "pretrain": "train",
    "schedule": "train",
    "train": "measure",
    "measure": "analyse",
    "analyse": "attribute",
    "attribute": "report",
    "truth": "report",
}


@app.callback()
def _root(debug: DebugOption = False, version: VersionOption = False) -> None:
    _Settings.debug = debug


class _Settings:
    """What the options before the command set."""

    debug = False


def _run(study: "Path | StudyConfig", out: Path | None, until: str, as_json: bool) -> "Run":
    """Run a study's stages up to one, then say where things are and what to run next."""
    from ontogeny.study import run_study

    if isinstance(study, Path):
        study, out = load_one(study, out)
    run = run_study(study, out=out, until=until, say=lambda line: print(line, file=sys.stderr))
    if not speaks():
        raise SystemExit(0)
    _tell(run, until, as_json)
    return run


def _tell(run: "Run", until: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": str(run.folder), "stages": run.manifest["stages"]}))
    elif until == "report":
        print(f"wrote {run.report_path if run.study.report else run.folder}; next: ontogeny serve {run.folder}")
    else:
        following = NEXT["attribute"] if until == "analyse" and run.study.attribution is None else NEXT[until]
        print(f"wrote {run.folder}; next: ontogeny {following} {run.folder}")


@app.command()
def demo(out: OutOption = None, as_json: JsonOption = False) -> None:
    """Pre-train a small LM on the documentation in this environment, study it, and write a report.

    Example: ontogeny demo
    """
    from ontogeny.config.presets import preset

    _run(preset("demo"), out, "report", as_json)


@app.command()
def run(
    study: StudyArgument,
    out: OutOption = None,
    as_json: JsonOption = False,
    until: Annotated[
        str, typer.Option("--until", help=f"The last stage to run, of {', '.join((*NEXT, 'report'))}.")
    ] = "report",
    member: Annotated[str | None, typer.Option("--member", help="One study of a sweep.")] = None,
    slurm: Annotated[
        Path | None, typer.Option("--slurm", help="Of a sweep: write a SLURM script for each job into this folder.")
    ] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="A line for the scripts, such as --gres=gpu:1; repeatable.")
    ] = None,
) -> None:
    """Run a study from its suite to its report, or every study of a sweep; what is done already is not done again.

    Example: ontogeny run study.yaml
    """
    config, folder = load(study, out)
    if config.sweep is None:
        for name, given in (("--member", member), ("--slurm", slurm), ("--sbatch", sbatch)):
            if given:
                raise ConfigError(f"{name} is for a sweep, {study} is one study: add a `sweep` section")
        _run(config, folder, until, as_json)
        return
    from ontogeny.sweep import merge, run_sweep, write_jobs

    if sbatch and slurm is None:
        raise ConfigError("--sbatch is a line of SLURM scripts: give --slurm FOLDER to write them into")
    if slurm is not None and (member is not None or until != "report"):
        raise ConfigError("--slurm writes every job of the sweep: leave out --member and --until")
    if slurm is not None:
        jobs = write_jobs(study, config, slurm, out=folder, options=sbatch or [])
        if as_json:
            print(json.dumps({"jobs": list(map(str, jobs)), "submit": str(slurm / "submit.sh")}))
        else:
            print(f"wrote {len(jobs)} jobs to {slurm}; next: {slurm / 'submit.sh'}")
        return
    where = run_sweep(config, out=folder, until=until, only=member, say=lambda line: print(line, file=sys.stderr))
    if not speaks():
        raise SystemExit(0)
    written = merge(config, out=folder) if member is None and until == "report" else []
    if as_json:
        print(json.dumps({"run": str(where), "merged": list(map(str, written))}))
    else:
        print(f"wrote {where}" + (f" and {len(written)} merged tables in {where / 'merged'}" if written else ""))


@app.command("merge")
def merge_command(study: StudyArgument, out: OutOption = None) -> None:
    """Put the tables of a sweep's runs one below the other.

    Example: ontogeny merge sweep.yaml
    """
    from ontogeny.sweep import merge

    config, folder = load(study, out)
    written = merge(config, out=folder)
    print(f"wrote {len(written)} tables to {written[0].parent}")


app.command()(plan)


@app.command()
def pack(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Tokenize and pack a study's corpus.

    Example: ontogeny pack study.yaml
    """
    _run(study, out, "pack", as_json)


@app.command()
def pretrain(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Pre-train a study's small LM and save its snapshots (after `pack`, where that is not done).

    Example: ontogeny pretrain study.yaml
    """
    _run(study, out, "pretrain", as_json)


@app.command()
def train(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Train a study's dictionary on streamed activations (after what comes before it).

    Example: ontogeny train study.yaml
    """
    _run(study, out, "train", as_json)


@app.command()
def track(
    study: StudyArgument,
    out: OutOption = None,
    as_json: JsonOption = False,
    follow: Annotated[
        Path | None, typer.Option("--follow", help="A folder that a pre-training saves its snapshots in: read along.")
    ] = None,
    until: Annotated[
        int | None, typer.Option("--until", help="With --follow: end after this step, or a later one.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option("--idle", help="With --follow: end when nothing new has come for so many seconds.")
    ] = None,
) -> None:
    """Run a study whose dictionary is an SAE series, or extend it while its suite is still being pre-trained.

    Example: ontogeny track study.yaml --follow runs/pretraining/suite
    """
    from ontogeny.errors import ConfigError
    from ontogeny.live import follow as follow_suite

    config, out = load_one(study, out)
    if config.dictionary.kind != "sae_series":
        raise ConfigError(f"{study}: track is for an SAE series: set dictionary.kind: sae_series, or use ontogeny run")
    if follow is None and (until is not None or idle is not None):
        raise ConfigError("--until and --idle are for --follow FOLDER: give that too")
    if idle is not None and idle < 0:
        raise ConfigError(f"--idle {idle:g}: give seconds to wait, 0 or more")
    if follow is None:
        _run(config, out, "report", as_json)
        return
    run = follow_suite(
        config, follow, out=out, until=until, idle=idle, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    if run is None:
        print(f"{follow} has no whole snapshot yet: nothing was done", file=sys.stderr)
    else:
        _tell(run, "report", as_json)


@app.command()
def measure(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Measure a study's features (after what comes before it) and print the dictionary's quality.

    Example: ontogeny measure study.yaml
    """
    done = _run(study, out, "measure", as_json)
    if not as_json:
        columns = ("explained_variance", "pca_explained_variance", "l0", "dead_share", "delta_ce", "loss_recovered")
        print_table(done.table("quality").select("snapshot", "step", *columns))


@app.command()
def analyse(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Run a study's analyses (after what comes before them) and print the one on emergence.

    Example: ontogeny analyse study.yaml
    """
    done = _run(study, out, "analyse", as_json)
    if not as_json and "emergence" in done.study.analyses:
        columns = ("alive_threshold", "snapshot", "step", "births", "deaths", "alive", "born_share")
        print_table(done.analysis("emergence").select(columns))


@app.command()
def attribute(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Measure what features do for a study's tasks (after what comes before it) and print the tasks.

    Example: ontogeny attribute study.yaml
    """
    from ontogeny.errors import ConfigError

    config, out = load_one(study, out)
    if config.attribution is None:
        raise ConfigError(f"{study} names no tasks: add `attribution: {{tasks: [{{family: agreement_simple}}]}}`")
    done = _run(config, out, "attribute", as_json)
    if not as_json:
        last = done.table("tasks").filter(snapshot=len(done.steps) - 1)
        print_table(last.select("task", "step", "items", "accuracy", "margin", "learned"))


@app.command()
def truth(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Check a study against known answers: further seeds, nulls, plants in its likeness; then its report with them.

    Trains as many dictionaries again as `truth.seeds` names, and three more. The run keeps the checks from then on.

    Example: ontogeny truth study.yaml
    """
    from ontogeny.study import with_truth

    config, out = load_one(study, out)
    done = _run(with_truth(config), out, "report", as_json)
    if not as_json:
        print_table(done.table("stability"))
        print_table(done.table("nulls"))


app.command()(compare)


@app.command()
def report(
    study: StudyArgument,
    out: OutOption = None,
    as_json: JsonOption = False,
    figures: Annotated[Path | None, typer.Option("--figures", help="Also write every figure as SVG into here.")] = None,
    site: Annotated[
        Path | None, typer.Option("--site", help="Also write the app into here, as a folder that opens from disk.")
    ] = None,
) -> None:
    """Write a study's report (after what comes before it).

    Of the folder of a run that is done it is written from the run's tables: text and models need not be there.

    Example: ontogeny report runs/demo --figures figures --site site
    """
    from ontogeny.study import report_again

    done = report_again(study) if out is None else None
    if done is None:
        done = _run(study, out, "report", as_json)
    else:
        _tell(done, "report", as_json)
    if figures is not None:
        from ontogeny.report.page import write_figures

        written = write_figures(done, figures)
        print(f"wrote {len(written)} figures into {figures}", file=sys.stderr)
    if site is not None:
        from ontogeny.app.site import write_site

        size = write_site([done.folder], site)
        print(f"wrote {site / 'index.html'} and what it reads, {size / 1e6:.1f} MB", file=sys.stderr)


app.command()(serve)
app.command()(export)
app.command("import")(import_)
app.command()(push)
app.command()(pull)


def main() -> None:
    """Entry point: 0 on success, 2 on bad input, 1 on failure, 130 on Ctrl-C; one line for each."""
    warnings.filterwarnings("ignore", message=".* of earlier settings")
    try:
        app()
    except SystemExit as exit_:  # typer turns Ctrl-C into this
        if exit_.code == 130:
            print("ontogeny: stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
            sys.stdout.flush()
            os._exit(130)  # a download in its own thread would else be waited for
        raise
    except OntogenyError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error}", 1)
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error} (ontogeny --debug shows where)", 1)


def _fail(line: str, code: int) -> None:
    if _Settings.debug:
        raise
    if speaks() or code != 2:  # of bad input the first process tells for all
        print(f"ontogeny: {line}", file=sys.stderr)
    raise SystemExit(code)
