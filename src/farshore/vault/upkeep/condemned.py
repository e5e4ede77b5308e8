"""The list of the condemned: objects that a collector found dead, and when; and which are doomed. See collection.

The list has versions, each created only: of two collectors that go on from the same version one wins, the other must
begin anew. The newest counts; older ones are removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound, Unreachable
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store

_TRIES = 20


@dataclass(frozen=True)
class Condemned:
    """``objects``: names and times, ns since 1970 UTC. ``doomed``: those that are being deleted; no later version may
    pardon them."""

    version: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    doomed: Set[str] = frozenset()


def read_list(store: Store, key: SealingKey) -> Condemned:
    """Return the newest version; version 0, empty, where no collector ever ran. Raises Damaged, the store's errors."""
    for _ in range(_TRIES):
        names = [item.name for item in store.list(vault_names.COLLECTION)]
        if not names:
            return Condemned()
        try:
            fields = read_document(store, key, names[-1])
        except NotFound:  # a newer one has come
            continue
        try:
            objects = {str(name): int(since) for name, since in fields["objects"].items()}
            doomed = frozenset(str(name) for name in fields.get("doomed", ()))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
            raise Damaged(
                "The list of condemned objects is damaged.", remedy=f"Delete the object {names[-1]}."
            ) from cause
        return Condemned(vault_names.condemned_version(names[-1]), objects, doomed)
    raise Unreachable(
        "The list of condemned objects is being changed by others.",
        remedy="Repeat the command; if this lasts, run fewer collectors at the same time.",
    )


def read_condemned(store: Store, key: SealingKey) -> dict[str, int]:
    """Return what must not be relied on: names and times. Raises Damaged, the store's errors."""
    return read_list(store, key).objects


def write_next(
    store: Store, key: SealingKey, before: Condemned, objects: Mapping[str, int], doomed: Set[str]
) -> Condemned | None:
    """Return the version after ``before``; None, and nothing changed, where another collector has written it."""
    version = before.version + 1
    name = vault_names.condemned(version)
    fields = {"format": 1, "objects": dict(objects), "doomed": sorted(doomed)}
    if not store.put_if_absent(name, seal_document(key, name, fields).buffers):
        return None
    versions = [vault_names.condemned_version(item.name) for item in store.list(vault_names.COLLECTION)]
    if max(versions, default=version) > version:
        # It may have been written by another, and removed when its successor came: there is always one that is newer.
        # Or a successor has come just now: then this version was the next, but to take it for lost costs nothing.
        store.delete(name)
        return None
    for older in versions:
        if older < version:
            store.delete(vault_names.condemned(older))
    return Condemned(version, dict(objects), frozenset(doomed))
