"""Keep what is known about one VMware server: every update of the filter is applied, complete or partial.

Properties that the account may not read, or whose value is not understood, are noted with the machine and keep their
default: one odd machine does not stop discovery.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farshore.api_types.body import clean_line
from farshore.api_types.vmware import MOST_KNOWN, VmwareMachine, VmwarePlace
from farshore.model.errors import Refused
from farshore.vsphere.properties import MACHINE, PLACES, Fields, Reader, changed, is_machine, kind_of

_MOST_UNREAD = 64
_NOT_AS_EXPECTED = (AttributeError, LookupError, TypeError, ValueError)


@dataclass
class Changes:
    """Ids of new or changed objects, and of deleted ones."""

    machines: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.machines or self.places or self.gone)


class Inventory:
    """Machines and places by their ids. Belongs to one thread."""

    def __init__(self) -> None:
        self.machines: dict[str, VmwareMachine] = {}
        self.places: dict[str, VmwarePlace] = {}

    def apply(self, update: Any) -> Changes:
        """Apply an UpdateSet of the SDK. Raises Refused beyond ``MOST_KNOWN``."""
        changes = Changes()
        for portion in update.filterSet or []:
            for one in portion.objectSet or []:
                self._take(one, changes)
        return changes

    def _take(self, update: Any, changes: Changes) -> None:
        known = str(clean_line(str(update.obj._moId)))  # as its row has it
        if update.kind == "leave":
            self._forget(known, changes)
            return
        if is_machine(update.obj):
            self._take_machine(known, update)
            changes.machines.add(known)
        elif (kind := kind_of(update.obj)) is not None:
            fields, _ = _read(update, PLACES[kind][1])
            before = None if update.kind == "enter" else self.places.get(known)
            before = before or VmwarePlace(id=known, kind=kind)
            with contextlib.suppress(ValueError):  # a value that no field accepts: the old one remains
                before = VmwarePlace.model_validate({**dict(before), **fields})
            self.places[known] = before
            changes.places.add(known)
        if len(self.machines) + len(self.places) > MOST_KNOWN:
            raise Refused(
                f"The server has more than {MOST_KNOWN} machines, hosts, datastores, networks and folders.",
                remedy="Give the account its role on only a part of them.",
            )
        changes.gone.discard(known)

    def _take_machine(self, known: str, update: Any) -> None:
        before = self.machines.get(known) if update.kind != "enter" else None
        before = before or VmwareMachine(id=known)
        fields, unread = _read(update, MACHINE)
        told = {change.name for change in update.changeSet or []}
        fields["unread"] = sorted((set(before.unread) - told) | unread)[:_MOST_UNREAD]
        try:
            self.machines[known] = changed(before, fields)
        except ValueError:  # a value that no field accepts
            self.machines[known] = changed(before, {"unread": sorted({*fields["unread"], *told})[:_MOST_UNREAD]})

    def _forget(self, known: str, changes: Changes) -> None:
        self.machines.pop(known, None)
        self.places.pop(known, None)
        changes.machines.discard(known)
        changes.places.discard(known)
        changes.gone.add(known)


def _read(update: Any, readers: Mapping[str, Reader]) -> tuple[Fields, set[str]]:
    """Return the fields in an update, and the properties that cannot be read."""
    fields: Fields = {}
    unread = {str(one.path) for one in update.missingSet or []}
    for change in update.changeSet or []:
        reader = readers.get(change.name)
        if reader is None:
            continue
        try:
            fields.update(reader(change.val if change.op in ("assign", "add") else None))
        except _NOT_AS_EXPECTED:
            unread.add(change.name)
    return fields, unread
