"""`ontogeny plan`: what a study takes, before anything runs."""

import json
from typing import Annotated

import typer

from ontogeny.cli.shared import JsonOption, OutOption, StudyArgument, load, print_table


def plan(
    study: StudyArgument,
    out: OutOption = None,
    as_json: JsonOption = False,
    pace: Annotated[bool, typer.Option("--pace", help="Time a few steps here: tokens a second, hours, store.")] = False,
) -> None:
    """Say what a study takes before anything runs: parameters, memory, arithmetic, disk; refuse what cannot fit.

    Of a sweep it says that of its first study, and refuses what any of them cannot.

    Example: ontogeny plan study.yaml --pace
    """
    import polars as pl

    from ontogeny.plan.plan import plan_study
    from ontogeny.preflight import check_names

    config, folder = load(study, out)
    said = []
    if config.sweep is not None:
        from ontogeny.run import run_folder
        from ontogeny.sweep import members

        every, below = members(config), run_folder(config, folder)
        for name, member in every.items():
            plan_study(member.study, below / name).require_room()
        said.append(f"of a sweep of {len(every)} studies this is the first, {next(iter(every))}")
        config, folder = next(iter(every.values())).study, below / next(iter(every))
    check_names(config)
    planned = plan_study(config, folder)
    tables = [planned.table()]
    if not as_json:
        print_table(tables[0])
    try:
        planned.require_room()
        if pace:
            from ontogeny.plan.pace import advice, measure_pace, pace_table

            measured = measure_pace(planned)
            tables.append(pace_table(planned, measured))
            said.append(advice(planned, measured))
    finally:
        if as_json:
            print(json.dumps(pl.concat(tables).to_dicts()))
    if not as_json:
        for table in tables[1:]:
            print_table(table)
        print(*said, f"next: ontogeny run {study}", sep="\n")
