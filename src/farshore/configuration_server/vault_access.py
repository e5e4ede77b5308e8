"""The vault for the control plane: its place and its keys."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from farshore.api_types.servers import ChunkKeys
from farshore.formats import vault_names
from farshore.model.errors import (
    Damaged,
    Displaced,
    FarshoreError,
    Forbidden,
    NoSpace,
    NotFound,
    Unreachable,
    Unsupported,
)
from farshore.model.identifiers import MachineId, PointId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.position import Position
from farshore.vault import Named
from farshore.vault.keys.files import open_key_file
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.ownership import Ownership
from farshore.vault.promises import check_creates_only
from farshore.vault.stores.counted import CountedStore, counted
from farshore.vault.stores.owned import OwnedStore, owned
from farshore.vault.stores.registry import open_store
from farshore.vault.upkeep import pins
from farshore.vault.upkeep.upgrading import upgrade
from farshore.vault.vault import Vault, read_descriptor

log = logging.getLogger(__name__)


class VaultAccess(Protocol):
    """What the API needs from a vault. One object serves all threads."""

    @property
    def url(self) -> str:
        """The store's URL."""
        ...

    @property
    def vault_id(self) -> str:
        """The vault's own id."""
        ...

    @property
    def upkeep_key(self) -> str:
        """The upkeep key in hex, for process servers over mutual TLS. Never logged."""
        ...

    def machine_key(self, machine: str) -> str:
        """Return a machine's key in hex; create it if the vault holds nothing of the machine. Never logged. Raises
        NotFound if the machine was erased, Damaged, the store's errors."""
        ...

    def chunk_keys(self, domain: int) -> ChunkKeys:
        """Return the keys of a deduplication domain. Never logged. Raises Damaged, the store's errors."""
        ...

    def domain(self, name: str) -> int:
        """Return the number of the deduplication domain called ``name``; create it if it is new; 0 for the empty
        name."""
        ...

    def pin(self, machine: str, position: Position) -> RecoveryPoint:
        """Pin a state, so that retention keeps it. A no-op if it is pinned. Raises NotFound or Damaged if it cannot be
        opened, TryLater, Unsupported, the store's errors."""
        ...

    def unpin(self, machine: str, position: Position) -> bool:
        """Unpin a state; return False if it was not pinned. Raises the store's errors."""
        ...

    def delete_point(self, machine: str, point: str) -> None:
        """Delete a stored point by its id; its state is kept as long as the policy says. Raises NotFound, Refused, the
        store's errors."""
        ...

    def requests(self) -> tuple[dict[str, int], float]:
        """Return this server's requests to the store, by kind, and the seconds in which they were made."""
        ...

    def check(self) -> str:
        """Return the problem of the vault, or ""."""
        ...

    @property
    def generation(self) -> int:
        """The generation as which it is owned; 0 before that is known."""
        ...

    @property
    def successor(self) -> str:
        """The URL of the installation that is known to have taken the vault over; "" if none is known."""
        ...

    def check_owner(self) -> None:
        """Raise Displaced if another installation is known to have taken the vault over. Sends no request."""
        ...


@dataclass(frozen=True)
class FixedVaultAccess:
    """A vault with fixed answers that is never accessed: for tests of the API alone."""

    url: str
    vault_id: str = "00000000-0000-0000-0000-000000000000"
    upkeep_key: str = field(default="00" * 32, repr=False)
    trouble: str = ""
    domains: dict[str, int] = field(default_factory=lambda: {"": 0})
    generation: int = 1
    displaced: list[Displaced] = field(default_factory=list)
    successor: str = ""

    def machine_key(self, machine: str) -> str:
        """Return a random key, a different one for each machine."""
        return sha256(machine.encode()).hexdigest()

    def chunk_keys(self, domain: int) -> ChunkKeys:
        """Return random keys, different ones for each domain."""
        return ChunkKeys(domain=domain, seal=f"{domain:064x}", hash=f"{1000 + domain:064x}")

    def domain(self, name: str) -> int:
        """Number the domains in the order of their first use."""
        return self.domains.setdefault(name, len(self.domains))

    def pin(self, machine: str, position: Position) -> RecoveryPoint:
        """Return a point, as if every state existed."""
        kind = PointKind.CRASH_CONSISTENT
        return RecoveryPoint(PointId(str(position)), MachineId(machine), position, 0, kind)

    def unpin(self, machine: str, position: Position) -> bool:
        """Do nothing, as nothing was pinned."""
        del machine, position
        return False

    def delete_point(self, machine: str, point: str) -> None:
        """Do nothing, as it holds no point."""
        raise _not_in_it(machine, point)

    def requests(self) -> tuple[dict[str, int], float]:
        """Return no requests, as the store is never used."""
        return {}, 0.0

    def check(self) -> str:
        """Return the configured answer."""
        return self.trouble

    def check_owner(self) -> None:
        """Do nothing, or raise as configured."""
        for error in self.displaced:
            raise error


