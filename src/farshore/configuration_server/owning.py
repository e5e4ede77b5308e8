"""The right to write to the vault: acquired at the first start, and checked repeatedly while the server runs.

An installation has a permanent id (``installation.id`` in its folder, and its catalog). If its catalog does not say
that it owns the vault, the vault is asked. A vault of another installation is never taken by accident, nor one that a
catalog should know but does not. Taking it over is a separate command (see adopting).
"""

from __future__ import annotations

import re

from farshore.catalog import installation as own_row
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import InstallationRow
from farshore.client.credentials import write_private
from farshore.configuration_server.settings import Settings
from farshore.configuration_server.vault_access import OpenVault
from farshore.model.errors import Malformed, WrongState
from farshore.model.identifiers import new_id
from farshore.model.ports import Clock
from farshore.vault.ownership import How, Owner, claim, newest_owner
from farshore.vault.records import record_names

_ID = re.compile("[0-9a-f-]{36}")


def installation_id(settings: Settings) -> str:
    """Return the id in the installation's folder; create it if it is missing. Raises Malformed."""
    path = settings.installation_id
    if not path.exists():
        write_private(path, f"{new_id()}\n".encode())
    found = path.read_text(errors="replace").strip()
    if not _ID.fullmatch(found):
        raise Malformed(f"{path} does not hold the installation's id.", remedy="Restore the file from a copy.")
    return found


def identity(settings: Settings, catalog: Catalog) -> InstallationRow:
    """Return this installation's row. Servers that share a catalog are one installation."""
    mine = installation_id(settings)
    row = catalog.write(lambda tx: own_row.find(tx) or own_row.put(tx, InstallationRow(id=mine)))
    if row.id != mine:
        write_private(settings.installation_id, f"{row.id}\n".encode())
    return row


def ensure_owner(opened: OpenVault, settings: Settings, catalog: Catalog, clock: Clock, *, known: bool) -> None:
    """Make sure that this installation owns the vault, or did: nothing is written once it no longer does. ``known``: it
    used this vault before. Raises WrongState if the vault belongs to another installation, or holds what the catalog
    should know."""
    row = identity(settings, catalog)
    if row.generation and row.vault == opened.vault_id:
        opened.own(row.generation)
        return
    store, key = opened.vault.store, opened.vault.upkeep_key
    newest = newest_owner(store, key)
    if newest is not None and newest.installation != row.id:
        raise WrongState(
            f"The vault in {opened.url} belongs to installation {newest.installation} at {newest.url}.",
            remedy="If that installation is lost, take over its vault in an empty folder: farshore up "
            f"--adopt-vault {opened.url} --key FILE",
        )
    with catalog.reading() as tx:
        blank = own_row.is_blank(tx)
    if blank and newest is not None and (record_names(store) or opened.vault.machines()):
        raise WrongState(
            f"The catalog of this installation is lost: it does not know the contents of its vault {opened.url}.",
            remedy="Rebuild it from the vault: farshore catalog rebuild",
        )
    if blank and newest is None and not known and opened.vault.machines():
        raise WrongState(
            f"The vault in {opened.url} holds machines of another installation.",
            remedy="If that installation is lost, take over its vault in an empty folder: farshore up "
            f"--adopt-vault {opened.url} --key FILE",
        )
    if newest is None:
        wanted = Owner(row.id, 0, clock.now(), How.MADE, settings.base_url, row.epochs_from)
        newest = claim(store, key, None, wanted)
    note_owner(catalog, row.id, opened.vault_id, newest)
    opened.own(newest.generation)


def note_owner(catalog: Catalog, installation: str, vault: str, owner: Owner) -> None:
    """Record in the catalog the generation as which the vault is owned."""

    def note(tx: Transaction) -> None:
        row = own_row.find(tx) or own_row.put(tx, InstallationRow(id=installation))
        row.vault, row.generation = vault, owner.generation
        row.epochs_from = max(row.epochs_from or 0, owner.epochs_from)

    catalog.write(note)


def open_owned(settings: Settings, catalog: Catalog, clock: Clock, *, known: bool) -> OpenVault:
    """Return the vault, opened with the generation as which this installation owns it. Raises as OpenVault.open and
    ensure_owner."""
    with catalog.reading() as tx:
        row = own_row.find(tx)
    opened = OpenVault.open(
        settings.vault,
        settings.owner_key_file,
        settings.home / "chunk-indexes",
        0 if row is None else row.generation,
    )
    ensure_owner(opened, settings, catalog, clock, known=known)
    return opened
