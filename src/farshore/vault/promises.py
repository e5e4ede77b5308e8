"""What a store has to promise before a vault is written to: tried on the store itself, for gateways and doubles differ.

A vault rests on objects that are only created: of two who write one name, one must be refused. A store that ignores the
condition replaces what is there, without an error. It shows itself when it takes one name twice.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Iterator

from farshore.formats import vault_names
from farshore.model.errors import Damaged, FarshoreError, NotFound, Refused, Unsupported
from farshore.vault.stores.port import Store

_REMEDY = "Use a store with conditional puts (If-None-Match) that is consistent, or bring its gateway up to date."


def check_creates_only(store: Store) -> None:
    """Raise Unsupported if the store replaces an object that was only to be created. Raises the store's errors too.

    Costs a request or two; the object that it tries stays, so that the next check finds it there."""
    for _ in range(2):
        if not store.put_if_absent(vault_names.PROBE, [secrets.token_bytes(16)]):
            return
    raise Unsupported(
        f"The store {store.url} overwrites objects in spite of a conditional put: two writers would "
        "destroy each other's data.",
        remedy=_REMEDY,
    )


@contextlib.contextmanager
def without_probe(store: Store) -> Iterator[None]:
    """Remove the object that the checks tried if the block is refused: no vault is made there."""
    try:
        yield
    except Refused:
        with contextlib.suppress(FarshoreError):
            store.delete(vault_names.PROBE)
        raise


def check_store(store: Store) -> None:
    """Raise Unsupported if the store breaks a promise that a vault rests on: creating only, reading back what was
    written, in ranges too, and listing it. Raises the store's errors too."""
    check_creates_only(store)
    name = vault_names.PROBE
    try:
        whole = bytes(store.get(name))
        part = bytes(store.get_range(name, 3, 7))
    except (NotFound, Damaged) as cause:
        raise Unsupported(
            f"The store {store.url} does not return an object directly after its write.", remedy=_REMEDY
        ) from cause
    if part != whole[3:10]:
        raise Unsupported(f"The store {store.url} returns another range than requested.", remedy=_REMEDY)
    folder = name[: name.index("/") + 1]
    if [item.name for item in store.list(folder)] != [name]:
        raise Unsupported(f"The store {store.url} does not list an object directly after its write.", remedy=_REMEDY)
