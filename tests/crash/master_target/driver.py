"""A master target in a process of its own that ends itself by SIGKILL at one durable step.

``python -m tests.crash.master_target.driver VAULT KEY STATE MACHINE STEP``. STEP 0: it goes to the end and prints
the number of steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from farshore.master_target import images
from farshore.master_target.following import Following
from farshore.master_target.record import RecordFolder
from farshore.model.identifiers import MachineId
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault


def main(url: str, key: str, state: str, machine: str, at: str) -> None:
    """Follow until the disks are whole."""
    steps = 0

    def durable(_name: str) -> None:
        nonlocal steps
        steps += 1
        if steps == int(at):
            os.kill(os.getpid(), signal.SIGKILL)

    vault = Vault.open(open_store(url), OwnerKey.from_file(Path(key)))
    folder = RecordFolder(Path(state))
    with folder.locked(), contextlib.ExitStack() as held:
        record = folder.load()
        disks = {
            disk.number: held.enter_context(images.opened(Path(disk.path), disk.size, disk.image))
            for disk in record.disks
        }
        one = Following(vault.machine(MachineId(machine)), folder, disks, durable, note_bytes=1 << 20)
        while not one.record.released:
            one.turn()
    sys.stdout.write(f"{steps}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
