"""Bringing a vault of an older format to the one that is written today: the configuration server does so as it starts.

Format 1 sealed what upkeep goes by under the chunk key, format 2 under a key of its own, so that one who may not open
chunks can take leases and see what is condemned. Order: first the descriptor, so that older releases, which would
write under the older key, refuse the vault; then what stays is sealed anew; then the descriptor says that it is done.
Leases end by themselves.
"""

from __future__ import annotations

from farshore.formats import vault_names
from farshore.model.errors import NotFound, TryLater, WrongKey
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store
from farshore.vault.upkeep.condemned import read_list, write_next
from farshore.vault.vault import Vault

_TRIES = 20


def upgrade(vault: Vault) -> None:
    """Bring a vault to today's format. A no-op for a vault that has it. May be stopped and repeated at any time. Raises
    the store's errors, and Forbidden without the vault key."""
    if not vault.begin_upgrade():
        return
    today = SealingKey(vault.upkeep_key.secret)
    _seal_list_anew(vault, today)
    for item in list(vault.store.list(vault_names.DAMAGE)):
        if _is_older(vault.store, today, item.name):
            fields = read_document(vault.store, vault.upkeep_key, item.name)
            vault.store.put(item.name, seal_document(today, item.name, fields).buffers)
    vault.end_upgrade()


def _seal_list_anew(vault: Vault, today: SealingKey) -> None:
    for _ in range(_TRIES):
        before = read_list(vault.store, vault.upkeep_key)
        names = [item.name for item in vault.store.list(vault_names.COLLECTION)]
        if not names or not _is_older(vault.store, today, names[-1]):
            return
        write_next(vault.store, today, before, before.objects, before.doomed)
    raise TryLater("Collectors keep changing the list of condemned objects.", remedy="Start the server again.")


def _is_older(store: Store, today: SealingKey, name: str) -> bool:
    try:
        read_document(store, today, name)
    except WrongKey:
        return True
    except NotFound:  # gone, or followed by a newer one
        return False
    return False
