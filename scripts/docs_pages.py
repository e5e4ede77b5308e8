"""mkdocs' hook for `make docs`: adds pages from outside docs/, makes the reference pages, and puts all in an order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from farshore.cli.main import commands as cli

ROOT = Path(__file__).parents[1]
TOP = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "glossary.md": "GLOSSARY.md",
    "contributing.md": "CONTRIBUTING.md",
    "reporting.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
"""Where pages of the repository's top are in the site."""
_LINK = re.compile(r"\]\(((?:\.\./)*)(docs/)?([^)#:]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the order of pages."""
    config.nav = [
        "index.md",
        {"Concepts": ["architecture.md", "glossary.md", *_folder("architecture")]},
        {"Operate": _folder("operate")},
        {"Reference": ["reference/commands.md", "reference/api.md", "errors.md", {"Formats": _folder("formats")}]},
        {"Security": ["security.md", "reporting.md"]},
        {"Limits and performance": ["limits.md", "performance.md"]},
        {"Contribute": ["contributing.md", "style.md", *_folder("extend"), {"Decisions": _folder("decisions")}]},
        "changelog.md",
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    made = {page: (ROOT / source).read_text() for page, source in TOP.items()}
    made["reference/commands.md"] = commands()
    made["reference/api.md"] = api(json.loads((ROOT / "docs/api/openapi.json").read_text()))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links to the repository's top, and from there, lead to where the pages are in the site."""
    here = page.file.src_uri
    places = {source: page for page, source in TOP.items()}

    def turned(link: re.Match[str]) -> str:
        up, docs, path = link.groups()
        target = places.get(path, path)
        if here in TOP:
            return f"]({target}"
        if target != path:  # from a page of docs/: one step up leads out of it
            return f"]({up[3:]}{target}"
        return f"]({up}{docs or ''}{path}"

    return _LINK.sub(turned, markdown)


def commands() -> str:
    """Return a page of all commands, from the help that they have."""
    root: Any = typer.main.get_command(cli)
    return "# Commands\n\n" + "\n".join(_command(root, typer.Context(root, info_name="farshore"), "farshore"))


def _command(command: Any, context: Any, name: str) -> Iterator[str]:
    if name != "farshore":
        yield f"## `{name}`\n"
    yield f"{(command.help or '').strip()}\n"
    options = [one for one in command.get_params(context) if getattr(one, "help", None) and not one.hidden]
    if options:
        yield "| option | |\n| --- | --- |"
        yield from (f"| {_cell(', '.join(f'`{o}`' for o in one.opts))} | {_cell(one.help)} |" for one in options)
        yield ""
    for word in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, word)
        if not inner.hidden:
            yield from _command(inner, typer.Context(inner, info_name=word, parent=context), f"{name} {word}")


def api(description: dict[str, Any]) -> str:
    """Return a page of all endpoints, from the OpenAPI description."""
    lines = ["# REST API", "", "The whole description, with all bodies: [openapi.json](../api/openapi.json).", ""]
    lines += ["| request | what it does |", "| --- | --- |"]
    for path, methods in sorted(description["paths"].items()):
        for method, call in methods.items():
            told = call.get("description") or call.get("summary", "")
            lines.append(f"| `{method.upper()} {path}` | {_cell(told)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _folder(name: str) -> list[Any]:
    """The pages of a folder, its index first."""
    pages = sorted((ROOT / "docs" / name).glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
    return [str(page.relative_to(ROOT / "docs")) for page in pages]