class OpenVault:
    """A vault opened with its owner's key."""

    def __init__(self, url: str, vault: Vault, store: CountedStore | None = None) -> None:
        """``store``: the one below the vault's own, whose requests are counted."""
        self.url = url
        self.vault = vault
        self._counted = store
        self.ownership: Ownership | None = None
        self._outdated = ""
        self._unsafe = ""

    @classmethod
    def open(cls, url: str, key_file: Path, indexes: Path | None = None, generation: int = 0) -> OpenVault:
        """Open the vault, and convert an older one to the present format. ``indexes``: the folder for chunk indexes.
        ``generation``: as which it is owned; nothing is written to it once there is a later one (0: no check). Raises
        NotFound, WrongKey and the store's errors."""
        store = counted(open_store(url))
        guarded = owned(store)
        opened = cls(url, Vault.open(guarded, open_key_file(key_file), indexes), store)
        if generation:
            opened.own(generation)
        opened.look_at_store()
        if not opened._unsafe:
            opened.bring_up_to_date()
        return opened

    def own(self, generation: int) -> None:
        """Write to the vault only while no later generation exists."""
        store = self.vault.store
        assert isinstance(store, OwnedStore)
        self.ownership = store.guard = Ownership(store, self.vault.upkeep_key, generation, _log_displaced)

    def look_at_store(self) -> None:
        """Check that the store still refuses to replace an object on create. `check` reports a store that does not, and
        process servers refuse it; a failover only reads, so it must not fail for that. Raises the store's other
        errors."""
        self._unsafe = ""
        try:
            check_creates_only(self.vault.store)
        except Unsupported as error:
            self._unsafe = error.message
            log.error("%s", error)
        except (Forbidden, NoSpace) as error:
            log.warning(
                "The vault's store could not be tested for conditional puts, on which a vault depends: %s", error
            )

    def bring_up_to_date(self) -> None:
        """Convert a vault of an older format to the present one. A vault that accepts no more objects is unchanged,
        because a failover must not fail for that; `check` reports it. Raises the store's other errors."""
        try:
            upgrade(self.vault)
            self._outdated = ""
        except (Forbidden, NoSpace) as error:
            self._outdated = (
                "The vault has an older format, in which process servers cannot store, and cannot be converted: "
                f"{error.message}"
            )
            log.error("%s %s", self._outdated, error.remedy)

    @property
    def vault_id(self) -> str:
        """See VaultAccess."""
        return self.vault.id

    @property
    def vault_key(self) -> str:
        """The vault key in hex, for programs on this host. Never logged."""
        return self.vault.key_hex

    @property
    def upkeep_key(self) -> str:
        """See VaultAccess."""
        return self.vault.upkeep_key.secret.hex()

    def machine_key(self, machine: str) -> str:
        """See VaultAccess."""
        # Read each time: a key that was erased or damaged since must not come from memory.
        return self.vault.read_key(MachineId(machine)).secret.hex()

    def chunk_keys(self, domain: int) -> ChunkKeys:
        """See VaultAccess."""
        keys = self.vault.chunk_store(domain).keys
        return ChunkKeys(domain=domain, seal=keys.seal.secret.hex(), hash=keys.hash.hex())

    def domain(self, name: str) -> int:
        """See VaultAccess."""
        return self.vault.domain(name)

    def pin(self, machine: str, position: Position) -> RecoveryPoint:
        """See VaultAccess."""
        return pins.pin(self.vault, MachineId(machine), position)[0]

    def unpin(self, machine: str, position: Position) -> bool:
        """See VaultAccess."""
        return pins.unpin(self.vault, MachineId(machine), position)

    def delete_point(self, machine: str, point: str) -> None:
        """See VaultAccess."""
        pins.delete_point(self.vault, MachineId(machine), Named(point))

    def requests(self) -> tuple[dict[str, int], float]:
        """See VaultAccess."""
        return ({}, 0.0) if self._counted is None else (self._counted.requests, self._counted.seconds)

    def check(self) -> str:
        """See VaultAccess: whether the descriptor can be read, and has the present format."""
        try:
            read_descriptor(self.vault.store)
        except FarshoreError as error:
            return error.message
        return self._unsafe or self._outdated

    @property
    def generation(self) -> int:
        """See VaultAccess."""
        return 0 if self.ownership is None else self.ownership.generation

    @property
    def successor(self) -> str:
        """See VaultAccess."""
        found = None if self.ownership is None else self.ownership.successor
        return "" if found is None else found.url

    def check_owner(self) -> None:
        """See VaultAccess."""
        error = None if self.ownership is None else self.ownership.displaced
        if error is not None:
            raise Displaced(error.message, remedy=error.remedy)


