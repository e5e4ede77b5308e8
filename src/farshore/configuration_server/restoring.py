"""Restore an installation from a backup, in its old place or on another host. It becomes the next owner of its vault.

The vault has continued since the backup, so these are taken from the vault: the list of machines and where they run,
the failovers, and the certificates that are trusted. The backup supplies the settings, and what no other place holds
(see reconciling). The order is that of an adoption: everything is read before anything is changed, then the ownership
of the vault is taken, then the vault is read for use. A file ``restoring`` in the folder marks a restore in progress;
it can be interrupted at any point and repeated.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farshore.catalog.database import Catalog
from farshore.catalog.dump import load as load_dump
from farshore.client.credentials import read_private, write_private
from farshore.configuration_server import kept_files
from farshore.configuration_server.adopting import REPORT_FILE, note_report, put_aside
from farshore.configuration_server.backup_file import Backup
from farshore.configuration_server.installation import set_up
from farshore.configuration_server.owning import note_owner
from farshore.configuration_server.rebuilding import Report, highest_epoch
from farshore.configuration_server.reconciling import Kept, newest_records, reconcile
from farshore.configuration_server.settings import FILE_NAME, Settings, checked, from_environment, load
from farshore.configuration_server.vault_access import OpenVault
from farshore.configuration_server.vault_contents import contents, highest
from farshore.model.errors import Damaged, NotFound, Refused, WrongState
from farshore.model.ports import Clock
from farshore.protection.mirror import FILES
from farshore.vault.keys.files import open_key_file
from farshore.vault.ownership import How, Owner, claim, epochs_after, newest_owner, pardon

_UNDER_WAY = "restoring"


def opened_backup(file: Path, key_file: Path) -> Backup:
    """Return a backup of which every byte was read and found authentic. Raises NotFound, WrongKey, Damaged,
    Unsupported."""
    backup = Backup(file, open_key_file(key_file))
    backup.check()
    return backup


def restore(home: Path, file: Path, key_file: Path, given: Mapping[str, object], clock: Clock) -> Report:
    """Make the installation of a backup in ``home``; ``given``: settings that replace the backup's. Existing files of
    the installation remain; its catalog is kept under another name. Raises as opened_backup, Refused if the folder has
    another installation, WrongState if the vault is not the backup's or another installation owns it, the store's
    errors; then nothing has changed."""
    os.umask(0o077)
    backup = opened_backup(file, key_file)
    kept = {row["name"]: row for row in backup.files()}
    settings = _settings(home, kept, given)
    _check_folder(settings, backup)
    own_key = settings.owner_key_file if settings.owner_key_file.exists() else key_file
    opened = OpenVault.open(settings.vault, own_key)
    newest = _check_vault(opened, backup)
    _begin(settings, own_key, fresh=not (home / FILE_NAME).exists())
    vault, mine = opened.vault, backup.contents.installation
    found = newest_records(vault, backup.contents)
    seen = max(highest_epoch(found.records), *(highest(vault, one) for one in vault.machines()), newest.epochs_from)
    owner = claim(
        vault.store,
        vault.upkeep_key,
        newest,
        Owner(mine, 0, clock.now(), How.RESTORED, settings.base_url, epochs_after(max(seen, backup.contents.epoch))),
    )
    pardon(vault.store, vault.upkeep_key)
    opened.own(owner.generation)
    found = newest_records(vault, backup.contents)
    _write_files(settings, kept, found)
    report = _fill(settings, opened, backup, found, owner, clock)
    set_up(settings, clock)
    note_report(settings.home / REPORT_FILE, report)
    (settings.home / _UNDER_WAY).unlink(missing_ok=True)
    return report


def _fill(settings: Settings, opened: OpenVault, backup: Backup, found: Kept, owner: Owner, clock: Clock) -> Report:
    catalog = Catalog(settings.catalog)
    try:
        load_dump(catalog.engine, backup.contents.schema, backup.tables())
        fresh = _standing(settings).get("fresh", False)
        report = reconcile(
            catalog,
            backup.contents,
            found,
            list(contents(opened.vault)),
            clock.now(),
            jobs_lost=fresh and not settings.jobs_url,
        )
        note_owner(catalog, owner.installation, opened.vault_id, owner)
    finally:
        catalog.close()
    return report


def _settings(home: Path, kept: Mapping[str, Mapping[str, str]], given: Mapping[str, object]) -> Settings:
    """Return the folder's settings if there are any, otherwise the backup's."""
    try:
        present = load(home).model_dump()
    except NotFound:
        try:
            values = tomllib.loads(bytes.fromhex(kept[FILE_NAME]["content"]).decode())
        except (KeyError, ValueError) as cause:
            raise Damaged("The backup holds no settings.", remedy="Use another backup.") from cause
        present = {**values, **from_environment(), "home": home.absolute()}
    return checked({**present, **given})


def _check_folder(settings: Settings, backup: Backup) -> None:
    path = settings.installation_id
    if path.exists() and path.read_text(errors="replace").strip() != backup.contents.installation:
        raise Refused(
            f"The installation in {settings.home} is not that of the backup, {backup.contents.installation}.",
            remedy="Choose an empty folder with --home.",
        )


def _check_vault(opened: OpenVault, backup: Backup) -> Owner:
    """Return the present owner of the vault, which must be this installation."""
    of_backup = backup.contents
    if opened.vault_id != of_backup.vault:
        raise WrongState(
            f"The vault in {opened.url} is {opened.vault_id}, but the backup belongs to vault {of_backup.vault}.",
            remedy="Give the URL of that vault: --vault URL.",
        )
    newest = newest_owner(opened.vault.store, opened.vault.upkeep_key)
    if newest is not None and newest.installation != of_backup.installation:
        raise WrongState(
            f"The vault in {opened.url} belongs to installation {newest.installation} at {newest.url}, "
            f"but the backup is of {of_backup.installation}.",
            remedy="Use that installation. To take the vault over from it, run `farshore up --adopt-vault` "
            "with an empty --home.",
        )
    return newest or Owner(of_backup.installation, of_backup.generation, 0, How.MADE, "")


def _begin(settings: Settings, own_key: Path, *, fresh: bool) -> None:
    """Mark that the restore is in progress, and rename the present catalog: once, however often it is repeated."""
    settings.home.mkdir(parents=True, exist_ok=True)
    settings.home.chmod(0o700)
    marker, standing = settings.home / _UNDER_WAY, _standing(settings)
    if not standing:
        standing = {"fresh": fresh, "aside": False}
        _write(marker, standing)
    if not settings.owner_key_file.exists():
        write_private(settings.owner_key_file, read_private(own_key))
    if not standing["aside"]:
        put_aside(settings)
        _write(marker, {**standing, "aside": True})
    settings.pki.mkdir(parents=True, exist_ok=True)
    settings.process_server_home.mkdir(exist_ok=True)
    settings.master_target_home.mkdir(exist_ok=True)


def _standing(settings: Settings) -> dict[str, Any]:
    try:
        return dict(json.loads((settings.home / _UNDER_WAY).read_text()))
    except FileNotFoundError:
        return {}


def _write(marker: Path, standing: Mapping[str, Any]) -> None:
    write_private(marker, json.dumps(standing).encode())


def _write_files(settings: Settings, kept: Mapping[str, Mapping[str, str]], found: Kept) -> None:
    """Write missing files: of the vault's and the backup's, the newer first."""
    of_backup = [dict(row) for name, row in kept.items() if name != FILE_NAME]
    record = found.records.get(FILES)
    of_vault = [] if record is None else [dict(row) for row in record.rows]
    for rows in (of_vault, of_backup) if FILES in found.newer else (of_backup, of_vault):
        kept_files.write(settings, rows)
