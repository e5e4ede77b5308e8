"""A vault: its descriptor, its keys, its machines.

The owner's key opens the vault key; the vault key opens the keys of chunks and machines, and gives the key of upkeep
(see keys). A process server has neither: it gets single keys over mutual TLS, and opens the vault with those.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farshore.formats import vault_names
from farshore.model.errors import Damaged, Forbidden, NotFound, Refused, TryLater, Unsupported, WrongKey
from farshore.model.identifiers import MachineId, VaultId, new_id
from farshore.vault.keys.owner_keys import KeyWrapper, Slot, unwrap_any
from farshore.vault.keys.port import KeySource, StoredKeys
from farshore.vault.machine import MachineVault, Shared
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.opening import seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.promises import check_store, without_probe
from farshore.vault.reading.cache import PackCache
from farshore.vault.stores.port import Store

FORMAT = 2
"""Format 1 had leases, notes and the list of the condemned under the chunk key. It is still read."""
_READ = (1, FORMAT)
_PLAIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
_TRIES = 20
_REMEMBERED = 20
"""Changes by which one who changes the descriptor finds out that a newer version has its change in it."""


class Vault:
    """An open vault. Safe to use from several threads. Memory: the pack cache (64 MiB unless told otherwise), and what
    chunk indexes take (see chunk_index): much less with ``indexes``, a local folder for them."""

    def __init__(
        self,
        store: Store,
        vault_id: VaultId,
        keys: KeySource,
        cache_bytes: int = 64 << 20,
        indexes: Path | None = None,
    ) -> None:
        self.store = store
        self.id = vault_id
        self._keys = keys
        self._indexes = None if indexes is None else indexes / vault_id
        self.cache = PackCache(cache_bytes)
        self.upkeep_key = keys.upkeep
        """Seals what upkeep goes by: leases, the list of the condemned, notes of damage."""
        self._shared = Shared(self.upkeep_key, self.chunk_store, self.cache)
        self._chunks: dict[int, ChunkStore] = {}
        self._domains: dict[str, int] = {}
        self._machines: dict[MachineId, MachineVault] = {}
        self._erasures = 0
        self._lock = threading.Lock()

    @classmethod
    def create(cls, store: Store, owner: KeyWrapper) -> Vault:
        """Make a vault in an empty store. Raises Refused if there is one already, Unsupported if the store does not
        keep what a vault rests on (see promises).

        One that this owner's key opens and that holds no machine is taken for what this call makes: the answer to an
        earlier try may have been lost."""
        # Looked at before anything is written: a store that ignores the condition would replace the descriptor.
        if _is_there(store):
            return cls._empty_one(store, owner)
        vault_id = VaultId(new_id())
        secret = secrets.token_bytes(32)
        descriptor = {
            "format": FORMAT,
            "product": "farshore",
            "vault": vault_id,
            "created": time.time_ns(),
            "slots": [owner.wrap(secret, vault_id)],
        }
        with without_probe(store):
            check_store(store)
            created = store.put_if_absent(vault_names.DESCRIPTOR, [_descriptor_text(descriptor)])
        if not created:
            return cls._empty_one(store, owner)
        return cls(store, vault_id, StoredKeys(store, SealingKey(secret)))

    @classmethod
    def _empty_one(cls, store: Store, owner: KeyWrapper) -> Vault:
        with contextlib.suppress(WrongKey):
            found = cls.open(store, owner)
            if not found.machines():
                return found
        raise Refused(f"There is a vault in {store.url} already.", remedy="Open it, or choose another place.")

    @classmethod
    def open(cls, store: Store, owner: KeyWrapper, indexes: Path | None = None) -> Vault:
        """Open with the owner's key. Raises NotFound, WrongKey, Damaged, Unsupported."""
        descriptor = read_descriptor(store)
        vault_id = VaultId(descriptor["vault"])
        root = SealingKey(unwrap_any(owner, descriptor["slots"], vault_id))
        return cls(store, vault_id, StoredKeys(store, root), indexes=indexes)

    @classmethod
    def open_with_vault_key(cls, store: Store, secret: bytes, cache_bytes: int = 64 << 20) -> Vault:
        """Open with the vault key itself. Raises NotFound, WrongKey, Damaged, Unsupported."""
        keys = StoredKeys(store, SealingKey(secret))
        return cls(store, VaultId(read_descriptor(store)["vault"]), keys, cache_bytes)

    @classmethod
    def with_keys(
        cls, store: Store, keys: KeySource, cache_bytes: int = 64 << 20, indexes: Path | None = None
    ) -> Vault:
        """Open with the keys that ``keys`` answers, for one who does not have the vault key. What takes that key raises
        Forbidden. Raises NotFound, Damaged, Unsupported."""
        return cls(store, VaultId(read_descriptor(store)["vault"]), keys, cache_bytes, indexes)

    def over(self, store: Store, cache_bytes: int) -> Vault:
        """Return the same vault, read and written through another store, with caches of its own."""
        return Vault(store, self.id, self._keys, cache_bytes)

    def add_owner(self, owner: KeyWrapper) -> None:
        """Let another owner key open the vault too. No data is touched."""
        secret, vault_id = self._root().root.secret, self.id
        self._change_slots(lambda slots: [*slots, owner.wrap(secret, vault_id)])

    def remove_owner(self, owner: KeyWrapper) -> None:
        """Take an owner key's slots away. Raises WrongKey if it has none, Refused if no other key is left."""

        def without(slots: list[Slot]) -> list[Slot]:
            rest = [slot for slot in slots if owner.unwrap(slot, self.id) is None]
            if len(rest) == len(slots):
                raise WrongKey("This key does not open the vault.", remedy="Give the key to remove.")
            if not rest:
                raise Refused("This is the vault's only key.", remedy="Add the new key first.")
            return rest

        self._root()
        self._change_slots(without)

    def begin_upgrade(self) -> bool:
        """Have older releases refuse the vault from now on; return whether an upgrade has to be completed. Raises the
        store's errors, Forbidden."""
        self._root()
        descriptor = read_descriptor(self.store)
        if descriptor["format"] != FORMAT:
            self._change_descriptor(lambda one: {**one, "format": FORMAT, "upgrading": True})
            return True
        return bool(descriptor.get("upgrading"))

    def end_upgrade(self) -> None:
        """Note that an upgrade is complete. Raises as begin_upgrade."""
        self._root()
        self._change_descriptor(lambda one: {name: value for name, value in one.items() if name != "upgrading"})

    def _change_slots(self, change: Callable[[list[Slot]], list[Slot]]) -> None:
        self._change_descriptor(lambda descriptor: {**descriptor, "slots": change(descriptor["slots"])})

    def _change_descriptor(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Versions are created only: of two who change it at once, one begins again from the other's."""
        for _ in range(_TRIES):
            version, descriptor = _newest(self.store)
            descriptor = change(descriptor)
            mine = new_id()
            descriptor["changes"] = [*descriptor.get("changes", []), mine][-_REMEMBERED:]
            name = vault_names.descriptor(version + 1)
            if self.store.put_if_absent(name, [_descriptor_text(descriptor)]):
                versions = [item.name for item in self.store.list(vault_names.DESCRIPTORS)]
                if versions[-1:] <= [name] or mine in _newest(self.store)[1].get("changes", []):
                    break
                # Another had written this version, and removed it when a newer came: the newest is never removed.
                self.store.delete(name)
        else:
            raise TryLater("The vault's keys are being changed by others.", remedy="Try again.")
        # What opened the vault before must not lie about.
        self.store.put(vault_names.DESCRIPTOR, [_descriptor_text(_newest(self.store)[1])])
        for older in versions[:-1]:
            if older <= name:
                self.store.delete(older)

    @property
    def key_hex(self) -> str:
        """The vault key; never to be logged or stored. Raises Forbidden for one who does not have it."""
        return self._root().root.secret.hex()

    @property
    def installation_key(self) -> SealingKey:
        """The key of what the installation keeps of itself in the vault. Raises Forbidden for one who does not have the
        vault key."""
        return self._root().installation

    @property
    def chunk_key(self) -> SealingKey:
        """The key of the chunks of the installation's deduplication domain."""
        return self.chunk_store().keys.seal

    @property
    def chunk_hash_key(self) -> bytes:
        """The 32 bytes with which agents hash chunks in that domain."""
        return self.chunk_store().keys.hash

    def chunk_store(self, domain: int = 0, machine: MachineId | None = None) -> ChunkStore:
        """Return the chunks of a deduplication domain; 0 is the installation's. For ``machine``, see KeySource."""
        with self._lock:
            found = self._chunks.get(domain)
        if found is None:
            keys = self._keys.chunks(domain, machine)
            with self._lock:
                folder = None if self._indexes is None else self._indexes / f"{domain:08x}"
                found = self._chunks.setdefault(domain, ChunkStore(self.store, keys, domain, folder))
        return found

    def close(self) -> None:
        """Write to local disk what chunk indexes have in memory only. What is not written is read again from the
        vault."""
        with self._lock:
            stores = list(self._chunks.values())
        for one in stores:
            one.close()

    def chunk_key_of(self, name: str) -> SealingKey:
        """Return the key that a chunk pack or a chunk directory is sealed under. Raises as chunk_store."""
        domain = vault_names.directory_domain(name)
        return self.chunk_store(vault_names.chunk_domain(name) if domain is None else domain).keys.seal

    def domain(self, name: str) -> int:
        """Return the number of the deduplication domain called ``name``, made if it is new; 0 for the empty name.
        Raises the store's errors, Forbidden without the vault key."""
        with self._lock:
            found = self._domains.get(name)
        if found is None:
            found = self._root().domain(name)
            with self._lock:
                self._domains[name] = found
        return found

    def domain_name(self, number: int) -> str:
        """Return the name of a deduplication domain; empty for the installation's. Raises NotFound, Damaged, the
        store's errors, Forbidden without the vault key."""
        return "" if not number else self._root().domain_name(number)

    def domains(self) -> list[int]:
        """Return the deduplication domains that have a key or a chunk, sorted."""
        keys = [vault_names.domain_of_key(item.name) for item in self.store.list(vault_names.DOMAIN_KEYS)]
        folders = self.store.folders(vault_names.CHUNKS)
        used = [vault_names.chunk_domain(f"{vault_names.CHUNKS}{one}/") for one in folders]
        return sorted({0, *used, *(one for one in keys if one)})

    def chunk_key_in_memory(self, domain: int) -> SealingKey | None:
        """Return the key of a domain's chunks where it was read before."""
        with self._lock:
            found = self._chunks.get(domain)
            return None if found is None else found.keys.seal

    def machines(self) -> list[MachineId]:
        """Return the machines that the vault holds something of, sorted."""
        return [MachineId(name) for name in self.store.folders(vault_names.MACHINES)]

    def machine(self, machine: MachineId, create: bool = False) -> MachineVault:
        """Return one machine; ``create`` makes its key where nothing of it is there yet. Raises NotFound if it was
        never protected or was erased, Damaged if its key is lost, Malformed."""
        while True:
            with self._lock:
                found, erasures = self._machines.get(machine), self._erasures
            if found is not None:
                return found
            # Not under the lock: who has the keys may be away, and that is no reason for others to wait.
            key = self._keys.machine(machine, create)
            with self._lock:
                if erasures == self._erasures:
                    return self._machines.setdefault(machine, MachineVault(self.store, machine, key, self._shared))

    def read_key(self, machine: MachineId) -> SealingKey:
        """Return a machine's key as the store holds it now, made if the vault holds nothing of it. Raises as `machine`,
        and Forbidden without the vault key."""
        return self._root().machine(machine, create=True)

    def key_in_memory(self, machine: MachineId) -> SealingKey | None:
        """Return a machine's key where it was read before."""
        with self._lock:
            found = self._machines.get(machine)
            return None if found is None else found.key

    def erased(self) -> set[MachineId]:
        """Return the machines that were erased on purpose; remains of them may still be there."""
        return {MachineId(item.name.removeprefix(vault_names.ERASED)) for item in self.store.list(vault_names.ERASED)}

    def erase_machine(self, machine: MachineId) -> None:
        """Note that the machine is erased, and delete its key: nothing of it can be read again, by anybody. Its objects
        go with the next collection."""
        self._root()
        note = vault_names.erased(machine)
        with self._lock:
            # The note comes first: a key that is gone without it was lost, and what it opens is left alone.
            fields = {"format": 1, "machine": machine, "time": time.time_ns()}
            self.store.put_if_absent(note, seal_document(self.upkeep_key, note, fields).buffers)
            self.store.delete(vault_names.machine_key(machine))
            self._machines.pop(machine, None)
            self._erasures += 1

    def stored_key(self, name: str) -> SealingKey:
        """Return a key as the store holds it now, whatever this vault has in memory. Raises NotFound, Damaged,
        WrongKey."""
        return self._root().stored(name)

    def _root(self) -> StoredKeys:
        if not isinstance(self._keys, StoredKeys):
            raise Forbidden(
                "This needs the vault key, which only the configuration server and the vault's owner have.",
                remedy="Run it on the configuration server, or with the owner's key.",
            )
        return self._keys


def _descriptor_text(descriptor: dict[str, Any]) -> bytes:
    return json.dumps(descriptor, indent=1, sort_keys=True).encode() + b"\n"


def read_descriptor(store: Store) -> dict[str, Any]:
    """Return the vault's descriptor. Raises NotFound if there is no vault, Damaged, Unsupported."""
    return _newest(store)[1]


def _is_there(store: Store) -> bool:
    """Whether there is a vault, whole or not."""
    try:
        read_descriptor(store)
    except NotFound:
        return False
    except (Damaged, Unsupported):
        return True
    return True


def _newest(store: Store) -> tuple[int, dict[str, Any]]:
    """The descriptor that counts, and its version; 0 is the one that the vault was made with."""
    for _ in range(_TRIES):
        names = [item.name for item in store.list(vault_names.DESCRIPTORS)]
        name = names[-1] if names else vault_names.DESCRIPTOR
        try:
            return int(name.rpartition("/")[2], 16) if names else 0, _parsed(bytes(store.get(name)))
        except NotFound as cause:
            if not names:
                raise NotFound(
                    f"There is no vault in {store.url}.",
                    remedy="Check the URL, and that its disk is mounted. To create a new vault: farshore vault init",
                ) from cause
    raise TryLater("The vault's keys are being changed by others.", remedy="Try again.")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
        version = fields["format"]
        lists = fields["slots"], fields.get("changes", [])
        if not isinstance(fields["vault"], str) or not all(isinstance(one, list) for one in lists):
            raise ValueError("a field has another type")
        # Who has no vault key cannot tell whether it is genuine, and names a local folder by it.
        if not _PLAIN.fullmatch(fields["vault"]):
            raise ValueError("the vault's id is no id")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise Damaged("The vault's descriptor is damaged.", remedy="Restore vault.farshore from a copy.") from cause
    if version not in _READ:
        raise Unsupported(f"The vault has format {version}.", remedy="Use a newer release of Farshore.")
    return dict(fields)