def _not_in_it(machine: str, point: str) -> NotFound:
    return NotFound(
        f"The vault holds no point {point} of machine {machine}.", remedy="Choose another point: farshore point list"
    )


def _log_displaced(error: Displaced) -> None:
    log.critical("%s", error)


def ensure_vault(url: str, key_file: Path, record: Path | None = None, generation: int = 0) -> OpenVault:
    """Open the vault, as OpenVault.open. At the first run create its owner's key and the vault itself, and store its id
    in ``record``.

    Raises NotFound if there is a vault and its key is lost, WrongKey for the key of another vault, Damaged if a vault
    has lost its descriptor. Raises Unreachable if the recorded vault is not there (its disk is not mounted): a new one
    in its place would hide that."""
    opened = _opened_or_made(url, key_file, noted(record, url), generation)
    if record is not None:
        _note(record, {"url": url, "vault": opened.vault_id, "within": _within(record.parent, url)})
    return opened


def _opened_or_made(url: str, key_file: Path, before: str, generation: int) -> OpenVault:
    known = key_file.exists()
    if known:
        with contextlib.suppress(NotFound):
            return OpenVault.open(url, key_file, generation=generation)
    elif _exists(url):
        raise NotFound(
            f"There is a vault in {url}, but its key file {key_file} is missing.",
            remedy="Restore the vault's key file from a copy; nothing in the vault can be read without it.",
        )
    store = counted(open_store(url))
    if any(item.name != vault_names.PROBE for item in store.list("")):
        raise Damaged(
            f"{url} holds objects but no vault.farshore, the vault's descriptor.",
            remedy="Restore that object from a copy, or choose an empty place for a new vault.",
        )
    if before:
        raise Unreachable(
            f"The vault {before} is not in {url}.",
            remedy="Mount its disk or share, or give another place with `farshore up --vault URL`.",
        )
    if known:
        return OpenVault(url, Vault.create(owned(store), open_key_file(key_file)), store)
    with OwnerKey.new_file(key_file) as owner:
        return OpenVault(url, Vault.create(owned(store), owner), store)


def noted(record: Path | None, url: str) -> str:
    """Return the id of the vault that was at this place; "" if none is known. A vault within the home is at the same
    place after the home was moved, or was named by another path."""
    if record is None:
        return ""
    try:
        found = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return ""
    if not isinstance(found, dict):
        return ""
    within = _within(record.parent, url)
    is_there = found.get("url") == url or (within and found.get("within") == within)
    return str(found.get("vault", "")) if is_there else ""


def _within(home: Path, url: str) -> str:
    """Return the path of a vault below the home; empty for a vault elsewhere."""
    path = Path(url.removeprefix("file://"))
    return str(path.relative_to(home)) if url.startswith("file://") and path.is_relative_to(home) else ""


def _note(record: Path, fields: dict[str, str]) -> None:
    text = json.dumps(fields) + "\n"
    if not record.exists() or record.read_text() != text:
        temporary = record.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(record)


def _exists(url: str) -> bool:
    try:
        read_descriptor(open_store(url))
    except NotFound:
        return False
    return True
