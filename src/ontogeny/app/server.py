"""The local server: what the app's views ask, as JSON; its pages and scripts; nothing else.

Nothing is served but the assets of the package and answers made from the runs that were named at the start; no path of
a request becomes a path on disk. Only loopback addresses are served without a token.
"""

import secrets
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from polars.exceptions import PolarsError
from pydantic import BaseModel, Field

from ontogeny.app.compare import compare
from ontogeny.app.joined import first_line
from ontogeny.app.text import MOST_CHARACTERS, read_text
from ontogeny.app.view import UNREADABLE, View
from ontogeny.errors import ConfigError, OntogenyError, RunError
from ontogeny.report.bundle import vega_bundle
from ontogeny.run import Run, open_run

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_ROWS, MOST_FILTERS, MOST_BODY = 500, 20, 16_384
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
Name = Annotated[str, Field(max_length=200)]
Filters = Annotated[list[Annotated[str, Field(max_length=1000)]], Query(alias="filter", max_length=MOST_FILTERS)]


class Text(BaseModel):
    """A text to read."""

    text: Annotated[str, Field(max_length=MOST_CHARACTERS)]


def names_of(runs: Sequence[Run]) -> dict[str, Run]:
    """A short name for each run: its folder's, with a number where two are the same."""
    named: dict[str, Run] = {}
    for run in runs:
        name = base = run.folder.resolve().name
        number = 1
        while name in named:
            number += 1
            name = f"{base}-{number}"
        named[name] = run
    return named


def view_of(request: Request, run: Name) -> View:
    """The run that a request names."""
    views: dict[str, View] = request.app.state.views
    if run not in views:
        raise RunError(f"no run '{run}': there are {', '.join(views)}")
    return views[run]


Chosen = Annotated[View, Depends(view_of)]
api = APIRouter()


@api.get("/api/runs")
def runs(request: Request) -> list[dict[str, Any]]:
    return [{"id": name, **_short(one)} for name, one in request.app.state.views.items()]


@api.get("/api/runs/{run}")
def about(view: Chosen) -> dict[str, Any]:
    return view.about()


@api.get("/api/runs/{run}/sentences")
def sentences(view: Chosen) -> dict[str, Any]:
    return view.sentences()


@api.get("/api/runs/{run}/figures/{name}")
def figure(view: Chosen, name: Name, format: Literal["json", "svg", "png"] = "json") -> Response:  # noqa: A002
    spec = view.figure(name)
    if format == "json":
        return JSONResponse(spec)
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(spec) if format == "svg" else vl_convert.vegalite_to_png(spec, scale=2)
    kind = "image/svg+xml" if format == "svg" else "image/png"
    return Response(drawn, media_type=kind, headers=_download(f"{name}.{format}"))


@api.get("/api/runs/{run}/rows")
def rows(
    view: Chosen,
    filters: Filters = [],  # noqa: B006 - FastAPI copies it
    sort: Name = "feature",
    descending: bool = False,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
) -> dict[str, Any]:
    return view.rows.page(filters, sort=sort, descending=descending, offset=offset, limit=limit)._asdict()


@api.get("/api/runs/{run}/mask")
def mask(view: Chosen, filters: Filters = []) -> dict[str, str]:  # noqa: B006
    return {"data": view.rows.mask(filters)}


@api.get("/api/runs/{run}/values")
def values(view: Chosen, name: Annotated[list[Name], Query(max_length=MOST_FILTERS)]) -> dict[str, Any]:
    return view.rows.values(name)


@api.get("/api/runs/{run}/heat")
def heat(
    view: Chosen,
    filters: Filters = [],  # noqa: B006
    sort: Name = "birth_step",
    descending: bool = False,
    rows: Annotated[int, Query(ge=1, le=2000)] = 400,
) -> dict[str, Any]:
    return view.heat(filters, sort=sort, descending=descending, rows=rows)


@api.get("/api/runs/{run}/features/{feature}")
def feature(
    view: Chosen, feature: Annotated[int, Field(ge=0, le=10**9)], section: Name | None = None
) -> dict[str, Any]:
    return view.feature(feature, only=section)


@api.get("/api/runs/{run}/tables/{table}")
def table(view: Chosen, table: Name, format: Literal["parquet", "csv"] = "csv") -> Response:  # noqa: A002
    file = view.table_file(table)
    if format == "parquet":
        return FileResponse(file, headers=_download(file.name))
    return StreamingResponse(view.csv(table), media_type="text/csv", headers=_download(f"{table}.csv"))


@api.get("/api/runs/{run}/progress")
def progress(view: Chosen) -> dict[str, Any]:
    return view.progress()


@api.get("/api/runs/{run}/settings")
def settings(view: Chosen) -> dict[str, Any]:
    return view.settings()


@api.post("/api/runs/{run}/text")
def text(view: Chosen, body: Text) -> dict[str, Any]:
    return read_text(view.run, body.text)


