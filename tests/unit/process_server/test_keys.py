"""The keys that a process server is given: what it may open with them, and what not."""

from __future__ import annotations

import pytest
from tests.unit.vault.synthetic import MACHINE, Machine, memory_vault

from farshore.api_types.servers import MachineKeys
from farshore.configuration_server.vault_access import OpenVault
from farshore.formats import vault_names
from farshore.model.errors import Damaged, Forbidden, NotFound, Unreachable
from farshore.model.identifiers import MachineId
from farshore.process_server.keys import GrantedKeys
from farshore.vault import Vault, open_store
from farshore.vault.stores.port import Store

OTHER = MachineId(MACHINE.replace("7", "8"))


class Holder:
    """A configuration server: ``domains`` by machine that the process server serves."""

    def __init__(self, vault: Vault, domains: dict[str, list[int]]) -> None:
        self.vault, self.domains = OpenVault("memory:///", vault), domains
        self.asked: list[str] = []
        self.away = False

    def keys(self, machine: str) -> MachineKeys:
        self.asked.append(machine)
        if self.away:
            raise Unreachable("The configuration server is away.", remedy="Wait.")
        if machine not in self.domains:
            raise Forbidden("It serves no such machine.", remedy="Ask elsewhere.")
        chunks = [self.vault.chunk_keys(domain) for domain in self.domains[machine]]
        return MachineKeys(machine=machine, key=self.vault.machine_key(machine), chunks=chunks)


def opened(vault: Vault, holder: Holder, store: Store | None = None) -> Vault:
    store = store or vault.store
    return Vault.with_keys(store, GrantedKeys(holder, vault.upkeep_key.secret.hex(), store))


def test_a_store_that_is_not_the_vaults_is_told_by_the_missing_key() -> None:
    """As an empty folder where the vault should be mounted: the spool's frames would seem to follow a gap."""
    vault = memory_vault()
    empty = open_store("memory:///")
    descriptor = vault_names.DESCRIPTOR
    empty.put(descriptor, [vault.store.get(descriptor)])
    with pytest.raises(Damaged, match="same store"):
        opened(vault, Holder(vault, {MACHINE: [0]}), empty).machine(MACHINE, create=True)


def test_a_key_that_was_erased_or_damaged_is_not_given_from_memory() -> None:
    vault = memory_vault()
    access = OpenVault("memory:///", vault)
    vault.machine(MACHINE, create=True)
    name = vault_names.machine_key(MACHINE)
    good = bytes(vault.store.get(name))
    vault.store.put(name, [good[:-1] + bytes([good[-1] ^ 1])])
    with pytest.raises(Damaged):
        access.machine_key(MACHINE)
    vault.store.put(name, [good])
    Vault.open_with_vault_key(vault.store, bytes.fromhex(vault.key_hex)).erase_machine(MACHINE)
    with pytest.raises(NotFound, match="erased"):
        access.machine_key(MACHINE)


def test_a_machine_is_stored_and_read_with_its_own_keys() -> None:
    vault = memory_vault()
    domain = vault.domain("machine:x")
    holder = Holder(vault, {MACHINE: [domain]})
    held = opened(vault, holder)
    machine = Machine(held, 1, {0: 1 << 20})
    machine.fill()
    machine.domain = domain
    held.chunk_store(domain, MACHINE)
    machine.begin_epoch(None)
    machine.journal(2, 1, 5)
    machine.begin_epoch(max(machine.states), "resync")
    for position in machine.states:
        machine.check(position)
    asked = len(holder.asked)
    holder.away = True
    machine.journal(2, 1, 5)
    machine.check(max(machine.states))
    assert len(holder.asked) == asked, "what was answered is remembered"
    with pytest.raises(Unreachable):
        held.machine(OTHER)
    keys = GrantedKeys(holder, vault.upkeep_key.secret.hex(), vault.store)
    with pytest.raises(Unreachable):
        keys.machine(MACHINE, create=True)
    assert "is away" in keys.trouble
    holder.away = False
    keys.machine(MACHINE, create=True)
    assert keys.trouble == ""


def test_another_machine_and_another_domain_stay_shut() -> None:
    vault = memory_vault()
    domain = vault.domain("label:a")
    other = Machine(vault, 2, {0: 1 << 20}, OTHER)
    other.fill()
    other.domain = domain
    other.begin_epoch(None)
    holder = Holder(vault, {MACHINE: [0]})
    held = opened(vault, holder)
    with pytest.raises(Forbidden):
        held.machine(OTHER, create=True)
    for asking in (MACHINE, OTHER, None):
        with pytest.raises(Forbidden):
            held.chunk_store(domain, asking)
    # Where it served both, in time, each with its own.
    holder.domains[OTHER] = [domain]
    other.in_vault = held.machine(OTHER)
    other.check(max(other.states))
