"""`ontogeny serve`: runs in the browser."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or one that holds several.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; others than this machine need a token.")]
    = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 for any that is free.", min=0, max=65535)] = 8700,
    token: Annotated[str | None, typer.Option("--token", help="What requests have to carry; made where it is needed.")]
    = None,
) -> None:  # fmt: skip
    """Explore runs in the browser: a local web app over their tables, until Ctrl-C.

    Example: ontogeny serve runs/demo
    """
    from ontogeny.app.server import serve as serve_runs
    from ontogeny.run import runs_in

    serve_runs([run for folder in runs for run in runs_in(folder)], host=host, port=port, token=token)
