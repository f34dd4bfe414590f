"""`pydocs`: prose that every machine with Python has.

The docstrings and long comments of the standard library and of the packages in this environment, parsed with `ast` and
`tokenize`, never imported. One document per module: docstrings in source order, cleaned of code and tables, each
paragraph only once over all modules (inherited docstrings repeat), capped per package so that none drowns the rest.
Modules are taken in an order drawn by their names, so that a capped package is sampled from all its parts.
"""

import ast
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

SKIPPED_FOLDERS = {
    "test",
    "tests",
    "testing",
    "_vendor",
    "vendor",
    "__pycache__",
    "site-packages",
    "idlelib",
    "lib2to3",
}
MIN_PARAGRAPH, MIN_DOCUMENT, MIN_COMMENT = 60, 400, 200
DEFAULT_BYTES_PER_PACKAGE = 1_200_000


def pydocs(
    *,
    max_bytes_per_package: int | None = None,
    packages: list[str] | None = None,
    on_module: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[str, str, str]]:
    """(id, source, text) of every module with enough prose, packages in order of name, the standard library first.

    Args:
        max_bytes_per_package: UTF-8 bytes after which a package gives no more; None for the default of 1.2 million.
        packages: only these ("stdlib" for the standard library); None for all.
        on_module: called with the number of modules done since the last call, of `module_count()` in all.
    """
    cap = max_bytes_per_package or DEFAULT_BYTES_PER_PACKAGE
    seen: set[int] = set()
    for package, root in _roots().items():
        if packages is not None and package not in packages:
            continue
        taken = 0
        modules = sorted(_modules(root), key=lambda path: hash_text(path.relative_to(root).as_posix()))
        for number, path in enumerate(modules):
            if taken + MIN_DOCUMENT > cap:
                on_module(len(modules) - number)
                break
            on_module(1)
            relative = path.relative_to(root)
            text = "\n\n".join(_new_paragraphs(path, seen))
            size = len(text.encode())
            if len(text) < MIN_DOCUMENT:
                continue
            taken += size
            yield f"{package}/{relative.as_posix()}", package, text


def module_count() -> int:
    """Modules in this environment that `pydocs` may read."""
    return sum(1 for root in _roots().values() for _ in _modules(root))


def environment_key() -> list[str]:
    """The installed distributions with their versions: what the text of `pydocs` depends on."""
    return sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))


def _roots() -> dict[str, Path]:
    roots = {"stdlib": Path(sysconfig.get_path("stdlib"))}
    site = Path(sysconfig.get_path("purelib"))
    if site.is_dir():
        roots |= {path.name: path for path in sorted(site.iterdir()) if (path / "__init__.py").is_file()}
    return roots


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _new_paragraphs(path: Path, seen: set[int]) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    pieces = [
        (getattr(node, "lineno", 0), docstring)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (docstring := ast.get_docstring(node))
    ]
    pieces += _long_comments(source)
    for _, text in sorted(pieces):
        for paragraph in _prose(text):
            key = hash_text(paragraph)
            if key not in seen:
                seen.add(key)
                yield paragraph


def hash_text(text: str) -> int:
    """Equal for paragraphs that differ in white space or case only; stable between processes."""
    return int.from_bytes(blake2b(" ".join(text.lower().split()).encode(), digest_size=8).digest(), "big")


def _long_comments(source: str) -> list[tuple[int, str]]:
    """Blocks of full-line comments long enough to be prose, with the line each starts on."""
    blocks, block, start = [], [], 0
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        stripped = line.strip()
        if stripped.startswith("# "):
            start = start if block else number
            block.append(stripped[2:])
        elif stripped == "#" and block:
            block.append("")
        else:
            text = "\n".join(block)
            if len(text) >= MIN_COMMENT and "opyright" not in text and "icense" not in text:
                blocks.append((start, text))
            block = []
    return blocks


def _prose(text: str) -> Iterator[str]:
    """Paragraphs that read as sentences: no code, tables, signatures or rulers; white space collapsed."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if not re.match(r"\s*(>>>|\.\.\.|\.\. |[-=~^`*#]{3,}|[|+])", line)]
        paragraph = " ".join(" ".join(lines).split())
        letters = sum(character.isalpha() or character == " " for character in paragraph)
        if len(paragraph) >= MIN_PARAGRAPH and paragraph.isprintable() and letters >= 0.85 * len(paragraph):
            yield paragraph
