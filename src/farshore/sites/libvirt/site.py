"""Run recovered machines as domains of a libvirtd on this host.

libvirtd decides what exists: a machine is the domain whose UUID is the failover's id and that carries our mark. The
site's own folder for the machine holds what libvirt cannot store: the order, the console, UEFI variables, and ``run``,
a record of how the last run ended. libvirtd knows whether a guest shut itself down or died, but forgets this at the
next start, so each status call notes it. The record has a fixed length and is written in place, so it needs no free
space.

One lock for each machine serializes changes made here. libvirtd itself guarantees that no domain runs twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from farshore.model.errors import Damaged, NotFound, Refused, TryLater, Unreachable
from farshore.model.machine import Firmware
from farshore.model.target import NetworkKind
from farshore.sites.bubble.client import BubbleAddress
from farshore.sites.folder import alone, explained, home_of, remove_home, replace
from farshore.sites.half_written import check_whole
from farshore.sites.libvirt.domain import MARK, Surroundings, check_order, document
from farshore.sites.libvirt.settings import LibvirtSettings
from farshore.sites.libvirt.virsh import Failed, Virsh
from farshore.sites.orders import kept_order, not_created, write_order
from farshore.sites.picture import MOST_BYTES, picture_of
from farshore.sites.port import (
    Capacity,
    Condition,
    DeliveryWish,
    FailoverId,
    RecoveredMachine,
    RecoveryOrder,
    ServedDisk,
    UnixAddress,
    Way,
    WrittenDisk,
)
from farshore.sites.qemu.accelerator import FIRMWARE, choose_accelerator
from farshore.sites.uefi_variables import with_boot_entries

_ADDRESS = "127.0.0.1"
_LOCK_SECONDS = 180.0
_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 2.0
_RUNNING, _SHUT_DOWN, _STOPPED = b"running  \n", b"shut-down\n", b"stopped  \n"
"""Possible contents of ``run``: all have the same length, so one is written over the other in place."""
CONSOLE_BYTES = 16 << 20
_CONSOLE_STEP = 1 << 20
_BUBBLES = ".networks"
_PORT_RULE = re.compile(r"host forwarding rule 'tcp:[\d.]*:(\d+)-")


class LibvirtSite:
    """The site below ``folder``."""

    def __init__(self, folder: Path, settings: LibvirtSettings | None = None, *, name: str = "libvirt") -> None:
        self.name = name
        self._settings = settings or LibvirtSettings()
        self.delivery = DeliveryWish(Way(self._settings.disks))
        self._folder = folder
        self._virsh = Virsh(self._settings.uri)
        self._networks: frozenset[str] | None = None

    def check(self, order: RecoveryOrder) -> None:
        with explained(self._folder):
            check_order(order, self._around(order.failover))
        for number, network in order.networks.items():
            there = Path(f"/sys/class/net/{network.name}/bridge").exists()
            if network.kind is NetworkKind.NETWORK:
                there = network.name in self._known_networks()
            if not there:
                raise Refused(
                    f"Card {number + 1} of {order.name} is to be on {network.kind.value} {network.name}, "
                    "which does not exist or is not up.",
                    remedy="Start it at the site, or choose another: farshore machine target set MACHINE --network",
                )

    def examine(self) -> dict[str, str]:
        """See Examined."""
        around = self._around(FailoverId("nobody"))
        return {
            "libvirt": " ".join(self._virsh.told("version", "--daemon").split()),
            "accelerator": around.accelerator,
            "UEFI firmware": str(around.firmware or "not installed: machines with UEFI do not start (package ovmf)"),
            "networks": ", ".join(sorted(self._known_networks())) or "none is up",
        }

    def capacity(self) -> Capacity:
        """See Measured."""
        node = self._virsh.table("nodeinfo")
        use = self._virsh.table("nodememstats")
        free = sum(_kibibytes(use.get(name, "0 KiB")) for name in ("free", "buffers", "cached"))
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            disk = shutil.disk_usage(self._folder).free
        return Capacity(
            processors=int(node["CPU(s)"]), memory=_kibibytes(node["Memory size"]), memory_free=free, disk_free=disk
        )

    def create(self, order: RecoveryOrder) -> None:
        failover = order.failover
        around = self._around(failover)
        check_order(order, around)
        with explained(self._home(failover)), self._alone(failover, make=True):
            same = self._is_ordered(order)
            live = self._state(failover)[0] in (Condition.RUNNING, Condition.PAUSED)
            if live and not same:
                raise Refused(
                    f"{order.name} runs already as failover {failover}, from another order or a deleted one.",
                    remedy="Stop it first.",
                )
            new: dict[Path, bytes] = {}
            uefi = order.machine.firmware is not Firmware.BIOS
            if uefi and around.firmware is not None and not (same and around.variables.exists()):
                template = around.firmware.with_name(around.firmware.name.replace("_CODE", "_VARS"))
                entries = [bytes.fromhex(entry) for entry in order.machine.boot_entries]
                new[around.variables] = with_boot_entries(template.read_bytes(), entries)
            if not same:
                new[self._home(failover) / "order.json"] = write_order(order)
                new[self._run(failover)] = _STOPPED
            if new:
                replace(new, remove=self._home(failover) / "left-over")
            if not live:
                self._define(order, around)

    def _define(self, order: RecoveryOrder, around: Surroundings) -> None:
        name = self._name(order)
        with contextlib.suppress(Failed):
            # libvirt gives no defined domain another name.
            if self._virsh.ask("domname", order.failover) != name:
                self._virsh.ask("undefine", order.failover, "--keep-nvram")
        self._virsh.told("define", "/dev/stdin", "--validate", given=document(order, name, around))

    def start(self, failover: FailoverId) -> RecoveredMachine:
        with explained(self._home(failover)):
            if not self._is_defined(failover):
                raise not_created(failover)
            with self._alone(failover, make=True):
                if self._state(failover)[0] not in (Condition.RUNNING, Condition.PAUSED):
                    self._see_to_its_disks(failover)
                    # Noted before the start: the end of the earlier run must not be taken for the end of this one.
                    replace({self._run(failover): _RUNNING}, remove=self._home(failover) / "left-over")
                    bubble = self._plug_in(failover)
                    try:
                        self._launch(failover)
                    except BaseException:
                        if bubble is not None:
                            bubble.leave(failover)
                        raise
        return self.status(failover)

    def _plug_in(self, failover: FailoverId) -> BubbleAddress | None:
        """Make the machine a member of its test network, if it has one. Raises Refused, TryLater."""
        bubble = self._bubble(failover)
        if bubble is None:
            return None
        order, around = self.order(failover), self._around(failover)
        cards = [nic for number, nic in enumerate(order.machine.nics) if number not in order.networks]
        sockets = [around.cable(number) for number in range(len(order.machine.nics)) if number not in order.networks]
        if not cards:
            return None
        try:
            bubble.join_at(failover, cards, order.forward, sockets)
        except OSError as error:
            raise TryLater(
                f"The test network {order.bubble} does not answer: {error}.", remedy="Repeat the command."
            ) from error
        return bubble

    def _launch(self, failover: FailoverId) -> None:
        try:
            self._virsh.ask("start", failover)
        except Failed as error:
            if self._state(failover)[0] in (Condition.RUNNING, Condition.PAUSED):
                return  # by another call, which had the folder's lock while somebody deleted the folder
            taken = _PORT_RULE.search(error.said)
            if taken is not None:
                raise TryLater(
                    f"Port {taken[1]} of this host cannot be forwarded to the machine: another program uses it.",
                    remedy=f"Stop that program (ss -ltnp sport = :{taken[1]} shows it) or fail over with another port.",
                ) from error
            raise TryLater(
                f"libvirt did not start the machine: {error.said}",
                remedy="Remove the cause that the message names, then repeat.",
            ) from error

    def status(self, failover: FailoverId) -> RecoveredMachine:
        with explained(self._home(failover)):
            condition, detail = self._state(failover)
        live = condition in (Condition.RUNNING, Condition.PAUSED)
        return RecoveredMachine(failover, condition, _ADDRESS if live else "", detail)

    def _state(self, failover: FailoverId) -> tuple[Condition, str]:
        """Return the machine's state from libvirtd and the record; note in the record what libvirtd may forget."""
        with contextlib.ExitStack() as held:
            record: int | None = None
            with contextlib.suppress(FileNotFoundError):
                # Opened before libvirtd is asked: a start replaces the file, so a note never describes the next run.
                record = os.open(self._run(failover), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                held.callback(os.close, record)
            try:
                said = self._virsh.ask("domstate", "--reason", failover)
            except Failed:
                if self._is_defined(failover):
                    raise TryLater(
                        "libvirt does not report the machine's state.", remedy="Repeat the command."
                    ) from None
                return Condition.ABSENT, ""
            state, _, reason = said.partition(" (")
            reason = reason.rstrip(")")
            if state in ("running", "idle", "in shutdown"):
                return Condition.RUNNING, ""
            if state in ("paused", "pmsuspended"):
                return Condition.PAUSED, reason or state
            noted = os.pread(record, len(_RUNNING), 0) if record is not None else b""
            if noted == _STOPPED:
                return Condition.STOPPED, ""
            if noted != _SHUT_DOWN and (state, reason) != ("shut off", "shutdown"):
                return Condition.STOPPED, ""
            if record is not None and noted != _SHUT_DOWN:
                os.pwrite(record, _SHUT_DOWN, 0)
            return Condition.SHUT_DOWN, ""

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        with explained(self._home(failover)):
            if not self._is_defined(failover):
                return
            with self._alone(failover, make=True):
                self._end(failover, grace)
                replace({self._run(failover): _STOPPED}, remove=self._home(failover) / "left-over")

    def _end(self, failover: FailoverId, grace: float) -> None:
        """End the machine's run, if there is one. Raises TryLater."""
        give_up = time.monotonic() + grace
        live = (Condition.RUNNING, Condition.PAUSED)
        if grace > 0 and self._state(failover)[0] is Condition.RUNNING:
            with contextlib.suppress(Failed):
                self._virsh.ask("shutdown", failover, "--mode", "acpi")
                while time.monotonic() < give_up and self._state(failover)[0] is Condition.RUNNING:
                    time.sleep(_POLL_SECONDS)
        if self._state(failover)[0] in live:
            try:
                self._virsh.ask("destroy", failover, "--graceful")
            except Failed as error:
                with contextlib.suppress(Failed):
                    self._virsh.ask("destroy", failover)
                if self._state(failover)[0] in live:
                    raise TryLater(
                        f"libvirt did not end the machine: {error.said}",
                        remedy="Check what the machine waits for, for example its disks.",
                    ) from error

    def destroy(self, failover: FailoverId) -> None:
        home = self._home(failover)
        with explained(home):
            if home.exists() or self._is_defined(failover):
                bubble = self._bubble(failover)
                # Without its lock if there is no space for one: nothing else can begin there either.
                with self._alone(failover, make=False):
                    self._end(failover, 0)
                    with contextlib.suppress(Failed):
                        self._virsh.ask("undefine", failover, "--keep-nvram")
                    if self._is_defined(failover):
                        raise TryLater("libvirt did not undefine the machine.", remedy="See: virsh undefine")
                    if bubble is not None:
                        bubble.leave(failover)
                        bubble.tidy()
                    remove_home(home)

    def present(self) -> tuple[FailoverId, ...]:
        folder = self._folder.absolute()
        with explained(folder):
            there = [path.name for path in folder.iterdir() if path.is_dir()] if folder.exists() else []
        found = set(there) - {_BUBBLES}
        for domain in self._domains() - found:
            with contextlib.suppress(Failed):  # a domain of somebody else has no mark
                self._virsh.ask("metadata", domain, MARK)
                found.add(domain)
        return tuple(FailoverId(name) for name in sorted(found))

    def resume(self, failover: FailoverId) -> None:
        """Resume a machine that was paused because a disk did not answer; wake one that suspended itself."""
        suspended = self._virsh.told("domstate", failover) == "pmsuspended"
        self._virsh.told("dompmwakeup" if suspended else "resume", failover)

    def answers(self, failover: FailoverId, port: int) -> bool:
        """Return whether the guest accepts connections. QEMU accepts every connection itself before it knows."""
        bubble = self._bubble(failover)
        if bubble is not None:
            return bubble.answers(failover, self.order(failover).forward.get(port, 0))
        sign = re.compile(rf"^\s*TCP\[ESTABLISHED\]\s+\d+\s+\S+\s+{port}\s", re.MULTILINE)
        with contextlib.suppress(OSError), socket.create_connection((_ADDRESS, port), timeout=_ANSWER_SECONDS):
            end = time.monotonic() + _ANSWER_SECONDS
            while time.monotonic() < end:
                with contextlib.suppress(Failed):
                    if sign.search(self._virsh.ask("qemu-monitor-command", failover, "--hmp", "info usernet")):
                        return True
        return False

    def hardware_id(self, failover: FailoverId) -> str:
        """Return the failover's id: it is the domain's UUID, which its firmware shows."""
        return failover.lower()

    def console(self, failover: FailoverId) -> Path:
        """Return the file with the output of the first serial port."""
        return self._home(failover) / "console.log"

    def screen(self, failover: FailoverId) -> bytes:
        """See HasScreen."""
        if self._state(failover)[0] not in (Condition.RUNNING, Condition.PAUSED):
            raise NotFound("The machine is not running, so it has no screen.", remedy="Start it first.")
        with tempfile.TemporaryDirectory(prefix="farshore-") as folder:
            path = Path(folder) / "screen"
            try:
                self._virsh.ask("screenshot", failover, str(path))
                with path.open("rb") as file:
                    return picture_of(file.read(MOST_BYTES))
            except (Failed, OSError, ValueError) as error:
                said = error.said if isinstance(error, Failed) else str(error)
                raise Unreachable(
                    f"libvirt returned no picture of the screen: {said}.", remedy="Use the machine's console instead."
                ) from error

    def trim_console(self, failover: FailoverId) -> None:
        """Keep the newest half if the console is longer than CONSOLE_BYTES. Everything is dropped if the file system
        cannot remove a part. QEMU appends, so it continues after what is kept."""
        path = self.console(failover)
        with explained(path.parent):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                return
            if size > CONSOLE_BYTES:
                drop = (size - CONSOLE_BYTES // 2) // _CONSOLE_STEP * _CONSOLE_STEP
                command = ["fallocate", "--collapse-range", "--offset", "0", "--length", str(drop), str(path)]
                if subprocess.run(command, capture_output=True, check=False).returncode:
                    os.truncate(path, 0)

    def order(self, failover: FailoverId) -> RecoveryOrder:
        """Return the machine's order. Raises NotFound, Damaged."""
        return kept_order(self._home(failover) / "order.json", failover)

    def _bubble(self, failover: FailoverId) -> BubbleAddress | None:
        """Return the test network of a machine; None if it is on none."""
        try:
            name = self.order(failover).bubble
        except (NotFound, Damaged):
            return None
        return BubbleAddress(self._folder.absolute() / _BUBBLES, name) if name else None

    def _is_ordered(self, order: RecoveryOrder) -> bool:
        try:
            return self.order(order.failover) == order
        except (NotFound, Damaged):
            return False

    def _name(self, order: RecoveryOrder) -> str:
        """Return the order's name. If another domain has that name, append a part of the failover's id."""
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", order.name)[:63] or "machine"
        with contextlib.suppress(Failed):
            if self._virsh.ask("domuuid", plain) != order.failover:
                return f"{plain[:54]}-{order.failover[:8]}"
        return plain

    def _see_to_its_disks(self, failover: FailoverId) -> None:
        """Raise NotFound or TryLater if a disk of the machine is missing: libvirt's own message names no remedy."""
        try:
            order = self.order(failover)
        except NotFound:
            return  # somebody deleted the folder; libvirtd still has the machine
        for disk in order.disks:
            medium = disk.medium
            if isinstance(medium, WrittenDisk) and not medium.path.exists():
                raise NotFound(f"The disk {medium.path} of {order.name} is gone.", remedy="Fail over again.")
            if isinstance(medium, WrittenDisk):
                check_whole(medium.path)
            address = medium.address if isinstance(medium, ServedDisk) else None
            if isinstance(address, UnixAddress) and not address.path.exists():
                raise TryLater(
                    f"Nothing exports the disks of {order.name}: {address.path} is missing.",
                    remedy="Start the export, then the machine.",
                )

    def _domains(self) -> set[str]:
        return set(self._virsh.told("list", "--all", "--uuid").split())

    def _is_defined(self, failover: FailoverId) -> bool:
        return failover in self._domains()

    def _known_networks(self) -> frozenset[str]:
        """Return the names of the networks that are up. Asked once: a site is opened anew for each round."""
        if self._networks is None:
            self._networks = frozenset(self._virsh.told("net-list", "--name").split())
        return self._networks

    def _around(self, failover: FailoverId) -> Surroundings:
        accelerator = self._settings.accelerator
        if accelerator == "auto":
            accelerator = "kvm" if choose_accelerator(self._folder) == "kvm" else "tcg"
        return Surroundings(
            accelerator=accelerator,
            processors=os.cpu_count() or 1,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            firmware=next((path for path in FIRMWARE if path.exists()), None),
            console=self.console(failover),
            variables=self._home(failover) / "uefi-variables.fd",
            cables=self._home(failover),
        )

    def _home(self, failover: FailoverId) -> Path:
        return home_of(self._folder, failover)

    def _run(self, failover: FailoverId) -> Path:
        return self._home(failover) / "run"

    def _alone(self, failover: FailoverId, *, make: bool) -> contextlib.AbstractContextManager[None]:
        """Hold the machine's lock. With ``make``, create a missing folder. Raises TryLater, OSError."""
        return alone(self._home(failover), failover, make=make, seconds=_LOCK_SECONDS)


def _kibibytes(text: str) -> int:
    """Convert ``16384 KiB`` to bytes."""
    return int(text.split()[0]) << 10
