"""A run as a folder of files: the same app, opened from disk or from any web host, with no server to ask.

Every answer that the server would give lies in a script of its own that hands it over, since pages opened from disk may
read scripts but no files. Filters and sorting are done in the browser; texts cannot be tried.
"""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ontogeny.app.compare import compare
from ontogeny.app.server import assets, names_of
from ontogeny.app.view import View
from ontogeny.errors import OntogenyError, RunError
from ontogeny.files import atomic_path
from ontogeny.progress import progress_bar
from ontogeny.run import open_run

FEATURES_PER_FILE = 32
MARK = ".ontogeny-site"
"""A file by which a site is known again."""
MODULE = re.compile(r'from "\./([\w-]+\.js)"')


def write_site(folders: Sequence[str | Path], out: Path) -> int:
    """Write a site of some runs into a folder that is new, or was one before.

    Returns:
        Its size in bytes.
    Raises:
        RunError: a folder is not a run or has no features yet, or `out` holds something else.
    """
    if out.is_dir() and any(out.iterdir()):
        others = {path.name for path in out.iterdir()} - {MARK, "data", "index.html", "vega.js", *assets()}
        if others or not (out / MARK).is_file():
            raise RunError(f"{out} is not empty and no site of ours alone: give a new folder")
    views = {name: View(run) for name, run in names_of([open_run(folder) for folder in folders]).items()}
    with atomic_path(out) as temporary:
        data = temporary / "data"
        data.mkdir(parents=True)
        for name, content in assets().items():
            if not name.endswith((".js", ".html")) or name == "vega.js":
                (temporary / name).write_bytes(content)
        (temporary / MARK).write_text(
            "made by ontogeny report --site; the whole folder is replaced\n", encoding="utf-8"
        )
        (temporary / "index.html").write_text(_page(), encoding="utf-8")
        runs = []
        for name, view in views.items():
            _write_run(view, name, data)
            runs.append({"id": name, "name": view.run.study.name})
        for a in views:
            for b in views:
                if a != b:
                    _give(data, f"compare-{a}-{b}", compare(views[a], views[b]))
        index = json.dumps({"runs": runs, "per_file": FEATURES_PER_FILE})
        opening = "window.ontogeny = {waiting: new Map(), give(key, value) { this.waiting.get(key)?.(value); }, index: "
        (data / "index.js").write_text(f"{opening}{index}}};\n", encoding="utf-8")
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def _page() -> str:
    """The app's page, its modules within: pages opened from disk may not import files."""
    held = {name: content.decode() for name, content in assets().items() if name.endswith(".js") and name != "vega.js"}
    imports = {}
    for name, code in held.items():
        own = MODULE.sub(r'from "ontogeny/\1"', code)
        imports[f"ontogeny/{name}"] = "data:text/javascript;base64," + base64.b64encode(own.encode()).decode()
    entry = '<script src="main.js" type="module"></script>'
    page = assets()["index.html"].decode()
    assert entry in page
    scripts = [
        '<script src="data/index.js"></script>',
        f'<script type="importmap">{json.dumps({"imports": imports})}</script>',
        '<script type="module">import "ontogeny/main.js";</script>',
    ]
    return page.replace(entry, "\n".join(scripts))


def _write_run(view: View, name: str, data: Path) -> None:
    about = view.about()
    count = view.rows.count()
    _give(data, f"{name}/about", about)
    _give(data, f"{name}/sentences", view.sentences())
    _give(data, f"{name}/progress", view.progress())
    _give(data, f"{name}/settings", view.settings())
    for figure in [*(one for group in about["figures"] for one in group["figures"]), *about["tasks"]]:
        try:
            _give(data, f"{name}/figure-{figure}", view.figure(figure))
        except OntogenyError:
            continue  # the page says that it is not there
    _give(data, f"{name}/values", _values(view))
    _give(data, f"{name}/strengths", view.heat([], sort="feature", descending=False, rows=count)["data"])
    with progress_bar("site", count, unit="features") as bar:
        for start in range(0, count, FEATURES_PER_FILE):
            pages = [view.feature(feature) for feature in range(start, min(start + FEATURES_PER_FILE, count))]
            _give(data, f"{name}/features-{start // FEATURES_PER_FILE}", pages)
            bar.advance(len(pages))


def _values(view: View) -> dict[str, Any]:
    """Every column of the features; words of which there are many as they are."""
    held = {}
    for name, kind in view.rows.joined().kinds.items():
        if kind == "text":
            rows = view.rows.query(f'SELECT "{name}" AS it FROM features ORDER BY feature', [])
            held[name] = {"labels": [], "data": "", "texts": [row["it"] for row in rows]}
        else:
            held |= view.rows.values([name])
    return held


def _give(data: Path, key: str, value: Any) -> None:
    file = data / f"{key}.js"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=list, allow_nan=False)
    file.write_text(f"ontogeny.give({json.dumps(key)},{text});\n", encoding="utf-8")
