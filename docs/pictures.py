"""Make the pictures of the tutorial and of the README again, from the runs that these tell of (needs Chromium).

Usage: python docs/pictures.py [FOLDER]    # FOLDER keeps the runs; a temporary one by default
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from playwright.sync_api import Page, sync_playwright

import ontogeny as og

DOCS = Path(__file__).resolve().parent
YAML = re.compile(r'^```yaml title="first\.yaml[^"]*"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
COMMAND = [sys.executable, "-m", "ontogeny"]


def make(folder: Path) -> None:
    """The tutorial's study and the demo, run in a folder, and their pictures in docs/images."""
    (folder / "docs").unlink(missing_ok=True)
    (folder / "docs").symlink_to(DOCS)
    study = "".join(YAML.findall((DOCS / "tutorial.md").read_text(encoding="utf-8")))
    (folder / "first.yaml").write_text(study, encoding="utf-8")
    run("run", "first.yaml", cwd=folder)
    run("report", "runs/first", "--figures", "figures", cwd=folder)
    run("demo", cwd=folder)
    shutil.copy(folder / "figures" / "strengths.svg", DOCS / "images" / "tutorial-strengths.svg")
    first = og.open_run(folder / "runs" / "first")
    emergent = first.features.filter(~pl.col("dead")).sort("birth_step")["feature"][-1]
    with serving(folder / "runs" / "first", folder / "runs" / "demo") as base, page(1366, 768) as tab:
        shot(tab, base, f"first/feature/{emergent}", "tutorial-feature")
        shot(tab, base, "demo/overview", "app")


def run(*words: str, cwd: Path) -> None:
    subprocess.run([*COMMAND, *words], cwd=cwd, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


@contextmanager
def serving(*runs: Path) -> Iterator[str]:
    """The app over some runs; its address."""
    command = [*COMMAND, "serve", *map(str, runs), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        yield process.stderr.readline().split(" at ")[1].split(" (")[0].strip()
        process.terminate()


@contextmanager
def page(width: int, height: int) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def shot(tab: Page, base: str, view: str, name: str) -> None:
    tab.goto(f"{base}#/{view}")
    run, kind, *_ = view.split("/")
    tab.wait_for_selector(f'main[data-ready="{run}/{kind}"] figure canvas', timeout=60_000)
    tab.wait_for_load_state("networkidle")
    tab.screenshot(path=DOCS / "images" / f"{name}.png")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]))
    else:
        with TemporaryDirectory() as temporary:
            make(Path(temporary))
