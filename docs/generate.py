"""Write the pages of the documentation that are made from the code; with --check, only say whether they are current."""

import ast
import inspect
import json
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

import ontogeny
from ontogeny import tables
from ontogeny.analyses import ANALYSES
from ontogeny.cli import app
from ontogeny.config.presets import presets
from ontogeny.config.settings import Settings
from ontogeny.config.study import StudyConfig


def cli() -> str:
    """Every command with its help, arguments and options."""
    lines = ["# Command line", "", "The page is made from the commands themselves.", ""]
    lines += ["Exit codes: 0 success, 2 bad input, 1 failure, 130 Ctrl-C; what is finished by then is kept."]
    for name, command in _commands(typer.main.get_command(app), "ontogeny"):
        about = (command.help or "").strip().split("\n\n")
        example = next((part for part in about if part.startswith("Example: ")), None)
        lines += ["", f"## {name}", "", *(" ".join(part.split()) + "\n" for part in about if part is not example)]
        if example is not None:
            lines += ["<!-- not run: an example -->", "```bash", example.removeprefix("Example: "), "```", ""]
        rows = [_parameter(one) for one in command.params if one.name != "help"]
        if rows:
            lines += ["| | |", "| --- | --- |", *rows]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _commands(command: Any, name: str) -> list[tuple[str, Any]]:
    own = getattr(command, "commands", None)
    if own is None:
        return [(name, command)]
    return [found for key in own for found in _commands(own[key], f"{name} {key}")]


def _parameter(one: Any) -> str:
    is_option = one.param_type_name == "option"
    names = ", ".join(f"`{name}`" for name in one.opts) if is_option else f"`{one.metavar or one.name.upper()}`"
    said = " ".join((getattr(one, "help", None) or "").split())
    return f"| {names} | {said} |"


def api() -> str:
    """Every public name, where its docstring is read from."""
    lines = ["# Python", "", "`import ontogeny as og` gives these names; each is loaded when it is first used."]
    for name in ontogeny.__all__:
        lines += ["", f"::: {ontogeny._PLACES[name]}.{name}"]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Every setting of a study file, by section; and the analyses."""
    schema = StudyConfig.model_json_schema()
    lines = ["# Settings", "", "A study is one YAML file. These are its sections and settings, made from the code."]
    lines += ["An empty default has to be given. `ontogeny plan` checks a file without running anything.", ""]
    sections = {"StudyConfig": "A study"} | {name: _title(name) for name in _in_order(schema)}
    for name, title in sections.items():
        own = schema if name == "StudyConfig" else schema["$defs"][name]
        said, required = _attribute_docstrings(CLASSES[name]), own.get("required", [])
        lines += [f"## {title}", "", " ".join(CLASSES[name].__doc__.split()), ""]
        lines += ["| setting | takes | default | |", "| --- | --- | --- | --- |"]
        for setting, prop in own["properties"].items():
            own_section = "$ref" in prop or "allOf" in prop
            default = "" if setting in required else "its own" if own_section else f"`{_plain(prop.get('default'))}`"
            lines.append(f"| `{setting}` | {_takes(prop)} | {default} | {said.get(setting, '')} |")
        lines.append("")
    lines += ["## Names of analyses", "", "| `analyses: […]` | tables |", "| --- | --- |"]
    lines += [f"| `{name}` | {', '.join(f'`{one}`' for one in made)} |" for name, made in ANALYSES.items()]
    named = ", ".join(f"`{name}`" for name in presets())
    lines += ["", f"Columns are in [Tables](tables.md). In place of a file, commands take a preset's name: {named}."]
    return "\n".join(lines) + "\n"


def _in_order(schema: dict[str, Any]) -> list[str]:
    """Sections as a study names them, each followed by those within it."""
    found: list[str] = []

    def visit(one: Any) -> None:
        if isinstance(one, list):
            for part in one:
                visit(part)
        elif isinstance(one, dict):
            name = str(one.get("$ref", "")).rsplit("/", 1)[-1]
            if name and name not in found:
                found.append(name)
                visit(schema["$defs"][name])
            for key, part in one.items():
                if key != "$defs":
                    visit(part)

    visit(schema)
    return found


def _title(name: str) -> str:
    return name.removesuffix("Config")


def _attribute_docstrings(owner: type) -> dict[str, str]:
    """What stands below each setting, of a class and those that it is made from; `|` would end a cell."""
    found: dict[str, str] = {}
    for cls in reversed(owner.__mro__):
        if not issubclass(cls, Settings) or cls is Settings:
            continue
        (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body)
        for field, below in pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = " ".join(said.split()).replace("|", "\\|")
    return found


def _takes(prop: dict[str, Any]) -> str:
    """A type as JSON schema has it, in words."""
    if "$ref" in prop or "allOf" in prop:
        name = (prop.get("$ref") or prop["allOf"][0]["$ref"]).rsplit("/", 1)[-1]
        return f"[{_title(name)}](#{_title(name).lower()})"
    if "anyOf" in prop:
        return " or ".join(dict.fromkeys(_takes(one) for one in prop["anyOf"]))
    if "enum" in prop or "const" in prop:
        return ", ".join(f"`{one}`" for one in prop.get("enum", [prop.get("const")]))
    if prop.get("type") == "array":
        return f"list of {_takes(prop.get('items', {}))}"
    kinds = {"integer": "whole number", "number": "number", "string": "text", "boolean": "yes or no", "null": "nothing"}
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {prop[bound]:g}" for bound, sign in bounds.items() if bound in prop]
    return " ".join([kinds.get(prop.get("type", ""), "mapping"), ", ".join(limits)]).strip()


def _plain(value: Any) -> str:
    return "null" if value is None else json.dumps(value, ensure_ascii=False)


def _settings_below(cls: type) -> dict[str, type]:
    found = {cls.__name__: cls}
    for one in cls.__subclasses__():
        found |= _settings_below(one)
    return found


CLASSES = _settings_below(Settings)
PAGES = {"tables.md": tables.markdown, "cli.md": cli, "api.md": api, "settings.md": settings}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        path = Path(__file__).with_name(name)
        if not path.is_file() or path.read_text(encoding="utf-8") != make():
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(make(), encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run `python docs/generate.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
