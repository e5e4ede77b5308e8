"""Who owns a vault: an installation and a generation, so that two installations never write one machine's stream.

``owner/GENERATION`` is created only and never removed. Whoever takes the vault over creates the next one: of two at
once one wins. An owner is displaced once the object after its own exists, which one small read tells.

No object store changes one object on the condition that another stands, so a writer that was paused between its look
and its put may put one object more. Two things make that harmless. Each generation numbers its epochs from a place of
its own (``epochs_from``), far above all that was seen before: no two generations ever write the same epoch. And who
takes a vault over writes a new list of the condemned (see ``pardon``): a collector of the generation before that goes
on from an older list cannot doom anything any more.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from farshore.formats import vault_names
from farshore.model.errors import Damaged, Displaced, NotFound, Refused, TryLater, WrongState
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store
from farshore.vault.upkeep.condemned import read_list, write_next

EPOCHS_APART = 1 << 20
"""Epochs that a generation has to itself, at least."""
_MOST_EPOCHS = 1 << 32
_TRIES = 20


class How(enum.Enum):
    """How an owner came by its vault."""

    MADE = "made"
    """It was the first."""
    ADOPTED = "adopted"
    REBUILT = "rebuilt"
    """The same installation, with a catalog made anew."""
    RESTORED = "restored"
    """The same installation, from a backup."""


@dataclass(frozen=True)
class Owner:
    """``installation`` is its id, ``url`` where agents reach it, ``time`` (ns) when it took the vault by its clock. Its
    epochs have numbers above ``epochs_from``."""

    installation: str
    generation: int
    time: int
    how: How
    url: str
    epochs_from: int = 0


def newest_owner(store: Store, key: SealingKey) -> Owner | None:
    """Return the present owner, or None if there never was one: a vault of a release before owners. ``key``: the upkeep
    key. Raises Damaged, the store's errors."""
    names = [item.name for item in store.list(vault_names.OWNERS)]
    return None if not names else _read(store, key, names[-1])


def claim(store: Store, key: SealingKey, before: Owner | None, taken: Owner) -> Owner:
    """Make ``taken`` the owner after ``before``; its generation is given here. Repeating it after a crash is the same
    as not having done it: the one before is then oneself. Raises WrongState if another one came first."""
    made = Owner(
        installation=taken.installation,
        generation=1 if before is None else before.generation + 1,
        time=taken.time,
        how=taken.how,
        url=taken.url,
        epochs_from=taken.epochs_from,
    )
    name = vault_names.owner(made.generation)
    fields = {
        "format": 1,
        "installation": made.installation,
        "generation": made.generation,
        "time": made.time,
        "how": made.how.value,
        "url": made.url,
        "epochs_from": made.epochs_from,
    }
    if not store.put_if_absent(name, seal_document(key, name, fields).buffers):
        other = _read(store, key, name)
        raise WrongState(
            f"Installation {other.installation} ({other.url}) took the vault at the same moment.",
            remedy="Use that one, or repeat the command to take the vault over from it.",
        )
    return made


def epochs_after(newest: int) -> int:
    """Return the number after which a generation numbers its epochs, if the newest that was seen is ``newest``: so far
    above that the generations before never come there, however long they go on unaware. Raises Refused if there is no
    room."""
    found = -(-newest // EPOCHS_APART) * EPOCHS_APART + EPOCHS_APART
    if found + EPOCHS_APART > _MOST_EPOCHS:
        raise Refused(
            "The vault was taken over too many times.", remedy="Create a new vault, and protect the machines there."
        )
    return found


def pardon(store: Store, key: SealingKey) -> None:
    """Write the next list of the condemned, with nothing on it but what is doomed already. Whoever walks the vault now
    by the rules of another installation has gone by an older list, and can doom nothing. Raises TryLater."""
    for _ in range(_TRIES):
        before = read_list(store, key)
        doomed = {name: since for name, since in before.objects.items() if name in before.doomed}
        if write_next(store, key, before, doomed, before.doomed) is not None:
            return
    raise TryLater("The list of condemned objects is being changed by others.", remedy="Try again.")


class Ownership:
    """What one who writes knows of its right to. Safe to use from several threads.

    ``key``: the upkeep key. Once displaced it stays so: a generation never comes back.
    """

    def __init__(
        self,
        store: Store,
        key: SealingKey,
        generation: int,
        on_displaced: Callable[[Displaced], None] = lambda _error: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._key = store, key
        self.generation = generation
        self._next = vault_names.owner(generation + 1)
        self._on_displaced, self._monotonic = on_displaced, monotonic
        self._lock = threading.Lock()
        self._looked: float | None = None
        self.displaced: Displaced | None = None
        self.successor: Owner | None = None
        """Whoever has the vault now, once displaced; None if that cannot be read."""

    def check(self, within: float = 0.0) -> None:
        """Raise Displaced if another generation has begun. A look in the last ``within`` seconds is enough. Raises the
        store's errors: nobody writes who cannot ask."""
        began = self._monotonic()
        if self.displaced is None and not (self._looked is not None and began - self._looked < within):
            try:
                self._store.get(self._next)
            except NotFound:
                self._looked = began
                return
            self._is_displaced()
        if self.displaced is not None:
            raise Displaced(self.displaced.message, remedy=self.displaced.remedy)

    def _is_displaced(self) -> None:
        try:
            self.successor = newest_owner(self._store, self._key)
        except (Damaged, Refused):  # that there is one is enough
            self.successor = None
        error = displaced(self.successor)
        with self._lock:
            first, self.displaced = self.displaced is None, error
        if first:
            self._on_displaced(error)


def displaced(successor: Owner | None) -> Displaced:
    """Return what the operator of an installation hears whose vault has been taken over."""
    if successor is None:
        who = "another installation"
    else:
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(successor.time / 1e9))
        who = f"installation {successor.installation} at {successor.url} ({successor.how.value} {moment})"
    return Displaced(
        f"The vault has been taken over by {who}. This installation has stopped writing to it.",
        remedy="Use that installation, and stop this one with `farshore down`. To take the vault back on "
        "purpose, create a new installation with `farshore up --adopt-vault`.",
    )


def _read(store: Store, key: SealingKey, name: str) -> Owner:
    fields = read_document(store, key, name)
    try:
        return Owner(
            installation=str(fields["installation"]),
            generation=int(fields["generation"]),
            time=int(fields["time"]),
            how=How(fields["how"]),
            url=str(fields["url"]),
            epochs_from=int(fields["epochs_from"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise Damaged(f"{name} does not say who owns the vault.", remedy="Restore the object from a copy.") from cause
