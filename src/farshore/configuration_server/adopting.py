"""Make an installation from a vault and its owner's key, in place of one that is lost or of a lost catalog.

The order makes it safe to interrupt it anywhere and repeat it. First everything needed is read, so a wrong key or a
damaged vault changes nothing. Then the vault is taken, by one conditional put; from here on the former owner writes
nothing more. Only after that are the records and the contents of the vault read for use: they include what the former
owner wrote before it was displaced. Then files, catalog and certificates are made. A file ``adopting`` in the folder
marks that this is in progress.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from farshore.catalog import installation as own_row
from farshore.catalog.database import Catalog
from farshore.catalog.upgrade import upgrade
from farshore.client.credentials import read_private, write_private
from farshore.configuration_server import kept_files
from farshore.configuration_server.installation import set_up
from farshore.configuration_server.owning import installation_id, note_owner
from farshore.configuration_server.rebuilding import Report, highest_epoch, rebuild
from farshore.configuration_server.settings import FILE_NAME, Settings
from farshore.configuration_server.vault_access import OpenVault
from farshore.configuration_server.vault_contents import contents, highest
from farshore.model.errors import NotFound, Refused, WrongState
from farshore.model.ports import Clock
from farshore.protection.mirror import FILES
from farshore.vault.keys.files import open_key_file
from farshore.vault.ownership import How, Owner, claim, epochs_after, newest_owner, pardon
from farshore.vault.records import Record, read_records

REPORT_FILE = "adoption.json"
"""What the new catalog contains, and how recent it is."""
_UNDER_WAY = "adopting"


def adopt(settings: Settings, key_file: Path, clock: Clock) -> Report:
    """Make an installation that replaces the owner of the vault in ``settings``. Raises Refused if the folder already
    has an installation, NotFound if the vault is empty, WrongKey, Damaged, the store's errors; then the vault is
    unchanged."""
    os.umask(0o077)
    under_way = settings.home / _UNDER_WAY
    if (settings.home / FILE_NAME).exists() and not under_way.exists():
        raise Refused(
            f"There is an installation in {settings.home} already.",
            remedy="Choose an empty folder with --home. To rebuild a lost catalog: farshore catalog rebuild",
        )
    open_key_file(key_file)
    opened = OpenVault.open(settings.vault, key_file)  # before anything is created here
    newest = newest_owner(opened.vault.store, opened.vault.upkeep_key)
    if newest is None and not opened.vault.machines():
        raise NotFound(
            f"The vault in {settings.vault} holds no machine, and no installation owns it.",
            remedy=f"Use it as a new vault: farshore up --vault {settings.vault}",
        )
    settings.home.mkdir(parents=True, exist_ok=True)
    settings.home.chmod(0o700)
    under_way.touch()
    _keep_key(settings, key_file)
    return _make(settings, opened, newest, How.ADOPTED, clock)


def rebuild_catalog(settings: Settings, clock: Clock) -> Report:
    """Rebuild the catalog of this installation. The present one is kept under another name. Raises WrongState if the
    vault belongs to another installation, or if a database other than a file is not empty; the vault's errors."""
    os.umask(0o077)
    opened = OpenVault.open(settings.vault, settings.owner_key_file)
    newest = newest_owner(opened.vault.store, opened.vault.upkeep_key)
    mine = installation_id(settings)
    if newest is not None and newest.installation != mine:
        raise WrongState(
            f"The vault in {settings.vault} belongs to installation {newest.installation} at {newest.url}; this one is "
            f"{mine}.",
            remedy="Use that installation. To take the vault over from it, run `farshore up --adopt-vault` "
            "with an empty --home.",
        )
    put_aside(settings)
    return _make(settings, opened, newest, How.REBUILT, clock)


def _make(settings: Settings, opened: OpenVault, newest: Owner | None, how: How, clock: Clock) -> Report:
    vault, mine = opened.vault, installation_id(settings)
    kept = read_records(vault.store, vault.installation_key)
    again = how is How.ADOPTED and newest is not None and newest.installation == mine
    if not again:
        seen = max(highest_epoch(kept), *(highest(vault, one) for one in vault.machines()), 0)
        begins = epochs_after(max(seen, 0 if newest is None else newest.epochs_from))
        newest = claim(
            vault.store, vault.upkeep_key, newest, Owner(mine, 0, clock.now(), how, settings.base_url, begins)
        )
    assert newest is not None
    pardon(vault.store, vault.upkeep_key)
    opened.own(newest.generation)
    kept = read_records(vault.store, vault.installation_key)
    found = list(contents(vault))
    settings.pki.mkdir(parents=True, exist_ok=True)
    kept_files.write(settings, _files(kept))
    catalog = Catalog(settings.catalog)
    try:
        upgrade(catalog.engine)
        report = rebuild(catalog, kept, found, how, clock.now())
        note_owner(catalog, mine, vault.id, newest)
    finally:
        catalog.close()
    set_up(settings, clock)
    note_report(settings.home / REPORT_FILE, report)
    (settings.home / _UNDER_WAY).unlink(missing_ok=True)
    return report


def _files(kept: Mapping[str, Record]) -> list[dict[str, str]]:
    record = kept.get(FILES)
    return [] if record is None else [dict(row) for row in record.rows]


def _keep_key(settings: Settings, key_file: Path) -> None:
    own, given = settings.owner_key_file, read_private(key_file)
    if own.exists() and read_private(own) != given:
        raise Refused(f"{own} and {key_file} are different keys.", remedy="Choose an empty folder with --home.")
    if not own.exists():
        write_private(own, given)


def put_aside(settings: Settings) -> None:
    """Rename the lost catalog's file: somebody may want to examine it."""
    if settings.catalog_url:
        catalog = Catalog(settings.catalog)
        try:
            upgrade(catalog.engine)
            with catalog.reading() as tx:
                blank = own_row.is_blank(tx)
        finally:
            catalog.close()
        if not blank:
            raise WrongState(
                "The catalog's database is not empty.", remedy="Delete its contents, or use an empty database."
            )
        return
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for end in ("-wal", "-shm", ""):
        present = settings.home / f"catalog.sqlite{end}"
        if present.exists():
            present.replace(settings.home / f"catalog.sqlite.lost-{stamp}{end}")


def note_report(path: Path, report: Report) -> None:
    """Store the report for the program that shows it."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    temporary.replace(path)
