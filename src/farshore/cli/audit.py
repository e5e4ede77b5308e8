"""``farshore audit``: who changed what, who was refused, and whether the log is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from farshore.api_types.audit import FIRST, AuditEntry, entry_digest
from farshore.cli.connection import AsJson, management
from farshore.cli.output import moment, out, print_json, print_table
from farshore.client.management import Management
from farshore.model.errors import Damaged, Malformed, NotFound

app = typer.Typer(no_args_is_help=True, help="The audit log: append-only, chained by hashes.")

PAGE = 1000
ROOT = "/v1/audit"


@app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="Show at most N, the newest last.", metavar="N")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what users changed, who enrolled, and which requests were refused.

    Example: `farshore audit list --limit 200`
    """
    found = management().transport.get_list(ROOT, AuditEntry, limit=limit, newest=True)
    if as_json:
        print_json(found)
        return
    rows = [[str(one.id), moment(one.time), one.actor, one.source, one.subject, one.message] for one in found]
    print_table(("Entry", "Time", "By", "From", "About", "What"), rows, "The audit log is empty.")


@app.command()
def export(
    output: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole log as JSON lines, checked on the way; with `--json` as one document.

    Keep it elsewhere: `verify --file` checks it, and `verify --head` compares the server's log with its last digest.

    Example: `farshore audit export --output audit-2026-11.jsonl`
    """
    checked = _checked(_every(management()))
    if as_json:
        print_json(list(checked))
        return
    if output is None:
        for entry in checked:
            sys.stdout.write(entry.model_dump_json() + "\n")
        return
    with output.open("x") as file:
        file.writelines(entry.model_dump_json() + "\n" for entry in checked)


@app.command()
def verify(
    file: Annotated[Path | None, typer.Option(help="Check this export instead of the server's log.")] = None,
    head: Annotated[str, typer.Option(help="A digest that must be in it: the last one of an earlier check.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check that no entry was changed or taken out. Exit status 3 where one was.

    Whoever can write the server's database can compute a new chain. Keep the digest that this command prints
    elsewhere, and give it the next time.

    Example: `farshore audit verify --head 3f0c…`
    """
    found, number, last = not head, 0, FIRST
    for entry in _checked(_read(file) if file is not None else _every(management())):
        number, last = entry.id, entry.digest
        found = found or entry.digest == head
    if not found:
        raise Damaged(
            f"No entry of the audit log has the digest {head}: it was changed since then.",
            remedy="Compare it with an earlier export, and find out who can write the catalog.",
        )
    if as_json:
        print_json({"entries": number, "head": last})
        return
    out.print(f"The audit log is whole: {number} entries.")
    out.print(f"Head: {last}")


def _every(api: Management) -> Iterator[AuditEntry]:
    after = 0
    while page := api.transport.get_list(ROOT, AuditEntry, after=after, limit=PAGE):
        yield from page
        after = page[-1].id


def _read(path: Path) -> Iterator[AuditEntry]:
    try:
        with path.open() as file:
            for line in file:
                yield AuditEntry.model_validate(json.loads(line))
    except OSError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror}).", remedy="Give a file of `audit export`.") from error
    except (ValueError, ValidationError) as error:
        raise Malformed(f"{path} is no export of the audit log.", remedy="Give a file of `audit export`.") from error


def _checked(entries: Iterable[AuditEntry]) -> Iterator[AuditEntry]:
    """The entries, each once it is known to follow the one before. Raises Damaged."""
    expected, previous = 1, FIRST
    for entry in entries:
        whole = entry_digest(previous, entry.model_dump(mode="json")) == entry.digest
        if entry.id != expected or entry.previous != previous or not whole:
            raise Damaged(
                f"Entry {expected} of the audit log is not what it was, or is missing.",
                remedy="Compare it with an earlier export, and find out who can write the catalog.",
            )
        yield entry
        expected, previous = entry.id + 1, entry.digest
