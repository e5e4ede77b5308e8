"""Pins: states that retention keeps until they are unpinned, whatever the policy says; and deleting a point.

A pin is one small object, whose name alone says which state it keeps. Order, which makes it safe beside collectors and
crashes: a lease on the state, a look whether it is there, the pin, the end of the lease. So a collector that does not
see the pin yet sees the lease, or has condemned what the look then misses. A crash leaves the lease, which expires, and
a pin or none. Pinning and unpinning may be repeated.
"""

from __future__ import annotations

import time
from typing import Any

from farshore.formats import vault_names
from farshore.model.errors import NotFound, Refused, TryLater, Unsupported
from farshore.model.identifiers import MachineId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.position import Position
from farshore.vault.objects.opening import seal_document
from farshore.vault.reading import points
from farshore.vault.reading.leases import LeaseKind, take_lease
from farshore.vault.reading.points import Choice
from farshore.vault.reading.timeline import Timeline
from farshore.vault.vault import FORMAT, Vault, read_descriptor


def pinned(vault: Vault, machine: MachineId) -> set[Position]:
    """Return the pinned states of a machine. Raises the store's errors."""
    names = (item.name for item in vault.store.list(vault_names.pins_folder(machine)))
    return {at for name in names if (at := vault_names.pinned_position(name)) is not None}


def pin(vault: Vault, machine: MachineId, choice: Choice) -> tuple[RecoveryPoint, bool]:
    """Keep a state; return it, and False if it was pinned already. Raises NotFound or Damaged if it cannot be opened,
    Unsupported for a vault in an older format, whose releases know no pins, TryLater, the store's errors."""
    if read_descriptor(vault.store)["format"] != FORMAT:
        raise Unsupported(
            "The vault has an older format, and releases that write it do not honour pins.",
            remedy="Start the configuration server of this release once, which upgrades the vault.",
        )
    found = vault.machine(machine)
    chosen = found.points.resolve(choice)
    lease = take_lease(vault.store, vault.upkeep_key, LeaseKind.READ, machine, chosen.position)
    if lease is None:
        raise TryLater(
            "The vault cannot be written now, so nothing can be pinned in it.",
            remedy="Free space in the store, or use credentials with write access. Then repeat the command.",
        )
    try:
        # Once more, under the lease: what the first look found may have been condemned before the lease was there.
        _check_free_of_merges(found.stored.timeline(), chosen.position)
        name = vault_names.pin(machine, chosen.position)
        fields: dict[str, Any] = {**points.to_fields(chosen), "pinned": time.time_ns()}
        new = vault.store.put_if_absent(name, seal_document(found.key, name, fields).buffers)
    finally:
        lease.release()
    return chosen, new


def _check_free_of_merges(timeline: Timeline, position: Position) -> None:
    """Raise as check_recoverable, and NotFound for a state inside a range that retention has merged: parts of it may
    still open, but what lies between it and the end of the range may be gone, and could not be merged again."""
    points.check_recoverable(timeline, position)
    for stored in timeline.data_layers(position.epoch):
        if stored.layer.first <= position.sequence < stored.layer.end - 1:
            raise NotFound(
                f"Position {position} is no longer available: retention has merged its records.",
                remedy="Choose one of the points that `farshore vault points` lists.",
            )


def unpin(vault: Vault, machine: MachineId, position: Position) -> bool:
    """Let retention decide about a state again; return False if it was not pinned. Raises the store's errors."""
    was = position in pinned(vault, machine)
    if was:
        vault.store.delete(vault_names.pin(machine, position))
    return was


def position_of(vault: Vault, machine: MachineId, choice: Choice) -> Position:
    """Return the position that a choice means, if the state can be opened or not. Raises NotFound."""
    if isinstance(choice, Position):
        return choice
    return vault.machine(machine).points.resolve(choice).position


def delete_point(vault: Vault, machine: MachineId, choice: Choice) -> RecoveryPoint:
    """Delete a point with its name, and return what it was. Its state stays recoverable by position and time for as
    long as the policy keeps it, but in an epoch of rounds, where only points are states. Raises NotFound, Refused for a
    pinned point, for the newest of rounds, and for one that is a part of the stream: retention alone lets those go."""
    found = vault.machine(machine)
    point = found.points.resolve(choice)
    name = None
    if points.parse_position(point.id) is None:
        name = vault_names.point(machine, point.position, point.id)
    if name is None or (point.kind is PointKind.CRASH_CONSISTENT and not point.name):
        raise Refused(
            f"The point {point.position} was cut by Farshore itself and cannot be deleted alone.",
            remedy="Shorten the retention of the machine's policy, or erase the machine with `farshore vault erase`.",
        )
    if point.position in pinned(vault, machine):
        raise Refused(f"The point {point.name or point.id} is pinned.", remedy="Unpin it first.")
    timeline = found.stored.timeline()
    marked = timeline.marked(point.position.epoch)
    if timeline.record(point.position.epoch).only_points and point.position.sequence >= max(marked, default=0):
        raise Refused(
            f"The point {point.name or point.id} is the newest state of a machine that is protected in rounds.",
            remedy="Delete it once there is a newer point.",
        )
    if not any(item.name == name for item in vault.store.list(vault_names.points_folder(machine))):
        raise NotFound(f"There is no point {point.id!r}.", remedy="Run `farshore vault points` to see the points.")
    vault.store.delete(name)
    return point
