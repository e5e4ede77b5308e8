"""``farshore man``: a manual page for each command, made from its help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from farshore import __version__
from farshore.cli.connection import AsJson
from farshore.cli.output import print_done
from farshore.model.errors import Refused

_SECTION = "1"


def man(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder to write to, such as /usr/local/share/man/man1.")],
    as_json: AsJson = False,
) -> None:
    """Write a manual page for each command. View one with `man farshore-point-list`.

    Example: `farshore man --output /usr/local/share/man/man1`
    """
    root: Any = context.find_root().command
    try:
        output.mkdir(parents=True, exist_ok=True)
        pages = dict(every_page(root, context.find_root()))
        for name, text in pages.items():
            (output / f"{name}.{_SECTION}").write_text(text)
    except OSError as error:
        raise Refused(
            f"{error.filename or output} cannot be written ({error.strerror}).", remedy="Give another --output."
        ) from error
    print_done(f"Wrote {len(pages)} pages to {output}.", as_json, pages=sorted(pages), output=str(output))


def every_page(command: Any, context: Any, name: str = "farshore") -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the pages of a command and its subcommands."""
    inner = {}
    if hasattr(command, "list_commands"):
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            if not found.hidden:
                inner[word] = found
    yield name.replace(" ", "-"), page(name, command, inner)
    for word, found in inner.items():
        yield from every_page(found, typer.Context(found, info_name=word, parent=context), f"{name} {word}")


def page(name: str, command: Any, inner: dict[str, Any]) -> str:
    """Render a page in troff's man macros."""
    title = name.replace(" ", "-")
    first, *rest = (command.help or "").strip().split("\n\n")
    summary = " ".join(first.split())
    lines = [f'.TH {_text(title.upper())} {_SECTION} "" "Farshore {__version__}"', ".SH NAME"]
    lines += [f"{_text(title)} \\- {_text(summary)}", ".SH SYNOPSIS", f".B {_text(name)}"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    words = ["[OPTIONS]"] if options else []
    words += [_argument(one) for one in arguments]
    words += ["COMMAND [ARGS]..."] if inner else []
    lines += [_text(" ".join(words))] if words else []
    if rest:
        lines.append(".SH DESCRIPTION")
        for paragraph in rest:
            lines += [".PP", _text(" ".join(paragraph.split()))]
    if arguments:
        lines.append(".SH ARGUMENTS")
        for one in arguments:
            lines += [".TP", f".B {_text(_argument(one))}", _text(one.help or "")]
    if options:
        lines.append(".SH OPTIONS")
        for one in options:
            names = ", ".join([*one.opts, *one.secondary_opts])
            value = "" if one.is_flag else f" {(one.metavar or 'value').upper()}"
            lines += [".TP", f".B {_text(names + value)}", _text(one.help or "")]
    if inner:
        lines.append(".SH COMMANDS")
        for word, found in inner.items():
            lines += [".TP", f".BR {_text(title)}\\-{_text(word)} ({_SECTION})", _text(found.get_short_help_str(200))]
    return "\n".join(line for line in lines if line) + "\n"


def _argument(one: Any) -> str:
    return str(one.metavar or one.name).upper()


def _text(text: str) -> str:
    """Escape text for troff, and set `commands` in bold."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    plain = re.sub(r"`([^`\n]+)`", r"\\fB\1\\fR", plain)
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain
