"""The documentation: the tutorial runs as it stands, other code is checked or marked, links lead somewhere."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

import ontogeny
from ontogeny.cli import app
from ontogeny.config.settings import parse
from ontogeny.config.study import StudyConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md"))])
FENCE = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<info>.*?)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
MARKS = ("not run: ", "served: ", "shown")
STUDY = {"name": "x", "suite": {"folder": "x"}, "corpus": {"files": "x"}, "hookpoint": "resid_post.0"}


class Block(NamedTuple):
    """A block of code on a page: what stands before it, its language, its title, its text."""

    mark: str
    language: str
    title: str
    code: str


def blocks(page: Path) -> Iterator[Block]:
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        language, _, rest = found["info"].partition(" ")
        title = re.search(r'title="([^"]*)"', rest)
        yield Block(found["mark"] or "", language, title[1] if title else "", found["code"])


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "ontogeny").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ontogeny "$@"\n')
    (commands / "ontogeny").chmod(0o755)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    shutil.copytree(DOCS, tmp_path / "docs")
    ran, told = [], ""
    for block in blocks(DOCS / "tutorial.md"):
        if block.mark.startswith("not run: "):
            continue
        if block.language == "yaml":
            name, _, added = block.title.partition(" ")
            with (tmp_path / name).open("a" if added else "w", encoding="utf-8") as file:
                file.write(block.code)
        elif block.mark.startswith("served: "):
            command = [*block.code.split(), "--port", "0"]
            with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr is not None
                address = process.stderr.readline().split(" at ")[1].split(" (")[0]
                with urllib.request.urlopen(address) as answer:
                    assert b"Ontogeny" in answer.read()
                process.terminate()
                process.stderr.read()
        else:
            told += block.code if block.language == "python" else ""
            command = ["sh", "-ec", block.code] if block.language == "bash" else [sys.executable, "-c", told]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, block.code + done.stderr
            ran.append((block.code.strip(), done.stdout + done.stderr))
    assert "train: done already" in ran[2][1]
    assert re.search(r"^induction .* no *$", dict(ran)["ontogeny attribute first.yaml"], re.MULTILINE)
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    assert (tmp_path / "first-site" / "index.html").is_file()
    assert len(list((tmp_path / "first-figures").glob("*.svg"))) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_code_runs_or_is_checked_or_is_marked(page: Path) -> None:
    for block in blocks(page):
        if block.mark.startswith(MARKS) or page.name == "tutorial.md":
            continue
        if block.language == "python":
            compile(block.code, str(page), "exec")
            for name in re.findall(r"\bog\.(\w+)", block.code):
                assert name in ontogeny.__all__, name
        elif block.language == "yaml":
            for part in fragments(block.code):
                parse(StudyConfig, {**STUDY, **part}, where=str(page))
        else:
            assert block.language in ("", "bash"), f"{page.name}: mark what is not run:\n{block.code}"
            for line in block.code.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    check_command(words)


def check_command(words: list[str]) -> None:
    """A command of ours with options that it has, or a target of the Makefile."""
    if words[0] == "make":
        makefile = (DOCS.parent / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        return
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    assert words[0].split("/")[-1] == "ontogeny", f"mark what is not run: {words}"
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, words
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[0], rest)


def fragments(text: str) -> Iterator[dict[str, object]]:
    """A study's settings; where a setting stands several times, each in turn."""
    try:
        yield yaml.load(text, Loader=_Once)
    except yaml.YAMLError:
        for line in text.splitlines():
            yield yaml.safe_load(line)


class _Once(yaml.SafeLoader):
    """Refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if len(keys) != len(set(map(str, keys))):
            raise yaml.YAMLError("a key stands twice")
        return super().construct_mapping(node, deep=deep)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_public_name_says_what_it_takes_and_gives() -> None:
    for name in ontogeny.__all__:
        found = getattr(ontogeny, name)
        said = inspect.getdoc(found) or ""
        assert said, name
        if inspect.isfunction(found):
            parameters = [one for one in inspect.signature(found).parameters if one not in ("args", "kwargs")]
            explained = [one for one in parameters if re.search(rf"^\s+{one}\b.*:", said, re.MULTILINE)]
            assert explained or len(parameters) <= 2, f"{name} explains none of {parameters}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("mkdocs wants git")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=DOCS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "index.html").stat().st_size > 50_000
