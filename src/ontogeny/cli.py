"""The command line: one command per stage. Parse, call, say what was written and what comes next."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    import polars as pl

    from ontogeny.config import StudyConfig
    from ontogeny.run import Run

app = typer.Typer(
    name="ontogeny",
    help="When and how the features of a language model form during pre-training.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
suites_app = typer.Typer(
    help="Suites: the ordered checkpoints of a model.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(suites_app, name="suites")
store_app = typer.Typer(
    help="Stores: activations kept on disk (train.store_gb).", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(store_app, name="store")

StudyArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study file (YAML), a preset's name, or the folder of a run.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

NEXT = {
    "pack": "pretrain",
    "pretrain": "train",
    "train": "measure",
    "measure": "analyse",
    "analyse": "attribute",
    "attribute": "report",
}


@app.callback()
def _root(debug: DebugOption = False) -> None:
    _Settings.debug = debug


class _Settings:
    """What the options before the command set."""

    debug = False


def _run(study: "Path | StudyConfig", out: Path | None, until: str, as_json: bool) -> "Run":
    """Run a study's stages up to one, then say where things are and what to run next."""
    from ontogeny.study import run_study

    if isinstance(study, Path):
        study, out = _load(study, out)
    run = run_study(study, out=out, until=until, say=lambda line: print(line, file=sys.stderr))
    if as_json:
        print(json.dumps({"run": str(run.folder), "stages": run.manifest["stages"]}))
    elif until == "report":
        print(f"wrote {run.report_path}" if run.study.report else f"wrote {run.folder}")
    else:
        following = NEXT["attribute"] if until == "analyse" and run.study.attribution is None else NEXT[until]
        print(f"wrote {run.folder}; next: ontogeny {following} {run.folder}")
    return run


def _load(study: Path, out: Path | None) -> "tuple[StudyConfig, Path | None]":
    """A study and its run folder; None for the default."""
    from ontogeny.config import load_study
    from ontogeny.study import preset, presets

    if str(study) in presets() and not study.exists():
        return preset(str(study)), out
    return (load_study(study / "study.yaml"), out or study) if study.is_dir() else (load_study(study), out)


@app.command()
def demo(out: OutOption = None, as_json: JsonOption = False) -> None:
    """Pre-train a small LM on the documentation in this environment, study it, and write a report.

    Example: ontogeny demo
    """
    from ontogeny.study import preset

    _run(preset("demo"), out, "report", as_json)


