"""Recovered machines in a resource group of Azure.

What exists is Azure's to say: names follow from the failover's id, tags from its order. The site's own folder holds the
order, the console as it was last fetched, and what takes a long operation up again; one lock a machine serializes what
this host does to it. That no machine runs twice is Azure's promise: a name is one machine.

A machine that its guest shut down is "stopped" there; one that we stop, or that Azure takes away, is deallocated.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from azure.core.exceptions import HttpResponseError

from farshore.model.errors import Damaged, NotFound, Refused, TryLater
from farshore.model.machine import Firmware
from farshore.sites.azure import documents
from farshore.sites.azure.answers import explained_by_azure, is_absent, persistently, plain
from farshore.sites.azure.boot_diagnostics import Diagnostics
from farshore.sites.azure.clients import clients
from farshore.sites.azure.examining import examine
from farshore.sites.azure.inspecting import inspect
from farshore.sites.azure.long_operations import carried_out
from farshore.sites.azure.mending import bicep
from farshore.sites.azure.names import FAILOVER, ORDER, digest_of, disk_name, machine_name, server_name
from farshore.sites.azure.parts import Parts
from farshore.sites.azure.process_server import TemporaryServers
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.sizes import Size, choose, sizes_in
from farshore.sites.azure.uploads import Uploads
from farshore.sites.folder import alone, explained, home_of, replace
from farshore.sites.orders import kept_order, write_order
from farshore.sites.port import (
    Condition,
    DeliveryWish,
    FailoverId,
    Finding,
    Hardware,
    NewDisk,
    Reception,
    RecoveredMachine,
    RecoveryOrder,
    ServerOrder,
    ServerSoftware,
    UploadedDisk,
    Way,
)

_ANSWER_SECONDS = 3.0
_UNDER_WAY = frozenset({"Creating", "Updating", "Deleting", "Migrating"})
_LOCK_SECONDS = 180.0
_SETTLE_SECONDS = 1800.0
_POWER = {
    "running": Condition.RUNNING,
    "starting": Condition.RUNNING,
    "creating": Condition.RUNNING,
    "stopping": Condition.RUNNING,
    "stopped": Condition.SHUT_DOWN,
    "deallocating": Condition.STOPPED,
    "deallocated": Condition.STOPPED,
}


class AzureSite:
    """The site of ``settings``, which keeps its files below ``folder``. ``secret``: of its service principal."""

    delivery = DeliveryWish(Way.UPLOADED)
    hardware = Hardware(disks=("hv_vmbus", "hv_storvsc", "sd_mod"), cards="hv_netvsc")

    def __init__(self, folder: Path, settings: AzureSettings, *, secret: bytes = b"", name: str = "azure") -> None:
        self.name = name
        self._folder, self._settings, self._group = folder, settings, settings.resource_group
        self._clients = clients(settings, secret)
        self._machines = self._clients.compute.virtual_machines
        self._parts = Parts(self._clients, settings)
        self._uploads = Uploads(self._clients, settings)
        self._diagnostics = Diagnostics(self._machines, self._group)
        self._servers = TemporaryServers(self._clients, settings, self._parts, self._settle)

    def check(self, order: RecoveryOrder) -> None:
        if not order.disks:
            raise Refused(f"{order.name} has no disk to start from.", remedy="Choose a point with its disks.")
        for disk in order.disks:
            if not isinstance(disk.medium, UploadedDisk):
                raise Refused(f"Disk {disk.number} of {order.name} was not uploaded.", remedy="Fail over again.")
            if disk.logical_block_size != 512:
                raise Refused(
                    f"Disk {disk.number} of {order.name} has sectors of {disk.logical_block_size} bytes.",
                    remedy="Azure's uploaded disks have 512: choose another site.",
                )
        with explained_by_azure():
            self._size(order)
            self._parts.check(order)

    def _size(self, order: RecoveryOrder) -> Size:
        premium = self._settings.sku.startswith("Premium")
        return choose(self._sizes, order, self._settings.size, premium=premium)

    @functools.cached_property
    def _sizes(self) -> list[Size]:
        skus = self._clients.compute.resource_skus.list(filter=f"location eq '{self._settings.region}'")
        return sizes_in(skus, self._settings.region, self._settings.zone)

    def examine(self) -> Mapping[str, str]:
        """See Examined."""
        with explained_by_azure():
            return examine(self._clients, self._settings, len(self._sizes))

    def inspect(self) -> Sequence[Finding]:
        """See Inspected."""
        return list(inspect(self._clients, self._settings, lambda: self._sizes))

    def template(self) -> str:
        """See Inspected: Bicep."""
        return bicep(self._settings)

    def create(self, order: RecoveryOrder) -> None:
        failover = order.failover
        with self._alone(failover, make=True):
            same, digest = self._is_ordered(order), digest_of(order)
            found = self._settled(failover)
            ours = found is not None and (found.tags or {}).get(ORDER) == digest
            if found is not None and not ours and self._condition(found)[0] is Condition.RUNNING:
                raise Refused(f"{order.name} runs already as failover {failover}.", remedy="Stop it first.")
            if not same:
                files = {self._order_file(failover): write_order(order)}
                replace(files, remove=self._home(failover) / "left-over")
            if found is not None and not ours:
                self._delete(failover)
            if not ours:
                self._parts.remove(failover, but=digest)
                self._parts.ensure(order)

    def start(self, failover: FailoverId) -> RecoveredMachine:
        order = self.order(failover)
        with self._alone(failover, make=True):
            found = self._settled(failover)
            condition = self._condition(found)[0] if found is not None else Condition.ABSENT
            if condition is not Condition.RUNNING:
                self._see_to_its_disks(order)
                self._bring_up(order, found)
        return self.status(failover)

    def _bring_up(self, order: RecoveryOrder, found: Any) -> None:
        name, note = machine_name(order.failover), self._home(order.failover) / "operation.json"
        if found is None or plain(found.properties.provisioning_state) == "Failed":
            cards = self._parts.ensure(order)
            body = documents.machine(self._settings, order, self._size(order), cards, self._availability_set())
            begin = functools.partial(self._machines.begin_create_or_update, self._group, name, body)
            persistently(lambda: carried_out(note, f"create {digest_of(order)}", begin), self._settings.poll_seconds)
        else:
            begin = functools.partial(self._machines.begin_start, self._group, name)
            persistently(lambda: carried_out(note, "start", begin), self._settings.poll_seconds)

    def _availability_set(self) -> str:
        chosen = self._settings.availability_set
        base = f"/subscriptions/{self._settings.subscription}/resourceGroups/{self._group}"
        return f"{base}/providers/Microsoft.Compute/availabilitySets/{chosen}" if chosen else ""

    def _see_to_its_disks(self, order: RecoveryOrder) -> None:
        """Raise NotFound where one that it starts from is not there."""
        for disk in order.disks:
            found = self._uploads.find(order.failover, disk.number)
            if found is None and isinstance(disk.medium, UploadedDisk):
                raise NotFound(f"The disk {disk.medium.id} of {order.name} is gone.", remedy="Fail over again.")

    def status(self, failover: FailoverId) -> RecoveredMachine:
        with explained(self._home(failover)), explained_by_azure():
            found = self._find(failover)
            if found is None:
                there = self._order_file(failover).exists()
                return RecoveredMachine(failover, Condition.STOPPED if there else Condition.ABSENT)
            condition, detail = self._condition(found)
            address = self._parts.address(failover) if condition is Condition.RUNNING else ""
        return RecoveredMachine(failover, condition, address, detail)

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        with explained(self._home(failover)), explained_by_azure():
            if self._find(failover) is None:
                return
        with self._alone(failover, make=True):
            found = self._settled(failover)
            if found is None or self._condition(found)[0] is Condition.STOPPED:
                return
            name = machine_name(failover)
            if grace <= 0 and self._condition(found)[0] is Condition.RUNNING:
                self._finish(lambda: self._machines.begin_power_off(self._group, name, skip_shutdown=True))
            self._finish(lambda: self._machines.begin_deallocate(self._group, name))

    def destroy(self, failover: FailoverId) -> None:
        home = self._home(failover)
        # Without its lock where there is no room for one: nothing else can be begun there either.
        with self._alone(failover, make=False):
            self._servers.dismiss(failover)
            self._delete(failover)
            self._parts.remove(failover)
            while home.exists():
                with contextlib.suppress(FileNotFoundError):  # another call removes it, too
                    shutil.rmtree(home)

    def _delete(self, failover: FailoverId) -> None:
        if self._settled(failover) is not None:
            self._finish(lambda: self._machines.begin_delete(self._group, machine_name(failover)))

    def present(self) -> tuple[FailoverId, ...]:
        folder = self._folder.absolute()
        with explained(folder), explained_by_azure():
            found = {path.name for path in folder.iterdir() if path.is_dir()} if folder.exists() else set()
            for one in self._machines.list(self._group):
                if FAILOVER in (one.tags or {}):
                    found.add(str(one.tags[FAILOVER]))
            found |= self._parts.present() | self._servers.present()
        return tuple(FailoverId(name) for name in sorted(found))

    def answers(self, failover: FailoverId, port: int) -> bool:
        """Whether the guest accepts a connection, at its own address, at what ``port`` stands for."""
        guest = self.order(failover).forward.get(port, 0)
        address = self.status(failover).address
        with contextlib.suppress(OSError), socket.create_connection((address, guest), timeout=_ANSWER_SECONDS):
            return bool(address)
        return False

    def hardware_id(self, failover: FailoverId) -> str:
        """Azure's id of the machine as its firmware shows it: that of the first generation as the bytes stand."""
        with explained_by_azure():
            found = self._find(failover)
        if found is None:
            raise NotFound(f"There is no recovered machine {failover} here.", remedy="Start it first.")
        text = str(found.properties.vm_id).lower()
        if self.order(failover).machine.firmware is not Firmware.BIOS:
            return text
        first, second, third, *rest = text.split("-")
        return "-".join([*(bytes.fromhex(one)[::-1].hex() for one in (first, second, third)), *rest])

    def console(self, failover: FailoverId) -> Path:
        """What boot diagnostics have of its serial port, as it was last fetched."""
        return self._home(failover) / "console.log"

    def trim_console(self, failover: FailoverId) -> None:
        """Fetch it: Azure keeps the newest part by itself."""
        with explained(self._home(failover)), explained_by_azure():
            if self._order_file(failover).exists() and self._find(failover) is not None:
                self._diagnostics.fetch_console(machine_name(failover), self.console(failover))

    def screen(self, failover: FailoverId) -> bytes:
        """See HasScreen."""
        if self.status(failover).condition is not Condition.RUNNING:
            raise NotFound("The machine does not run: it shows nothing.", remedy="Start it first.")
        with explained_by_azure():
            return self._diagnostics.screen(machine_name(failover))

    # --- Ingesting

    def receive(self, disk: NewDisk) -> Reception:
        with explained_by_azure():
            return self._uploads.receive(disk)

    def grant(self, failover: FailoverId, number: int) -> str:
        with explained_by_azure():
            return self._uploads.grant(failover, number)

    def accept(self, failover: FailoverId, number: int) -> None:
        with explained_by_azure():
            self._uploads.accept(failover, number)

    def uploaded(self, failover: FailoverId, number: int) -> UploadedDisk:
        base = f"/subscriptions/{self._settings.subscription}/resourceGroups/{self._group}"
        return UploadedDisk(f"{base}/providers/Microsoft.Compute/disks/{disk_name(failover, number)}")

    def has_disk(self, failover: FailoverId, number: int) -> bool:
        with explained_by_azure():
            return self._uploads.is_accepted(failover, number)

    def discard(self, failover: FailoverId) -> None:
        with explained_by_azure():
            self._uploads.discard(failover)

    # --- Hosting

    @property
    def software(self) -> ServerSoftware | None:
        """See Hosting."""
        return self._servers.software

    def room(self, failover: FailoverId) -> str:
        """See Hosting."""
        order = self.order(failover)
        with self._alone(failover, make=True):
            return self._servers.room(order)

    def revive(self, failover: FailoverId) -> str:
        """See Hosting."""
        with self._alone(failover, make=True):
            return self._servers.revive(failover, self._server_note(failover))

    def launch(self, order: ServerOrder) -> None:
        """See Hosting."""
        with self._alone(order.failover, make=True):
            self._servers.launch(order, self._sizes, self._server_note(order.failover))

    def dismiss(self, failover: FailoverId) -> None:
        """See Hosting."""
        with self._alone(failover, make=False):
            self._servers.dismiss(failover)
            self._server_note(failover).unlink(missing_ok=True)

    def server_console(self, failover: FailoverId) -> str:
        """See Hosting."""
        path = self._home(failover) / "server-console.log"
        with explained(self._home(failover)), explained_by_azure():
            if self._find_named(server_name(failover)) is None:
                return ""
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._diagnostics.fetch_console(server_name(failover), path)
            return path.read_text(errors="replace") if path.exists() else ""

    def _server_note(self, failover: FailoverId) -> Path:
        return self._home(failover) / "server-operation.json"

    # ---

    def order(self, failover: FailoverId) -> RecoveryOrder:
        """Return the machine's order. Raises NotFound, Damaged."""
        return kept_order(self._order_file(failover), failover)

    def _is_ordered(self, order: RecoveryOrder) -> bool:
        try:
            return self.order(order.failover) == order
        except (NotFound, Damaged):
            return False

    def _find(self, failover: FailoverId) -> Any:
        """The recovered machine as Azure has it, with its instance view; None if there is none."""
        return self._find_named(machine_name(failover))

    def _find_named(self, name: str) -> Any:
        try:
            return self._machines.get(self._group, name, expand="instanceView")
        except HttpResponseError as error:
            if is_absent(error):
                return None
            raise

    def _settled(self, failover: FailoverId) -> Any:
        return self._settle(machine_name(failover))

    def _settle(self, name: str) -> Any:
        """A machine as Azure has it, once nothing is under way with it; None if there is none. Raises TryLater."""
        give_up = time.monotonic() + _SETTLE_SECONDS
        while True:
            found = self._find_named(name)
            if found is None or plain(found.properties.provisioning_state) not in _UNDER_WAY:
                return found
            if time.monotonic() > give_up:
                raise TryLater(f"Azure is still at work on {found.name}.", remedy="Repeat when that has ended.")
            time.sleep(self._settings.poll_seconds)

    def _condition(self, found: Any) -> tuple[Condition, str]:
        view = found.properties.instance_view
        codes = [str(one.code) for one in (view.statuses if view is not None else None) or ()]
        power = next((code.partition("/")[2] for code in codes if code.startswith("PowerState/")), "")
        if plain(found.properties.provisioning_state) == "Creating":
            return Condition.RUNNING, ""
        if power in _POWER:
            return _POWER[power], ""
        return Condition.STOPPED, ", ".join(codes)

    def _finish(self, begin: Callable[[], Any]) -> Any:
        return persistently(lambda: begin().result(), self._settings.poll_seconds)

    def _home(self, failover: FailoverId) -> Path:
        return home_of(self._folder, failover)

    def _order_file(self, failover: FailoverId) -> Path:
        return self._home(failover) / "order.json"

    @contextlib.contextmanager
    def _alone(self, failover: FailoverId, *, make: bool) -> Iterator[None]:
        home = self._home(failover)
        with explained(home), explained_by_azure(), alone(home, failover, make=make, seconds=_LOCK_SECONDS):
            yield
