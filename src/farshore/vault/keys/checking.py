"""Checking the few objects without which nothing else opens: the descriptor and the keys.

A server that runs has them in memory and would notice their loss at its next start, when there is nothing to put them
back from. So they are read anew, and compared with what it has.
"""

from __future__ import annotations

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound, Refused
from farshore.model.identifiers import MachineId
from farshore.vault.objects.damage import Finding
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.vault import Vault, read_descriptor


def vault_findings(vault: Vault) -> list[Finding]:
    """Return what is wrong with the descriptor and the keys of chunks. Raises the store's passing errors."""
    found = []
    try:
        if read_descriptor(vault.store)["vault"] != vault.id:
            found.append(Finding(vault_names.DESCRIPTOR, "It describes another vault than the one that was opened."))
    except (Damaged, Refused) as error:
        found.append(Finding(vault_names.DESCRIPTOR, error.message))
    for domain in vault.domains():
        name = vault_names.chunk_key(domain)
        problem = _problem(vault, name, vault.chunk_key_in_memory(domain))
        if problem:
            found.append(Finding(name, problem))
    return found


def key_finding(vault: Vault, machine: MachineId) -> Finding | None:
    """Return what is wrong with a machine's key, or None if it is as it was when it was read first."""
    name = vault_names.machine_key(machine)
    problem = _problem(vault, name, vault.key_in_memory(machine))
    return Finding(name, problem, machine) if problem else None


def _problem(vault: Vault, name: str, known: SealingKey | None) -> str:
    try:
        stored = vault.stored_key(name)
    except NotFound:
        return "It is missing, and nothing that it seals opens without it. Restore it from a copy of the vault."
    except (Damaged, Refused) as error:
        return f"{error.message} Nothing that it seals opens without it. Restore it from a copy of the vault."
    if known is None or stored.secret == known.secret:
        return ""
    return "It is another key than the one that was read before. Restore it from a copy of the vault."
