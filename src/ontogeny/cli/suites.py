"""`ontogeny suites …`: the ordered checkpoints of a model."""

import json
from typing import Annotated

import typer

from ontogeny.cli.shared import JsonOption, print_table

SHOWN = 4
"""Repositories that are printed of a suite; all are in the JSON."""
suites_app = typer.Typer(
    help="Suites: the ordered checkpoints of a model.", no_args_is_help=True, rich_markup_mode=None
)


@suites_app.command("list")
def suites_list(as_json: JsonOption = False) -> None:
    """List the published suites whose snapshots' names are known.

    Example: ontogeny suites list
    """
    import polars as pl

    from ontogeny.suites.registry import SUITES

    rows = [(suite.name, list(suite.repositories), suite.counts, suite.note) for suite in SUITES.values()]
    table = pl.DataFrame(rows, schema=["suite", "repositories", "counts", "note"], orient="row")
    if as_json:
        print(json.dumps(table.to_dicts()))
    else:
        for row in table.iter_rows(named=True):
            note = f" ({row['note']})" if row["note"] else ""
            shown = row["repositories"][:SHOWN]
            more = len(row["repositories"]) - len(shown)
            print(f"{row['suite']}{note}\n    {', '.join(shown)}{f' and {more} more' if more else ''}")


SuiteArgument = Annotated[
    str,
    typer.Argument(
        metavar="SUITE", help="A folder of snapshots, a repository on the hub, or a published suite's name."
    ),
]
StepsOption = Annotated[str, typer.Option("--steps", help="0,512,…; all, log, every=K, n=K, or a schedule's name.")]
StageOption = Annotated[str | None, typer.Option("--stage", help="Of a suite that has several; default the first.")]
RevisionsOption = Annotated[
    str | None, typer.Option("--revisions", help="Regular expression with a group `step`, for names of your own.")
]


def _steps(text: str) -> list[int] | str:
    """A list of steps, `0,512,1000`, or a selection's name."""
    parts = text.strip("[]").split(",")
    return [int(part) for part in parts] if all(part.strip().isdigit() for part in parts) else text


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

    table = audit_suite(open_suite(suite, steps=_steps(steps), stage=stage, revisions=revisions))
    bad = table.filter(pl.col("problems").list.len() > 0)
    if as_json:
        print(json.dumps(table.to_dicts()))
    else:
        print_table(table.with_columns(pl.col("commit").str.head(8), pl.col("problems").list.join("; ")))
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

    opened = open_suite(suite, steps=_steps(steps), stage=stage, revisions=revisions)
    columns = {"step": pl.Int64, "revision": pl.String, "commit": pl.String, "tokens_seen": pl.Int64}
    rows = [(one.step, one.revision, one.commit, one.tokens_seen) for one in opened.snapshots]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    if as_json:
        print(json.dumps(table.to_dicts()))
    else:
        print_table(table)