@app.command()
def run(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Run a study from its suite to its report; what is done already is not done again.

    Example: ontogeny run study.yaml
    """
    _run(study, out, "report", as_json)


@app.command()
def plan(
    study: StudyArgument,
    out: OutOption = None,
    as_json: JsonOption = False,
    pace: Annotated[bool, typer.Option("--pace", help="Time a few steps here: tokens a second, hours, store.")] = False,
) -> None:
    """Say what a study takes before anything runs: parameters, memory, arithmetic, disk; refuse what cannot fit.

    Example: ontogeny plan study.yaml --pace
    """
    import polars as pl

    from ontogeny.plan import plan_study

    planned = plan_study(*_load(study, out))
    tables, said = [planned.table()], []
    if not as_json:
        _print_table(tables[0])
    try:
        planned.require_room()
        if pace:
            from ontogeny.pace import advice, measure_pace, pace_table

            measured = measure_pace(planned)
            tables.append(pace_table(planned, measured))
            said.append(advice(planned, measured))
    finally:
        if as_json:
            print(json.dumps(pl.concat(tables).to_dicts()))
    if not as_json:
        for table in tables[1:]:
            _print_table(table)
        print(*said, f"next: ontogeny run {study}", sep="\n")


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
    until: Annotated[int | None, typer.Option("--until", help="With --follow: end after this step.")] = None,
    idle: Annotated[
        float | None, typer.Option("--idle", help="With --follow: end when nothing new has come for so many seconds.")
    ] = None,
) -> None:
    """Run a study whose dictionary is an SAE series, or extend it while its suite is still being pre-trained.

    Example: ontogeny track study.yaml --follow runs/pretraining
    """
    from ontogeny.errors import ConfigError
    from ontogeny.live import follow as follow_suite

    config, out = _load(study, out)
    if config.dictionary.kind != "sae_series":
        raise ConfigError(f"{study}: track is for an SAE series: set dictionary.kind: sae_series, or use ontogeny run")
    if follow is None:
        _run(config, out, "report", as_json)
        return
    run = follow_suite(
        config, follow, out=out, until=until, idle=idle, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    if run is None:
        print(f"{follow} has no whole snapshot yet: nothing was done", file=sys.stderr)
    elif as_json:
        print(json.dumps({"run": str(run.folder), "stages": run.manifest["stages"]}))
    else:
        print(f"wrote {run.report_path}")


@app.command()
def measure(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Measure a study's features (after what comes before it) and print the dictionary's quality.

    Example: ontogeny measure study.yaml
    """
    done = _run(study, out, "measure", as_json)
    if not as_json:
        columns = ("explained_variance", "pca_explained_variance", "l0", "dead_share", "delta_ce", "loss_recovered")
        _print_table(done.table("quality").select("snapshot", "step", *columns))


@app.command()
def analyse(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Run a study's analyses (after what comes before them) and print the one on emergence.

    Example: ontogeny analyse study.yaml
    """
    done = _run(study, out, "analyse", as_json)
    if not as_json and "emergence" in done.study.analyses:
        columns = ("alive_threshold", "snapshot", "step", "births", "deaths", "alive", "born_share")
        _print_table(done.analysis("emergence").select(columns))


@app.command()
def attribute(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Measure what features do for a study's tasks (after what comes before it) and print the tasks.

    Example: ontogeny attribute study.yaml
    """
    from ontogeny.errors import ConfigError

    config, out = _load(study, out)
    if config.attribution is None:
        raise ConfigError(f"{study} names no tasks: add `attribution: {{tasks: [{{family: agreement_simple}}]}}`")
    done = _run(config, out, "attribute", as_json)
    if not as_json:
        last = done.table("tasks").filter(snapshot=len(done.steps) - 1)
        _print_table(last.select("task", "step", "items", "accuracy", "margin", "learned"))


@app.command()
def truth(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Check a study against known answers: further seeds, nulls, plants in its likeness; then its report with them.

    Trains as many dictionaries again as `truth.seeds` names, and three more. The run keeps the checks from then on.

    Example: ontogeny truth study.yaml
    """
    from ontogeny.study import with_truth

    config, out = _load(study, out)
    done = _run(with_truth(config), out, "report", as_json)
    if not as_json:
        _print_table(done.table("stability"))
        _print_table(done.table("nulls"))


@app.command()
def report(
    study: StudyArgument,
    out: OutOption = None,
    as_json: JsonOption = False,
    figures: Annotated[Path | None, typer.Option("--figures", help="Also write every figure as SVG into here.")] = None,
) -> None:
    """Write a study's report (after what comes before it).

    Example: ontogeny report runs/demo --figures figures
    """
    done = _run(study, out, "report", as_json)
    if figures is not None:
        from ontogeny.report.page import write_figures

        written = write_figures(done, figures)
        print(f"wrote {len(written)} figures into {figures}", file=sys.stderr)


@suites_app.command("list")
def suites_list(as_json: JsonOption = False) -> None:
    """List the published suites whose snapshots' names are known.

    Example: ontogeny suites list
    """
    import polars as pl

    from ontogeny.suites.registry import SUITES

    rows = [(suite.name, ", ".join(suite.repositories), suite.counts, suite.note) for suite in SUITES.values()]
    table = pl.DataFrame(rows, schema=["suite", "repositories", "counts", "note"], orient="row")
    if as_json:
        print(json.dumps(table.to_dicts()))
    else:
        for row in table.iter_rows(named=True):
            note = f" ({row['note']})" if row["note"] else ""
            print(f"{row['suite']}{note}\n    {row['repositories']}")


SuiteArgument = Annotated[
    str,
    typer.Argument(
        metavar="SUITE", help="A folder of snapshots, a repository on the hub, or a published suite's name."
    ),
]
StepsOption = Annotated[str, typer.Option("--steps", help="all, log, every=K, n=K, or a schedule's name.")]
StageOption = Annotated[str | None, typer.Option("--stage", help="Of a suite that has several; default the first.")]
RevisionsOption = Annotated[
    str | None, typer.Option("--revisions", help="Regular expression with a group `step`, for names of your own.")
]


@suites_app.command("audit")
def suites_audit(
    suite: SuiteArgument,
    steps: StepsOption = "all",
    stage: StageOption = None,
    revisions: RevisionsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which snapshots of a suite are not what their names say; nothing large is fetched. Exits 2 if there are any.

    Example: ontogeny suites audit pythia-160m --steps n=32
    """
    import polars as pl

    from ontogeny.suites.audit import audit_suite
    from ontogeny.suites.suite import open_suite

    table = audit_suite(open_suite(suite, steps=steps, stage=stage, revisions=revisions))
    bad = table.filter(pl.col("problems").list.len() > 0)
    if as_json:
        print(json.dumps(table.to_dicts()))
    else:
        _print_table(table.with_columns(pl.col("commit").str.head(8), pl.col("problems").list.join("; ")))
        print(f"{len(table) - len(bad)} of {len(table)} snapshots are what their names say")
    if len(bad):
        raise SystemExit(2)


@suites_app.command("show")
def suites_show(
    suite: SuiteArgument,
    steps: StepsOption = "all",
    stage: StageOption = None,
    revisions: RevisionsOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the snapshots of a suite.

    Example: ontogeny suites show runs/demo/suite
    """
    import polars as pl

    from ontogeny.suites.suite import open_suite

    opened = open_suite(suite, steps=steps, stage=stage, revisions=revisions)
    columns = {"step": pl.Int64, "revision": pl.String, "commit": pl.String, "tokens_seen": pl.Int64}
    rows = [(one.step, one.revision, one.commit, one.tokens_seen) for one in opened.snapshots]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    if as_json:
        print(json.dumps(table.to_dicts()))
    else:
        _print_table(table)


@store_app.command("verify")
def store_verify(study: StudyArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Check a run's stored activations: every shard's hash, and some sequences against the models.

    Example: ontogeny store verify runs/english
    """
    from ontogeny.activations.stream import verify_store
    from ontogeny.run import Run, run_folder

    config, out = _load(study, out)
    run = Run(run_folder(config, out))
    found = verify_store(run)
    if as_json:
        print(json.dumps(found._asdict()))
    else:
        print(
            f"{run.folder / 'activations'}: {found.shards:,} shards, {found.bytes / 1e9:.3g} GB, {found.sequences:,} "
            f"sequences, {found.tokens:,} tokens; hashes agree; {found.compared:,} tokens harvested again differ by "
            f"{found.difference:.2g} of their norm at most"
        )


def _print_table(table: "pl.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for name, dtype in table.schema.items():
        drawn.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in table.iter_rows():
        drawn.add_row(*map(_cell, row))
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(drawn)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Entry point: 0 on success, 2 on bad input, 1 on failure, 130 on Ctrl-C; one line for each."""
    try:
        app()
    except SystemExit as exit_:  # typer turns Ctrl-C into this
        if exit_.code == 130:
            print("ontogeny: stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
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
    print(f"ontogeny: {line}", file=sys.stderr)
    raise SystemExit(code)