@api.get("/api/compare")
def compared(request: Request, a: Name, b: Name) -> dict[str, Any]:
    return compare(view_of(request, a), view_of(request, b))


@api.get("/{path:path}", include_in_schema=False)
def asset(path: str) -> Response:
    name = path or "index.html"
    if name not in assets():
        return JSONResponse({"problem": f"nothing at /{path[:200]}"}, status_code=404)
    return Response(assets()[name], media_type=TYPES["." + name.rsplit(".", 1)[-1]])


def app_of(folders: Sequence[str | Path], *, token: str | None = None) -> FastAPI:
    """The app over some runs.

    Args:
        token: that every request has to carry, as `?token=` once, then as a cookie; None where only this machine asks.
    Raises:
        RunError: a folder is not a run.
    """
    app = FastAPI(title="Ontogeny", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.views = {name: View(run) for name, run in names_of([open_run(one) for one in folders]).items()}
    _guard(app, token)
    app.include_router(api)
    return app


def _short(view: View) -> dict[str, Any]:
    """What the list of runs says of one."""
    try:
        study, manifest = view.run.study, view.run.manifest
    except UNREADABLE as error:
        return {"problem": first_line(error)}
    return {
        "name": study.name,
        "suite": view.suite,
        "hookpoint": study.hookpoint,
        "kind": study.dictionary.kind,
        "features": study.dictionary.n_features,
        "snapshots": len(manifest.get("snapshots", [])),
        "stages": list(manifest["stages"]),
    }


def _guard(app: FastAPI, token: str | None) -> None:
    """Errors as one line of JSON; the token; sizes; headers that keep a browser from running what is not ours."""

    @app.exception_handler(OntogenyError)
    def refused(request: Request, error: OntogenyError) -> Response:
        return JSONResponse({"problem": str(error)}, status_code=404 if isinstance(error, RunError) else 400)

    @app.exception_handler(duckdb.Error)
    @app.exception_handler(PolarsError)
    @app.exception_handler(OSError)
    def unreadable(request: Request, error: Exception) -> Response:
        return JSONResponse({"problem": f"a file of the run cannot be read: {first_line(error)}"}, status_code=500)

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.query_params.get("token") or request.cookies.get("ontogeny_token", "")
        if token is None and request.url.hostname not in LOOPBACK:
            # a page elsewhere may let its own name lead here
            response: Response = JSONResponse({"problem": f"this server answers to {', '.join(LOOPBACK)} only"}, 403)
        elif token is not None and not secrets.compare_digest(given.encode(), token.encode()):
            response = JSONResponse({"problem": "give the token: the address that was printed"}, 401)
        elif request.method not in ("GET", "HEAD") and not _is_own(request):
            response = JSONResponse({"problem": "asked from another page"}, 403)
        elif not request.headers.get("content-length", "0").isdigit() or _size(request) > MOST_BODY:
            response = JSONResponse({"problem": f"more than {MOST_BODY:,} bytes"}, 413)
        elif len(str(request.url)) > MOST_BODY:
            response = JSONResponse({"problem": f"an address of more than {MOST_BODY:,} characters"}, 414)
        else:
            response = await call(request)
            if token is not None and request.query_params.get("token"):
                response.set_cookie("ontogeny_token", token, httponly=True, samesite="strict")
        response.headers.update(HEADERS)
        return response


def _size(request: Request) -> int:
    if "transfer-encoding" in request.headers:
        return MOST_BODY + 1
    return int(request.headers.get("content-length", "0"))


def _is_own(request: Request) -> bool:
    """Whether a request that changes something or costs much comes from our own page."""
    return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


@lru_cache(maxsize=1)
def assets() -> dict[str, bytes]:
    """The app's own files by their names: pages, scripts, styles, and Vega's bundle."""
    folder = files("ontogeny.app") / "assets"
    found = {path.name: path.read_bytes() for path in folder.iterdir() if "." + path.name.rsplit(".", 1)[-1] in TYPES}
    return {**found, "vega.js": vega_bundle().encode()}


def serve(
    folders: Sequence[str | Path], *, host: str = "127.0.0.1", port: int = 8700, token: str | None = None
) -> None:
    """Serve runs until Ctrl-C.

    Args:
        token: for addresses other than loopback; None: one is made and printed.
    Raises:
        RunError: a folder is not a run.
        ConfigError: the port is taken.
    """
    import socket
    import sys

    import uvicorn

    if host not in LOOPBACK:
        token = token or secrets.token_urlsafe(16)
    runs = [open_run(folder) for folder in folders]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}: give another --port (0 for any)"
        ) from None
    # nothing is started before the port is ours
    app = app_of([run.folder for run in runs], token=token)
    for view in app.state.views.values():
        threading.Thread(target=view.rows.warm, daemon=True).start()
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + ("" if token is None else f"?token={token}")
    print(f"serving {', '.join(map(str, folders))} at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
