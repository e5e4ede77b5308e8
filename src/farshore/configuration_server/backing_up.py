"""Make a backup of an installation, running or not.

The vault holds what recovery needs (see farshore.protection.mirror). A backup adds what only this server has: its
settings, its credentials, events and alerts, the whole audit log. It also has the choices as they were (policies,
sites, alert channels, push accounts), in case they were changed by mistake. It shows one moment of the catalog.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farshore import __version__
from farshore.catalog import audit, events, machines
from farshore.catalog import installation as own_row
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.dump import dump, schema
from farshore.catalog.upgrade import newest_schema
from farshore.configuration_server import kept_files
from farshore.configuration_server.backup_file import BackupContents, BackupWriter
from farshore.configuration_server.owning import installation_id
from farshore.configuration_server.settings import Settings
from farshore.model.errors import FarshoreError, NotFound, WrongState
from farshore.model.ports import Clock
from farshore.vault.keys.files import open_key_file
from farshore.vault.records import record_names
from farshore.vault.stores.registry import open_store


@dataclass(frozen=True)
class Written:
    """A finished backup."""

    path: Path
    size: int
    contents: BackupContents

    def as_json(self) -> dict[str, Any]:
        """Return it for the program that shows it."""
        return {"path": str(self.path), "size": self.size, **self.contents.as_json()}


def back_up(settings: Settings, path: Path, clock: Clock) -> Written:
    """Write a backup to a new file, and an entry about it to the audit log, which is in the backup. Raises NotFound if
    there is no catalog, WrongState for one of another release, Refused if the file exists, TryLater."""
    if not settings.catalog_url and not (settings.home / "catalog.sqlite").exists():
        raise _no_catalog(settings)
    catalog = Catalog(settings.catalog)
    try:
        with catalog.reading() as tx:
            _check(settings, schema(tx))
            row = own_row.find(tx)
            epoch = max((machine.epoch for machine in machines.every(tx)), default=0)
        if row is None or not row.vault:
            raise WrongState("The installation has no vault yet.", remedy="Start it first: farshore up --detach.")
        owner = open_key_file(settings.owner_key_file)
        path = path.absolute()
        contents = BackupContents(
            installation_id(settings),
            row.vault,
            row.generation,
            clock.now(),
            epoch,
            __version__,
            newest_schema(),
            _records(settings),
        )
        with BackupWriter(path, owner, row.vault) as writer:
            catalog.write(lambda tx: _say(tx, path, clock.now()))
            contents = _write(settings, catalog, writer, contents)
            return Written(path, writer.finish(contents), contents)
    finally:
        catalog.close()


def _write(settings: Settings, catalog: Catalog, writer: BackupWriter, contents: BackupContents) -> BackupContents:
    files = kept_files.read(settings, whole=True)
    for file in files:
        writer.add(file)
    counts: dict[str, int] = {}
    with catalog.reading() as tx:
        for table, columns, rows in dump(tx):
            if table not in counts:
                writer.add({"table": table, "columns": list(columns)})
            for row in rows:
                writer.add(row)
            counts[table] = counts.get(table, 0) + len(rows)
    return replace(contents, rows=counts, files=[file["name"] for file in files])


def _check(settings: Settings, found: str) -> None:
    if not found:
        raise _no_catalog(settings)
    if found != newest_schema():
        raise WrongState(
            f"The catalog has schema {found}, but this release uses {newest_schema()}.",
            remedy="Back it up with the release that wrote it, or start the installation once and then back it up.",
        )


def _no_catalog(settings: Settings) -> NotFound:
    return NotFound(
        f"The installation in {settings.home} has no catalog.",
        remedy="Rebuild it from the vault (farshore catalog rebuild) or from a backup (farshore server restore).",
    )


def _records(settings: Settings) -> dict[str, list[int]] | None:
    """Return the newest records. Read before the catalog: a record that is newer than these is newer than the
    backup."""
    with contextlib.suppress(FarshoreError):
        found = record_names(open_store(settings.vault))
        newest = [names[-1] for names in found.values()]
        return {name.series: [name.generation, name.version] for name in newest}
    return None


def _say(tx: Transaction, path: Path, now: int) -> None:
    """Record that the backup was made, because it contains secrets."""
    message = f"A backup of the installation was made: {path}."
    for log in (audit.append, events.record):
        log(tx, time=now, kind="installation.backed-up", actor="server/setup", subject="installation", message=message)
