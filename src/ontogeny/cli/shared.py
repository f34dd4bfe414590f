"""What commands share: options, studies by their names, tables on the terminal."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import polars as pl

    from ontogeny.config.study import StudyConfig

StudyArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study file (YAML), a preset's name, or the folder of a run.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def load(study: Path, out: Path | None) -> "tuple[StudyConfig, Path | None]":
    """A study and its run folder; None for the default."""
    from ontogeny.config.presets import preset, presets
    from ontogeny.config.study import load_study

    if str(study) in presets() and not study.exists():
        return preset(str(study)), out
    return (load_study(study / "study.yaml"), out or study) if study.is_dir() else (load_study(study), out)


def load_one(study: Path, out: Path | None) -> "tuple[StudyConfig, Path | None]":
    """The same for commands that are of one study.

    Raises:
        ConfigError: it is a sweep.
    """
    from ontogeny.errors import ConfigError

    config, out = load(study, out)
    if config.sweep is not None:
        raise ConfigError(f"{study} is a sweep of several studies: run it, then give the folder of one")
    return config, out


def print_table(table: "pl.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for name, dtype in table.schema.items():
        drawn.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in table.iter_rows():
        drawn.add_row(*map(_cell, row))
    # what is piped is cut nowhere
    Console(width=None if sys.stdout.isatty() else 10**6, markup=False).print(drawn)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
