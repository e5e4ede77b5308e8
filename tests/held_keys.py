"""The keys of one machine of a vault, as a master target is given them."""

from __future__ import annotations

from farshore.model.home_task import DomainKeys, HeldKeys
from farshore.model.identifiers import MachineId
from farshore.vault.vault import Vault


def held_keys(vault: Vault, machine: str) -> HeldKeys:
    """With those of domain 0."""
    keys = vault.chunk_store(0).keys
    chunks = (DomainKeys(0, keys.seal.secret.hex(), keys.hash.hex()),)
    return HeldKeys(vault.upkeep_key.secret.hex(), vault.read_key(MachineId(machine)).secret.hex(), chunks)
