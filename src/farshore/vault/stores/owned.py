"""A store that is written to only while its writer owns the vault: a wrapper, next to the store itself.

Before each object of a machine, each record of the installation and each deletion it asks anew whether another
generation has begun. A look within the last four seconds is enough for a segment: there is one every few seconds for
each machine, its epoch belongs to its generation alone, and a process server looks every three seconds anyway, so it
costs no request. A look within the last second is enough for anything else. It does not ask for a lease: who is
displaced may still read. Nor for the document that completes an epoch: the description that is put just before it was
asked for, and one without the other would look like an epoch whose document is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.formats.vault_names import SegmentName
from farshore.vault.stores.port import Store, Sweepable
from farshore.vault.stores.wrapper import StoreWrapper

LOOK_SECONDS = 3.0
"""How often a process server looks, whether it writes or not."""
STREAMED = LOOK_SECONDS + 1.0
"""How old a look may be (s) for a segment: one interval, and what the answer takes."""
_LATELY = 1.0
_ANEW = (vault_names.MACHINES, vault_names.INSTALLATION)


class Guard(Protocol):
    """farshore.vault.ownership.Ownership."""

    def check(self, within: float = 0.0) -> None:
        """Raises Displaced, the store's errors."""
        ...


class OwnedStore(StoreWrapper):
    """A Store (see vault.stores.port). ``guard`` may be set later, before anything is written; None: nobody asks."""

    def __init__(self, inner: Store, guard: Guard | None = None) -> None:
        super().__init__(inner)
        self.guard = guard

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._ask(name)
        self._inner.put(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        self._ask(name)
        return self._inner.put_if_absent(name, buffers)

    def delete(self, name: str) -> None:
        if self.guard is not None:
            self.guard.check()
        self._inner.delete(name)

    def _ask(self, name: str) -> None:
        if self.guard is not None and not name.startswith(vault_names.LEASES) and not vault_names.is_epoch(name):
            self.guard.check(_age(name))


def _age(name: str) -> float:
    """How old (s) the look before a put of ``name`` may be."""
    if SegmentName.parse(name) is not None:
        return STREAMED
    return 0.0 if name.startswith(_ANEW) else _LATELY


class SweepableOwnedStore(OwnedStore):
    """The same over a store that can sweep."""

    def sweep(self, older_than: float) -> int:
        """See Sweepable."""
        if self.guard is not None:
            self.guard.check()
        assert isinstance(self._inner, Sweepable)
        return self._inner.sweep(older_than)


def owned(store: Store) -> OwnedStore:
    """Return ``store`` with a guard that is to be set; able to sweep if the store is."""
    return SweepableOwnedStore(store) if isinstance(store, Sweepable) else OwnedStore(store)
