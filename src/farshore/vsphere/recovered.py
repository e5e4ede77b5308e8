"""Find the machines at a VMware server that belong to a failover; they are looked up there, never remembered.

A machine that was created for a failover has the failover's id as its instance UUID from the moment of its creation.
All machines of failovers have the id in their configuration under ``farshore.failover``, with the state of their last
run, because vSphere reports that a machine is off but not whether its guest wanted that.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from farshore.vsphere.faults import translated
from farshore.vsphere.power import machine_there
from farshore.vsphere.reading import read, read_all
from farshore.vsphere.session import Session
from farshore.vsphere.tasks import finished

LABEL, RUN, MADE = "farshore.failover", "farshore.run", "farshore.made"
RUNNING, STOPPED, SHUT_DOWN = "running", "stopped", "shut-down"
"""Possible values of ``RUN``: it was started; it was stopped or never started; its guest shut itself down."""
_SECONDS = 300.0
_PATHS = (
    "name",
    "config.uuid",
    "config.instanceUuid",
    "config.extraConfig",
    "config.template",
    "runtime.powerState",
    "runtime.connectionState",
    "guest.ipAddress",
    "snapshot",
)


@dataclass(frozen=True)
class Seen:
    """A machine as it is now. ``made``: it was created for the failover, which may destroy it; ``run`` as noted."""

    id: str
    name: str
    uuid: str
    instance_uuid: str
    power: str
    connected: bool
    address: str
    failover: str
    run: str
    made: bool
    snapshots: bool


def look_at(session: Session, machine: str) -> Seen:
    """Look a machine up by its id. Raises NotFound, and as ``translated``."""
    with machine_there(session, machine) as found:
        return _seen(found, read(session, found, _PATHS))


def of_failover(session: Session, failover: str, hardware: str = "") -> Seen | None:
    """Find the machine of a failover; None if there is none. ``hardware``: the UUID of its hardware, if a machine
    existed there before; that machine is tried before all others."""
    with translated(session.host):
        made = session.content.searchIndex.FindByUuid(None, failover.lower(), True, True)
    for seen in (look_at(session, made._moId) if made is not None else None, with_uuid(session, hardware)):
        if seen is not None and (seen.failover == failover or (seen.made and seen.instance_uuid == failover.lower())):
            return seen
    known = next((machine for machine, of in labels(session).items() if of == failover), None)
    return look_at(session, known) if known is not None else None


def with_uuid(session: Session, wanted: str) -> Seen | None:
    """Find a machine by the UUID that its guest reads; None if there is none."""
    for form in forms_of(wanted):
        with translated(session.host):
            found = session.content.searchIndex.FindByUuid(None, form, True, False)
        if found is not None:
            return look_at(session, found._moId)
    return None


def forms_of(text: str) -> tuple[str, ...]:
    """Return a UUID in its normal form and with the bytes of its first half reversed, as some guests read it; nothing
    for an invalid UUID."""
    try:
        known = uuid.UUID(text)
    except ValueError:
        return ()
    return tuple(dict.fromkeys((str(known), str(uuid.UUID(bytes=known.bytes_le)))))


def labels(session: Session) -> Mapping[str, str]:
    """Return the machines of failovers: the failover's id by the machine's. Reads the configuration of all machines."""
    with translated(session.host):
        view = session.content.viewManager.CreateContainerView(session.content.rootFolder, [vim.VirtualMachine], True)
        try:
            found = list(read_all(session, list(view.view), ["config.extraConfig"]))
        finally:
            view.Destroy()
    known = {str(one._moId): _options(values.get("config.extraConfig")).get(LABEL, "") for one, values in found}
    return {machine: failover for machine, failover in known.items() if failover}


def note(session: Session, machine: str, **options: str) -> None:
    """Store some of LABEL, RUN, MADE: ``label``, ``run``, ``made``; an empty value deletes one."""
    keys = {"label": LABEL, "run": RUN, "made": MADE}
    values = [vim.option.OptionValue(key=keys[name], value=value) for name, value in options.items()]
    with machine_there(session, machine) as found:
        finished(session, found.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=values)), _SECONDS)


def guest_ended_it(session: Session, machine: str) -> bool:
    """Return whether the newest power event of a machine says that its guest, or a user, shut it down. A machine whose
    host died leaves no such event."""
    kinds = ["VmGuestShutdownEvent", "VmPoweredOffEvent", "VmPoweredOnEvent"]
    events = vim.event
    with machine_there(session, machine) as found:
        by = events.EventFilterSpec.ByEntity(entity=found, recursion="self")
        asked = events.EventFilterSpec(entity=by, eventTypeId=kinds)
        told = session.content.eventManager.QueryEvents(asked) or []
    newest = max(told, key=lambda one: one.key, default=None)
    return newest is not None and not isinstance(newest, events.VmPoweredOnEvent)


def destroy(session: Session, machine: str) -> None:
    """Delete a machine that is off, with the disks that are attached to it. Raises NotFound."""
    with machine_there(session, machine) as found:
        finished(session, found.Destroy_Task(), _SECONDS)


def _seen(found: Any, values: Mapping[str, Any]) -> Seen:
    options = _options(values.get("config.extraConfig"))
    return Seen(
        id=str(found._moId),
        name=str(values.get("name", "")),
        uuid=str(values.get("config.uuid", "")).lower(),
        instance_uuid=str(values.get("config.instanceUuid", "")).lower(),
        power=str(values.get("runtime.powerState", "")),
        connected=str(values.get("runtime.connectionState", "")) == "connected",
        address=str(values.get("guest.ipAddress") or ""),
        failover=options.get(LABEL, ""),
        run=options.get(RUN, ""),
        made=bool(options.get(MADE)),
        snapshots=values.get("snapshot") is not None,
    )


def _options(found: Any) -> dict[str, str]:
    return {str(one.key): str(one.value) for one in found or []}
