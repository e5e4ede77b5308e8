"""One machine in a vault: a class for each job, and ``MachineVault``, which puts them together."""

from __future__ import annotations

from farshore.vault.machine.machine_vault import MachineVault, Shared

__all__ = ["MachineVault", "Shared"]
