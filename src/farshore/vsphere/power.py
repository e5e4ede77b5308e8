"""Switch a machine at a VMware server on and off, and mark it with the reason why it is kept off.

The mark is a line in the machine's notes, which every client shows. vCenter also shows it in a column, as the custom
attribute ``Farshore``. ESXi alone has no custom attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyVmomi import vim, vmodl

from farshore.model.errors import NotFound
from farshore.vsphere.faults import translated
from farshore.vsphere.session import Session
from farshore.vsphere.tasks import finished

POWER = ("VirtualMachine.Interact.PowerOff", "VirtualMachine.Config.Annotation")
"""Privileges to shut a machine down, to power it off and to mark it."""
FIELD = "Farshore"
"""The custom attribute. It needs Global.ManageCustomFields and Global.SetCustomField, and is omitted without them."""
_PREFIX = "[Farshore] "
_TASK_SECONDS = 300.0


@contextmanager
def machine_there(session: Session, machine: str) -> Iterator[Any]:
    """Yield the SDK's object of a machine; errors inside become ours. Raises NotFound if it no longer exists, and as
    ``translated``."""
    with translated(session.host):
        try:
            yield vim.VirtualMachine(machine, session.stub)
        except vmodl.fault.ManagedObjectNotFound as error:
            if str(getattr(error.obj, "_moId", "")) != machine:
                raise
            raise NotFound(
                f"The machine {machine} no longer exists at {session.host}.",
                remedy="See `farshore vmware machines`.",
            ) from error


def is_off(session: Session, machine: str) -> bool:
    """Return whether a machine is powered off now."""
    with machine_there(session, machine) as found:
        return str(found.runtime.powerState) == "poweredOff"


def shut_down_guest(session: Session, machine: str) -> str:
    """Ask the tools in a machine's guest to shut it down, without waiting. Return why they cannot be asked, or "" if
    they were asked or the machine is off."""
    with machine_there(session, machine) as found:
        try:
            found.ShutdownGuest()
        except vim.fault.InvalidPowerState:
            return ""
        except vim.fault.ToolsUnavailable:
            return "its VMware tools do not run"
    return ""


def power_off(session: Session, machine: str) -> None:
    """Power a machine off, whatever its guest does. Does nothing if it is off."""
    with machine_there(session, machine) as found:
        try:
            finished(session, found.PowerOffVM_Task(), _TASK_SECONDS)
        except Exception:
            if not is_off(session, machine):
                raise


def power_on(session: Session, machine: str) -> None:
    """Power a machine on. Does nothing if it is on."""
    with machine_there(session, machine) as found:
        try:
            finished(session, found.PowerOnVM_Task(), _TASK_SECONDS)
        except Exception:
            if is_off(session, machine):
                raise


def mark(session: Session, machine: str, text: str) -> None:
    """Put one visible line on a machine, in place of an earlier one; an empty text removes it."""
    with machine_there(session, machine) as found:
        notes = str(found.config.annotation or "")
        wanted = _marked(notes, text)
        if wanted != notes:
            finished(session, found.ReconfigVM_Task(vim.vm.ConfigSpec(annotation=wanted)), _TASK_SECONDS)
        _set_field(session, found, text)


def mark_of(session: Session, machine: str) -> str:
    """Return the line with which a machine is marked, or ""."""
    with machine_there(session, machine) as found:
        lines = str(found.config.annotation or "").splitlines()
    return next((line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX)), "")


def _marked(notes: str, text: str) -> str:
    others = [line for line in notes.splitlines() if not line.startswith(_PREFIX)]
    return "\n".join([*([f"{_PREFIX}{text}"] if text else []), *others])


def _set_field(session: Session, found: Any, text: str) -> None:
    """Set vCenter's column, if the account may; the notes have the text in any case."""
    fields = session.content.customFieldsManager
    if fields is None:
        return
    try:
        known = next((one.key for one in fields.field or [] if one.name == FIELD), None)
        if known is None:
            if not text:
                return
            known = fields.AddCustomFieldDef(FIELD, vim.VirtualMachine).key
        fields.SetField(found, known, text)
    except (vim.fault.NoPermission, vmodl.fault.NotSupported):
        return
