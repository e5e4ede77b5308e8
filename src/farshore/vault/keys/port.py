"""Where the keys of a vault come from: a port, and what stands behind it for whoever has the vault key.

The vault key opens every other key. A process server does not have it: it asks the configuration server for the keys
of what it serves. The engine is the same over both.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Protocol

from blake3 import blake3

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound, WrongKey
from farshore.model.identifiers import MachineId
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store

_NEIGHBOURS = 64
"""Numbers that are tried for a name."""


@dataclass(frozen=True)
class ChunkKeys:
    """What chunks are sealed under, and the 32 bytes that they are hashed with."""

    seal: SealingKey
    hash: bytes = field(repr=False)


class KeySource(Protocol):
    """Answers keys. Safe to call from several threads. An answer never changes, so the caller may remember it.

    Any call may raise the errors of the store, or of the way to who has the keys, and Forbidden where the caller may
    not have that key.
    """

    @property
    def upkeep(self) -> SealingKey:
        """The key of leases, of the list of the condemned and of the notes: every holder of keys has it."""
        ...

    def chunks(self, domain: int, machine: MachineId | None = None) -> ChunkKeys:
        """Return the keys of a deduplication domain's chunks; 0 is the installation's. ``machine``: whose chunks they
        are to open, if it is one machine's. Raises Damaged if the keys are lost."""
        ...

    def machine(self, machine: MachineId, create: bool) -> SealingKey:
        """Return a machine's key. ``create``: make it if the vault holds nothing of the machine. Raises NotFound if it
        was never protected or was erased, Damaged if its key is lost, Malformed."""
        ...


class StoredKeys:
    """The keys that the store holds, opened with the vault key. Raises WrongKey if that is another vault's."""

    def __init__(self, store: Store, root: SealingKey) -> None:
        self._store = store
        self.root = root
        self._chunks = ChunkKeys(self._chunk_key(), root.derive("chunk hash"))
        # In vaults of format 1 these documents are under the chunk key.
        self.upkeep = SealingKey(root.derive("upkeep"), older=self._chunks.seal)
        self.installation = SealingKey(root.derive("installation"))
        """Seals what an installation keeps of itself in the vault (see records)."""

    def chunks(self, domain: int, machine: MachineId | None = None) -> ChunkKeys:  # noqa: ARG002 - it opens them all
        """See KeySource."""
        if not domain:
            return self._chunks
        name = vault_names.chunk_key(domain)
        try:
            key = self.stored(name)
        except NotFound:
            raise _lost(name, "no chunk of its deduplication domain can be read") from None
        return ChunkKeys(key, key.derive("chunk hash"))

    def domain(self, name: str) -> int:
        """Return the number of the domain called ``name``, made where it is new. Raises the store's errors, Damaged."""
        if not name:
            return 0
        context = "farshore vault 1 domain number"
        digest = blake3(self.root.secret + name.encode(), derive_key_context=context).digest(4)
        number = int.from_bytes(digest, "little")
        for _ in range(_NEIGHBOURS):
            if number and self._domain_at(number, name).get("name") == name:
                return number
            # Another name has it: chances are one in four thousand millions.
            number = (number + 1) % (1 << 32)
        raise Damaged(f"No deduplication domain can be made for {name}.", remedy="Run `farshore vault verify`.")

    def domain_name(self, number: int) -> str:
        """Return the name of the domain with that number. Raises NotFound, Damaged, the store's errors."""
        return str(read_document(self._store, self.root, vault_names.chunk_key(number)).get("name", ""))

    def _domain_at(self, number: int, name: str) -> dict[str, Any]:
        """The document of the domain with that number, made for ``name`` if the vault holds nothing of the domain."""
        key = vault_names.chunk_key(number)
        try:
            return read_document(self._store, self.root, key)
        except NotFound as cause:
            used = next(iter(self._store.list(vault_names.chunk_packs(number))), None) is not None
            if not used:
                fields = {"format": 1, "key": secrets.token_hex(32), "name": name}
                self._store.put_if_absent(key, seal_document(self.root, key, fields).buffers)
            try:
                # Of two creators at once one wins; and another may have made key and chunks since.
                return read_document(self._store, self.root, key)
            except NotFound:
                raise _lost(key, "no chunk of its deduplication domain can be read") from cause

    def machine(self, machine: MachineId, create: bool) -> SealingKey:
        """See KeySource."""
        name = vault_names.machine_key(machine)
        try:
            return self.stored(name)
        except NotFound as cause:
            if any(item.name == vault_names.erased(machine) for item in self._store.list(vault_names.ERASED)):
                raise NotFound(
                    f"Machine {machine} was erased from this vault.",
                    remedy="To protect it again, add it as a new machine with a new id.",
                ) from cause
            if next(iter(self._store.list(vault_names.machine_folder(machine))), None) is not None:
                try:
                    # The first object of a machine is its key: another may have made both since.
                    return self.stored(name)
                except NotFound:
                    raise _lost(name, "nothing of this machine can be read") from cause
            if create:
                return self._new(name)
            raise NotFound(
                f"The vault has no key of machine {machine}: the machine was never protected here, or was erased.",
                remedy="Run `farshore vault ls` to see the machines.",
            ) from cause

    def stored(self, name: str) -> SealingKey:
        """Return a key as the store holds it now. Raises NotFound, Damaged, WrongKey."""
        fields = read_document(self._store, self.root, name)
        try:
            return SealingKey(bytes.fromhex(fields["key"]))
        except (KeyError, TypeError, ValueError, WrongKey) as cause:
            raise Damaged(f"{name} holds no key.", remedy="Restore the object from a copy.") from cause

    def _chunk_key(self) -> SealingKey:
        try:
            return self.stored(vault_names.CHUNK_KEY)
        except NotFound:
            # Whoever made the vault may have been stopped before its first key, which comes before all else.
            if any(self._store.folders(folder) for folder in (vault_names.CHUNKS, vault_names.MACHINES)):
                raise _lost(vault_names.CHUNK_KEY, "no chunk in the vault can be read") from None
            return self._new(vault_names.CHUNK_KEY)

    def _new(self, name: str) -> SealingKey:
        document = seal_document(self.root, name, {"format": 1, "key": secrets.token_hex(32)})
        self._store.put_if_absent(name, document.buffers)
        # Of two creators at once one wins; both go on with what is there.
        return self.stored(name)


def _lost(name: str, effect: str) -> Damaged:
    return Damaged(
        f"{name} is missing: without that key {effect}.",
        remedy=f"Restore {name} from a copy of the vault; a new key cannot replace it.",
    )
