"""`ontogeny compare`: the features of two runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ontogeny.cli.shared import JsonOption, print_table


def compare(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The folder of another.")],
    as_json: JsonOption = False,
) -> None:
    """Match the features of two runs, and print how many are the same and whether they are born at the same time.

    By directions where both read the same models, otherwise by what features are active on, as for models that were
    pre-trained with different seeds.

    Example: ontogeny compare runs/first runs/second
    """
    import polars as pl

    from ontogeny.features.counterparts import compare_runs
    from ontogeny.run import open_run

    found = compare_runs(open_run(run), open_run(other))
    if as_json:
        told = {"by": found.by, "step": found.step, "tokens": found.tokens, "levels": found.agreement()}
        print(json.dumps(told | {"pairs": found.pairs.to_dicts()}))
        return
    over = "directions" if found.tokens is None else f"codes over {found.tokens:,} held-out tokens"
    print(f"features that are each other's nearest by {found.by} of {over} at step {found.step:,}")
    levels = found.agreement()
    named = {f"{found.by} from {level['similarity']}": list(level.values())[1:] for level in levels}
    print_table(pl.DataFrame({"": list(levels[0])[1:], **named}, strict=False))
