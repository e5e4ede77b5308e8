"""A vault: its descriptor, its keys, its machines.

The owner's key opens the vault key; the vault key opens the key of the chunks, the keys of the machines, and gives
the key that chunks are hashed with. A process server gets the vault key itself, over mutual TLS, and never the
owner's.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound, Refused, TryLater, Unsupported, WrongKey
from farshore.model.identifiers import MachineId, VaultId, new_id
from farshore.vault.cache import PackCache
from farshore.vault.chunks import ChunkStore
from farshore.vault.machine import MachineVault, Shared
from farshore.vault.objects import read_document, seal_document
from farshore.vault.owner_keys import KeyWrapper, Slot, unwrap_any
from farshore.vault.sealing import SealingKey
from farshore.vault.stores.port import Store

FORMAT = 1
_TRIES = 20
_REMEMBERED = 20
"""Changes by which one who changes the descriptor finds out that a newer version has its change in it."""


class Vault:
    """An open vault. Safe to use from several threads. Memory: the pack cache (64 MiB unless told otherwise)."""

    def __init__(self, store: Store, vault_id: VaultId, key: SealingKey, cache_bytes: int = 64 << 20) -> None:
        self.store = store
        self.id = vault_id
        self._key = key
        self.cache = PackCache(cache_bytes)
        self.chunk_hash_key = key.derive("chunk hash")
        """32 bytes; agents hash chunks with it."""
        self.chunk_key = self._chunk_key()
        """Seals what the machines share: chunks, leases, the list of the condemned."""
        chunks = ChunkStore(store, self.chunk_key, self.chunk_hash_key)
        self._shared = Shared(self.chunk_key, self.chunk_hash_key, chunks, self.cache)
        self._machines: dict[MachineId, MachineVault] = {}
        self._lock = threading.Lock()

    @classmethod
    def create(cls, store: Store, owner: KeyWrapper) -> Vault:
        """Make a vault in an empty store. Raises Refused where there is one already.

        One that this owner's key opens and that holds no machine is taken for what this call makes: the answer to an
        earlier try may have been lost."""
        vault_id = VaultId(new_id())
        secret = secrets.token_bytes(32)
        descriptor = {
            "format": FORMAT,
            "product": "farshore",
            "vault": vault_id,
            "created": time.time_ns(),
            "slots": [owner.wrap(secret, vault_id)],
        }
        if not store.put_if_absent(vault_names.DESCRIPTOR, [_descriptor_text(descriptor)]):
            return cls._empty_one(store, owner)
        return cls(store, vault_id, SealingKey(secret))

    @classmethod
    def _empty_one(cls, store: Store, owner: KeyWrapper) -> Vault:
        with contextlib.suppress(WrongKey):
            found = cls.open(store, owner)
            if not found.machines():
                return found
        raise Refused(f"There is a vault in {store.url} already.", remedy="Open it, or choose another place.")

    @classmethod
    def open(cls, store: Store, owner: KeyWrapper) -> Vault:
        """Open with the owner's key. Raises NotFound, WrongKey, Damaged, Unsupported."""
        descriptor = read_descriptor(store)
        vault_id = VaultId(descriptor["vault"])
        return cls(store, vault_id, SealingKey(unwrap_any(owner, descriptor["slots"], vault_id)))

    @classmethod
    def open_with_vault_key(cls, store: Store, secret: bytes, cache_bytes: int = 64 << 20) -> Vault:
        """Open with the vault key itself. Raises NotFound, WrongKey, Damaged, Unsupported."""
        return cls(store, VaultId(read_descriptor(store)["vault"]), SealingKey(secret), cache_bytes)

    def over(self, store: Store, cache_bytes: int) -> Vault:
        """The same vault, read and written through another store, with caches of its own."""
        return Vault(store, self.id, self._key, cache_bytes)

    def add_owner(self, owner: KeyWrapper) -> None:
        """Let another owner key open the vault too. No data is touched."""
        secret, vault_id = self._key.secret, self.id
        self._change_slots(lambda slots: [*slots, owner.wrap(secret, vault_id)])

    def remove_owner(self, owner: KeyWrapper) -> None:
        """Take an owner key's slots away. Raises WrongKey where it has none, Refused where no other key is left."""

        def without(slots: list[Slot]) -> list[Slot]:
            rest = [slot for slot in slots if owner.unwrap(slot, self.id) is None]
            if len(rest) == len(slots):
                raise WrongKey("This key does not open the vault.", remedy="Give the key that is to be removed.")
            if not rest:
                raise Refused("It is the vault's only key.", remedy="Add the new key first.")
            return rest

        self._change_slots(without)

    def _change_slots(self, change: Callable[[list[Slot]], list[Slot]]) -> None:
        """Versions are created only: of two who change the slots at once, one begins again from the other's."""
        for _ in range(_TRIES):
            version, descriptor = _newest(self.store)
            descriptor["slots"] = change(descriptor["slots"])
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
        """The vault key, for the process server; never to be logged or stored."""
        return self._key.secret.hex()

    def chunk_store(self) -> ChunkStore:
        """The vault's chunks."""
        return self._shared.chunks

    def machines(self) -> list[MachineId]:
        """The machines that the vault holds something of, sorted."""
        return [MachineId(name) for name in self.store.folders(vault_names.MACHINES)]

    def machine(self, machine: MachineId, create: bool = False) -> MachineVault:
        """One machine; ``create`` makes its key where nothing of it is there yet. Raises NotFound where it was never
        protected or was erased, Damaged where its key is lost, Malformed."""
        with self._lock:
            found = self._machines.get(machine)
            if found is None:
                key = self._machine_key(machine, create)
                found = self._machines[machine] = MachineVault(self.store, machine, key, self._shared)
            return found

    def key_in_memory(self, machine: MachineId) -> SealingKey | None:
        """A machine's key where it was read before."""
        with self._lock:
            found = self._machines.get(machine)
            return None if found is None else found.key

    def erased(self) -> set[MachineId]:
        """The machines that were erased on purpose; remains of them may still be there."""
        return {MachineId(item.name.removeprefix(vault_names.ERASED)) for item in self.store.list(vault_names.ERASED)}

    def erase_machine(self, machine: MachineId) -> None:
        """Note that the machine is erased, and delete its key: nothing of it can be read again, by anybody. Its objects
        go with the next collection."""
        note = vault_names.erased(machine)
        with self._lock:
            # The note comes first: a key that is gone without it was lost, and what it opens is left alone.
            fields = {"format": 1, "machine": machine, "time": time.time_ns()}
            self.store.put_if_absent(note, seal_document(self.chunk_key, note, fields).buffers)
            self.store.delete(vault_names.machine_key(machine))
            self._machines.pop(machine, None)

    def stored_key(self, name: str) -> SealingKey:
        """A key as the store holds it now, whatever this vault has in memory. Raises NotFound, Damaged, WrongKey."""
        fields = read_document(self.store, self._key, name)
        try:
            return SealingKey(bytes.fromhex(fields["key"]))
        except (KeyError, TypeError, ValueError, WrongKey) as cause:
            raise Damaged(f"{name} holds no key.", remedy="Restore the object from a copy.") from cause

    def _chunk_key(self) -> SealingKey:
        try:
            return self.stored_key(vault_names.CHUNK_KEY)
        except NotFound:
            # Whoever made the vault may have been stopped before its first key, which comes before all else.
            if any(self.store.folders(folder) for folder in (vault_names.CHUNKS, vault_names.MACHINES)):
                raise _lost(vault_names.CHUNK_KEY, "no chunk in the vault can be read") from None
            return self._new_key(vault_names.CHUNK_KEY)

    def _machine_key(self, machine: MachineId, create: bool) -> SealingKey:
        name = vault_names.machine_key(machine)
        try:
            return self.stored_key(name)
        except NotFound as cause:
            if machine in self.erased():
                raise NotFound(
                    f"Machine {machine} was erased from this vault.",
                    remedy="What is still protected is added anew: it gets an id of its own.",
                ) from cause
            if next(iter(self.store.list(vault_names.machine_folder(machine))), None) is not None:
                try:
                    # The first object of a machine is its key: another may have made both since.
                    return self.stored_key(name)
                except NotFound:
                    raise _lost(name, "nothing of this machine can be read") from cause
            if create:
                return self._new_key(name)
            raise NotFound(
                f"The vault holds nothing of machine {machine}: it was never protected here, or was erased.",
                remedy="Run `farshore vault ls` to see the machines.",
            ) from cause

    def _new_key(self, name: str) -> SealingKey:
        document = seal_document(self._key, name, {"format": 1, "key": secrets.token_hex(32)})
        self.store.put_if_absent(name, document.buffers)
        # Of two creators at once one wins; both go on with what is there.
        return self.stored_key(name)


def _lost(name: str, effect: str) -> Damaged:
    return Damaged(
        f"{name} is missing: without that key {effect}.",
        remedy=f"Restore {name} from a copy of the vault; no new key can take its place.",
    )


def _descriptor_text(descriptor: dict[str, Any]) -> bytes:
    return json.dumps(descriptor, indent=1, sort_keys=True).encode() + b"\n"


def read_descriptor(store: Store) -> dict[str, Any]:
    """The vault's descriptor. Raises NotFound where there is no vault, Damaged, Unsupported."""
    return _newest(store)[1]


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
                    f"There is no vault in {store.url}.", remedy="Check the URL, or run `vault init`."
                ) from cause
    raise TryLater("The vault's keys are being changed all the time.", remedy="Try again.")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
        version = fields["format"]
        lists = fields["slots"], fields.get("changes", [])
        if not isinstance(fields["vault"], str) or not all(isinstance(one, list) for one in lists):
            raise ValueError("a field has another type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise Damaged("The vault's descriptor is damaged.", remedy="Restore vault.farshore from a copy.") from cause
    if version != FORMAT:
        raise Unsupported(f"The vault has format {version}.", remedy="Use a newer release of Farshore.")
    return dict(fields)
