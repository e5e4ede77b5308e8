"""``farshore audit``: the log of changes and refusals, and the check that it is complete."""

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

app = typer.Typer(
    no_args_is_help=True, help="The audit log: append-only, each entry chained to the one before by a hash."
)

PAGE = 1000
ROOT = "/v1/audit"


@app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="Show at most N entries, newest last.", metavar="N")] = 50,
    as_json: AsJson = False,
) -> None:
    """List changes by users, enrolments and refused requests.

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
    output: Annotated[Path | None, typer.Option(help="File to write. Default: standard output.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the whole log and write it as JSON lines, or as one document with `--json`.

    Keep the export on another host. `verify --file` checks it, and `verify --head` compares the server's log with its
    last digest.

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
    file: Annotated[Path | None, typer.Option(help="Verify this export instead of the server's log.")] = None,
    head: Annotated[
        str, typer.Option(help="Digest that the log must contain: the last one that an earlier check printed.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check that no entry was changed or removed. Exits with status 3 if one was.

    Somebody who can write to the server's database can compute a new chain. Keep the digest that this command prints on
    another host, and pass it with --head next time.

    Example: `farshore audit verify --head 3f0c…`
    """
    found, number, last = not head, 0, FIRST
    for entry in _checked(_read(file) if file is not None else _every(management())):
        number, last = entry.id, entry.digest
        found = found or entry.digest == head
    if not found:
        raise Damaged(
            f"No entry of the audit log has the digest {head}: the log was changed since then.",
            remedy="Compare the log with an earlier export, and find out who can write to the catalog.",
        )
    if as_json:
        print_json({"entries": number, "head": last})
        return
    out.print(f"The audit log is complete: {number} entries.")
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
        raise NotFound(
            f"{path} cannot be read ({error.strerror}).", remedy="Give a file that `farshore audit export` wrote."
        ) from error
    except (ValueError, ValidationError) as error:
        raise Malformed(
            f"{path} is not an export of the audit log.", remedy="Give a file that `farshore audit export` wrote."
        ) from error


def _checked(entries: Iterable[AuditEntry]) -> Iterator[AuditEntry]:
    """Yield each entry after checking that it follows the one before. Raises Damaged."""
    expected, previous = 1, FIRST
    for entry in entries:
        whole = entry_digest(previous, entry.model_dump(mode="json")) == entry.digest
        if entry.id != expected or entry.previous != previous or not whole:
            raise Damaged(
                f"Entry {expected} of the audit log was changed or is missing.",
                remedy="Compare the log with an earlier export, and find out who can write to the catalog.",
            )
        yield entry
        expected, previous = entry.id + 1, entry.digest
