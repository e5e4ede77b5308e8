"""A part of an installation that owns a vault, as a program of its own: it works until it hears that it does not any
more, whatever its store answers.

    python -m tests.crash.vault.former_owner ROLE URL KEY-FILE GENERATION MACHINE

ROLE: ``stream`` stores a machine's segments, ``upkeep`` merges and collects by a clock that runs two days a round. Each
round is a line on standard output. GENERATION 0 asks nobody whether the vault is its own: the control. Ends with the
exit status of Displaced.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.unit.vault.synthetic import Machine

from farshore.model.errors import Displaced, FarshoreError
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.ownership import Ownership
from farshore.vault.stores.owned import OwnedStore
from farshore.vault.upkeep.collection import GRACE, collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention

KEEPS_LITTLE = ReplicationPolicy(hot_window=60, keep_hourly=0, keep_daily=0)
SIZE = 192 << 10
STEP = 20 * 60 * 1_000_000_000
PACE = 0.3
"""Seconds between two segments: what they are is read whole in the end."""


def main(role: str, url: str, key: str, generation: str, machine: str) -> int:
    """Work. The exit status is that of what ended it."""
    store = OwnedStore(open_store(url))
    vault = Vault.open(store, OwnerKey.from_file(Path(key)))
    if int(generation):
        store.guard = Ownership(store, vault.upkeep_key, int(generation))
    work = {"stream": _stream, "upkeep": _upkeep}[role](vault, MachineId(machine))
    number = 0
    while True:
        number += 1
        try:
            work(number)
        except Displaced as error:
            return error.exit_status
        except FarshoreError as error:
            sys.stdout.write(f"{type(error).__name__}: {error.message}\n")
            time.sleep(0.05)
        else:
            sys.stdout.write(f"round {number}\n")
        sys.stdout.flush()


def _stream(vault: Vault, machine: MachineId) -> Callable[[int], None]:
    """Its process server: an epoch of its own, and a new one after each error."""
    writer: list[Machine] = []

    def store_a_segment(number: int) -> None:
        if not writer:
            made = Machine(vault, number, {0: SIZE}, machine)
            newest = made.in_vault.points.latest()
            made.epoch = max(made.in_vault.stored.timeline().epochs)
            made.time, made.step = newest.time, STEP
            made.fill()
            made.begin_epoch(newest.position, "resync")
            writer.append(made)
        time.sleep(PACE)
        try:
            writer[0].journal(segments=1, batches=1, count=4)
        except FarshoreError:
            writer.clear()
            raise

    return store_a_segment


def _upkeep(vault: Vault, machine: MachineId) -> Callable[[int], None]:
    def round_of_upkeep(number: int) -> None:
        of_it = vault.machine(machine)
        compact(of_it, Tiers(segments=3, fan=2))
        apply_retention(of_it, KEEPS_LITTLE)
        collect(vault, lambda _machine: KEEPS_LITTLE, GRACE, time.time_ns() + number * 2 * GRACE)

    return round_of_upkeep


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(*sys.argv[1:]))
