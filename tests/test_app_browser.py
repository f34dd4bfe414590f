"""The app in a real browser: every view of real runs, by mouse, keyboard and address, light and dark, and from disk."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from app_server import App, serving
from conftest import small_study
from ontogeny.app.site import write_site
from ontogeny.config.study import load_study
from ontogeny.corpus.pack import Corpus
from ontogeny.report.page import write_figures
from ontogeny.run import Run
from ontogeny.study import run_study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
sync_api = pytest.importorskip("playwright.sync_api")
VIEWS = {
    "overview": "In short", "atlas": "features", "timeline": "ordered by", "feature": "Relatives", "tasks": "help most",
    "compare": "The same features?", "text": "Which features fire", "run": "Provenance",
}  # fmt: skip
HOSTILE = "<script>window.caught = 1</script> <img src=x onerror='window.caught = 2'> {{7*7}} "


class Tab:
    """A page, and what went wrong on it."""

    def __init__(self, page: Any) -> None:
        self.page, self.wrong = page, []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def open(self, address: str, ready: str) -> None:
        self.page.goto(address)
        self.ready(ready)

    def ready(self, what: str) -> None:
        self.page.wait_for_selector(f'main[data-ready="{what}"]', timeout=60_000)

    def text(self) -> str:
        return self.page.inner_text("main")


Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def app(task_run: Run, small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app") / "tasks"
    shutil.copytree(task_run.folder, folder)
    with serving(folder, small_run.folder) as app:
        yield app


@contextmanager
def a_tab(browser: Any, **options: Any) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1366, "height": 768}, accept_downloads=True, **options)
    tab = Tab(context.new_page())
    yield tab
    context.close()
    assert not tab.wrong


def figures_are_drawn(tab: Tab) -> int:
    """Scroll through the page until every figure is drawn; how many there are."""
    page = tab.page
    for figure in page.query_selector_all("figure"):
        figure.scroll_into_view_if_needed()
        figure.wait_for_selector("canvas, .problem", timeout=60_000)
    assert page.query_selector("figure .problem") is None
    return len(page.query_selector_all("figure canvas"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_opens_by_its_address_without_an_error_or_another_host(browser: Any, app: App, theme: str) -> None:
    with a_tab(browser, color_scheme=theme) as tab:
        for view, said in VIEWS.items():
            tab.open(f"{app.base}#/tasks/{view}", f"tasks/{view}")
            assert said in tab.text(), view
            if view in ("overview", "tasks", "compare", "feature"):
                assert figures_are_drawn(tab) >= (1 if view == "feature" else 2)
            assert tab.page.query_selector("nav [aria-current=page]").inner_text()
        assert tab.page.evaluate("document.documentElement.dataset.theme") == theme
        paper = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(21, 24, 28)" if theme == "dark" else "rgb(255, 255, 255)")
        assert tab.hosts <= {urlsplit(app.base).netloc, ""}


def test_the_keyboard_leads_from_the_atlas_to_a_feature_and_through_its_snapshots(browser: Any, app: App) -> None:
    with a_tab(browser) as tab:
        page = tab.page
        tab.open(f"{app.base}#/tasks/overview", "tasks/overview")
        page.wait_for_selector("td .around span")
        page.keyboard.press("2")
        tab.ready("tasks/atlas")
        page.focus(".plot canvas")
        page.keyboard.press("+")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("0")
        page.keyboard.press("n")
        page.keyboard.press("n")
        named = page.inner_text(".tip b")
        page.wait_for_selector(".tip .around span")  # where it is most active
        page.keyboard.press("Enter")
        tab.ready("tasks/feature")
        assert page.inner_text("h1").lower() == named
        page.focus(".slide input")
        page.keyboard.press("Home")
        assert "step 0 " in page.inner_text(".slide b")
        assert page.url.endswith("?step=0")
        page.keyboard.press("ArrowRight")
        assert "step 10 " in page.inner_text(".slide b")
        page.focus("#goto")
        page.keyboard.type("7")
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:text-is('Feature 7')")


def test_filters_stand_in_the_address_and_hold_in_list_and_map(browser: Any, app: App, task_run: Run) -> None:
    kept = int(((task_run.features["density"] >= 0.05) & (task_run.features["density"] <= 0.1)).sum())
    with a_tab(browser) as tab:
        page = tab.page
        tab.open(f"{app.base}#/tasks/atlas?filter=density:ge:0.05", "tasks/atlas")
        page.select_option('select[aria-label="column"]', "density")
        page.select_option('select[aria-label="operation"]', "le")
        page.fill('input[aria-label="value"]', "0.1")
        page.keyboard.press("Enter")
        page.wait_for_selector(f'[data-total="{kept}"]')
        assert "density%3Ale%3A0.1" in page.url
        page.wait_for_timeout(300)
        held = page.evaluate(
            "[...window.ontogenyScatter.held].reduce((n, byte) => n + byte.toString(2).replaceAll('0', '').length, 0)"
        )
        assert held == kept
        page.reload()
        tab.ready("tasks/atlas")
        assert page.get_attribute("[data-total]", "data-total") == str(kept)
        page.click('[aria-label="remove density ≤ 0.1"]')
        page.wait_for_selector(f'[data-total="{int((task_run.features["density"] >= 0.05).sum())}"]')
        tab.open(f"{app.base}#/tasks/timeline?filter=density:ge:0.05&filter=density:le:0.1", "tasks/timeline")
        assert page.get_attribute(".plot", "data-total") == str(kept)


def test_a_text_is_read_in_the_page(browser: Any, app: App) -> None:
    with a_tab(browser) as tab:
        tab.open(f"{app.base}#/tasks/text", "tasks/text")
        tab.page.fill("textarea", "the list of values")
        tab.page.keyboard.press("Control+Enter")
        tab.page.wait_for_selector(".tokens button", timeout=120_000)
        tokens = tab.page.evaluate("[...document.querySelectorAll('.tokens .mono')].map((one) => one.innerText)")
        assert "".join(tokens).replace(" ", "") == "thelistofvalues"
        tab.page.click(".tokens button:nth-child(2)")
        assert tab.page.query_selector("table tbody a") is not None


def test_figures_and_tables_can_be_taken_away(browser: Any, app: App) -> None:
    with a_tab(browser) as tab:
        tab.open(f"{app.base}#/tasks/feature/3", "tasks/feature")
        figures_are_drawn(tab)
        for kind in ("SVG", "PNG"):
            with tab.page.expect_download() as started:
                tab.page.click(f"figure .tools >> text={kind}")
            assert started.value.suggested_filename == f"tasks-feature-3.{kind.lower()}"
        tab.open(f"{app.base}#/tasks/run", "tasks/run")
        with tab.page.expect_download() as started:
            tab.page.click("text=csv >> nth=0")
        assert started.value.suggested_filename.endswith(".csv")


BEYOND = """() => [...document.querySelectorAll("div")].flatMap((figure) => {
  const whole = figure.querySelector("svg").getBoundingClientRect();
  const beyond = (text) => { const own = text.getBoundingClientRect();
    return own.width > 0 && (own.left < whole.left - 1 || own.right > whole.right + 1); };
  return [...figure.querySelectorAll("text")].filter(beyond).map((text) => `${figure.id}: ${text.textContent}`); })"""


def test_no_text_of_a_figure_in_a_file_is_cut(browser: Any, task_run: Run, tmp_path: Path) -> None:
    drawn = {path.stem: path.read_text(encoding="utf-8") for path in write_figures(task_run, tmp_path)}
    with a_tab(browser) as tab:
        tab.page.set_content("".join(f'<div id="{name}">{svg}</div>' for name, svg in drawn.items()))
        assert len(tab.page.query_selector_all("svg text")) > 20 * len(drawn)
        assert tab.page.evaluate(BEYOND) == []


def test_nothing_that_a_corpus_says_is_run(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "hostile.txt"
    file.write_text("\n".join(HOSTILE + f"line {number}" for number in range(4000)))
    other = tmp_path / "other.txt"
    other.write_text("\n".join(f"plain words {number} " + HOSTILE for number in range(400)))
    corpus = {"files": str(file), "held_out": str(other), "sequence_length": 64, "tokenizer": {"vocab_size": 400}}
    study = tmp_path / "study.yaml"
    changes = {"corpus": corpus, "analyses": ["emergence"]}
    study.write_text(yaml.safe_dump({**small_study(file), **changes}))
    run = run_study(load_study(study), out=tmp_path / "run", until="analyse", say=lambda line: None)
    tokenizer = Corpus(run.corpus_folder / "train").tokenizer
    assert "<script>" in " ".join(tokenizer.decode(tokens) for tokens in run.examples["tokens"])
    with serving(run.folder) as app, a_tab(browser) as tab:
        for view in ("overview", "atlas", "feature/3", "run", "timeline"):
            tab.open(f"{app.base}#/run/{view}", f"run/{view.split('/')[0]}")
            tab.page.wait_for_timeout(200)
        tab.open(f"{app.base}#/run/atlas?filter=fires_on:has:%3Cscript%3E", "run/atlas")
        assert tab.page.evaluate("window.caught") is None
        tab.open(f"{app.base}#/run/feature", "run/feature")
        assert "<script>" in tab.page.evaluate("document.body.textContent")
        tab.page.goto(
            f"{app.base}#/run/atlas/<img src=x onerror=window.caught=3>?filter=<script>window.caught=4</script>"
        )
        tab.page.wait_for_selector(".problem")
        assert tab.page.evaluate("window.caught") is None
        tab.wrong = [said for said in tab.wrong if "404" not in said]  # the filter names no column


def test_a_site_opens_from_disk_and_says_the_same(
    browser: Any, app: App, task_run: Run, small_run: Run, tmp_path: Path
) -> None:
    copy = tmp_path / "tasks"
    shutil.copytree(task_run.folder, copy)
    size = write_site([copy, small_run.folder], tmp_path / "site")
    assert size == sum(file.stat().st_size for file in (tmp_path / "site").rglob("*") if file.is_file())
    address = (tmp_path / "site" / "index.html").as_uri()
    with a_tab(browser) as tab:
        for view, said in VIEWS.items():
            if view == "text":
                continue
            tab.open(f"{address}#/tasks/{view}", f"tasks/{view}")
            assert said in tab.text(), view
            if view in ("overview", "feature"):
                assert figures_are_drawn(tab)
        wanted = "atlas?filter=density:ge:0.05&filter=fate:eq:persistent&sort=density"
        tab.open(f"{address}#/tasks/{wanted}", "tasks/atlas")
        from_disk = tab.page.evaluate("[...document.querySelectorAll('tbody tr')].map((row) => row.innerText)")
        tab.open(f"{app.base}#/tasks/{wanted}", "tasks/atlas")
        served = tab.page.evaluate("[...document.querySelectorAll('tbody tr')].map((row) => row.innerText)")
        assert from_disk == served
        assert len(served) > 3
        assert tab.hosts <= {urlsplit(app.base).netloc, ""}
