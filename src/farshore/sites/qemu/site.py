"""Run recovered machines as QEMU processes of this host, with one folder each.

A machine is a detached process: it outlives the server that started it. Everything known about it is in its folder
(``RunFiles``) and in the process table, so any later server finds it again, even if somebody deleted the folder. A
process is identified as a machine's only if its command line names the machine's folder, because process ids are
reused. QEMU may be controlled by its guest, so it inherits what it needs and can write only to its log, the console and
the UEFI variables.

One lock for each machine (``RunFiles.lock``) serializes changes to it. QEMU inherits the lock, so a caller that holds
it knows that nobody starts the machine and that no QEMU of it lives.

The QEMU of a guest that shut itself down keeps running and reports this when it is asked. Like a zombie it waits until
its state is read: the reader notes it in the record of the run, then ends QEMU. A QEMU that is gone without such a note
has died.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from farshore.model.errors import Damaged, NotFound, Refused, TryLater, Unreachable
from farshore.sites.bubble.client import BubbleAddress
from farshore.sites.folder import explained, home_of, lock, remove_home, replace
from farshore.sites.orders import kept_order, not_created, write_order
from farshore.sites.picture import png_of
from farshore.sites.port import (
    Capacity,
    Condition,
    DeliveryWish,
    FailoverId,
    RecoveredMachine,
    RecoveryOrder,
    Way,
)
from farshore.sites.qemu.accelerator import FIRMWARE, QEMU, choose_accelerator
from farshore.sites.qemu.command import NOTHING_LENT, Host, RunFiles, has_variables, qemu_command
from farshore.sites.qemu.confinement import Lending, account
from farshore.sites.qemu.launching import has_ended, launch, start_failure
from farshore.sites.qemu.monitor import ask, screen
from farshore.sites.qemu.processes import (
    find_process,
    is_noted,
    note_shut_down,
    opened_record,
    processes,
    recorded_process,
    runs,
    send_signal,
)
from farshore.sites.uefi_variables import with_boot_entries
from farshore.sites.user_network import guest_address

_START_SECONDS = 120.0
_BUBBLES = ".networks"
_END_SECONDS = 20.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
_ADDRESS = "127.0.0.1"
CONSOLE_BYTES = 16 << 20
"""At least half of this is kept: a guest may write without end."""
LOG_BYTES = 1 << 20
"""Limit for QEMU's own error output: a guest can cause endless messages, for example by an invalid ring."""
_CONSOLE_STEP = 1 << 20
"""A multiple of any file system's block."""
_CONDITIONS = {
    **dict.fromkeys(("paused", "io-error", "prelaunch", "postmigrate", "suspended"), Condition.PAUSED),
    **dict.fromkeys(("internal-error", "guest-panicked"), Condition.STOPPED),  # QEMU exists but cannot continue
    "shutdown": Condition.SHUT_DOWN,
}
"""By QEMU's run state; all others mean that it runs."""
_LIVE = (Condition.RUNNING, Condition.PAUSED)
_FORWARDED = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s")
"""The host's port and the guest's, as ``info usernet`` prints a forwarded port."""


class QemuSite:
    """The site below ``folder``. If ``accelerator`` is None, it is found out by booting, once after each boot of the
    host. ``way`` is how the site requests disks, ``disks_at`` the address; it can run machines whose disks came in any
    way."""

    def __init__(
        self,
        folder: Path,
        accelerator: str | None = None,
        kernel: Path | None = None,
        *,
        name: str = "qemu",
        way: Way = Way.SERVED,
        disks_at: str = "",
    ) -> None:
        self.name = name
        self.delivery = DeliveryWish(way, address=disks_at)
        self._folder = folder
        self._accelerator = accelerator
        self._kernel = kernel

    def check(self, order: RecoveryOrder) -> None:
        _require_qemu()
        if not order.disks:
            raise Refused(f"{order.name} has no disk to start from.", remedy="Choose a point with its disks.")
        with explained(self._folder):
            qemu_command(order, self._files(order.failover), self._host(), NOTHING_LENT)

    def examine(self) -> dict[str, str]:
        """See Examined."""
        _require_qemu()
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            host = self._host()
            free = shutil.disk_usage(self._folder).free
        return {
            "accelerator": host.accelerator,
            "processors": str(host.processors),
            "memory": f"{host.memory >> 20} MiB",
            "UEFI firmware": str(host.firmware or "not installed: machines with UEFI do not start (package ovmf)"),
            "free space": f"{free >> 20} MiB",
        }

    def capacity(self) -> Capacity:
        """See Measured: the capacity of this host."""
        page = os.sysconf("SC_PAGE_SIZE")
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        return Capacity(
            processors=os.cpu_count() or 1,
            memory=page * os.sysconf("SC_PHYS_PAGES"),
            memory_free=_available_memory(),
            disk_free=free,
        )

    def create(self, order: RecoveryOrder) -> None:
        files = self._files(order.failover)
        with explained(files.folder), Lending() as held:
            host = self._host()
            qemu_command(order, files, host, NOTHING_LENT)
            live = self._take(order.failover, held, make=True)
            same = self._is_ordered(order)
            if live is not None:
                if same:
                    return
                raise Refused(
                    f"{order.name} runs already as failover {order.failover}, from another order or a deleted one.",
                    remedy="Stop it first.",
                )
            new: dict[Path, bytes] = {}
            if host.firmware is not None and has_variables(order) and not (same and files.variables.exists()):
                template = host.firmware.with_name(host.firmware.name.replace("_CODE", "_VARS"))
                entries = [bytes.fromhex(entry) for entry in order.machine.boot_entries]
                new[files.variables] = with_boot_entries(template.read_bytes(), entries)
            if not same:
                new[files.order] = write_order(order)
            if new:
                replace(new, remove=files.pid)  # the record also says how the earlier machine ended

    def start(self, failover: FailoverId) -> RecoveredMachine:
        files = self._files(failover)
        with explained(files.folder):
            if self.status(failover).condition is Condition.ABSENT:
                raise not_created(failover)
            with Lending() as lending:
                found = self._take(failover, lending)
                if found is not None:
                    return found
                process = launch(self.order(failover), files, self._host(), self._bubbles, lending)
            try:
                # The socket listens from the beginning; the answer comes once the machine is built.
                ask(files.monitor, "query-status", timeout=_START_SECONDS)
            except Unreachable as error:
                if has_ended(process):
                    raise start_failure(files) from error
                process.kill()
                process.wait()
                raise TryLater(
                    f"QEMU did not start within {_START_SECONDS:.0f} s.",
                    remedy="Check that the export of its disks runs.",
                ) from error
        # The waiting thread reaps the process; the machine outlives this process all the same.
        threading.Thread(target=process.wait, name=f"machine {failover}", daemon=True).start()
        return self.status(failover)

    def status(self, failover: FailoverId) -> RecoveredMachine:
        with explained(self._files(failover).folder):
            return self._look(failover)[0]

    def _look(self, failover: FailoverId) -> tuple[RecoveredMachine, int | None]:
        """Return the machine's state, and the process that runs it or remains of it."""
        files = self._files(failover)
        condition, detail = Condition.STOPPED, ""
        with opened_record(files.pid) as record:
            process = self._find(failover, record)
            # The note is read after the process was looked for: it is written before the process is let go.
            noted = is_noted(record)
            if process is not None and not noted:
                try:
                    told = ask(files.monitor, "query-status")
                    detail = str(told.get("status", "") if isinstance(told, dict) else told)[:100]
                    condition = _CONDITIONS.get(detail, Condition.RUNNING)
                except Unreachable as error:
                    # It exists; a monitor that is busy (QEMU reconnects to a disk) is no reason to call it dead.
                    condition, detail = Condition.RUNNING, error.message
                    if not runs(process, files.pid):
                        process, condition, detail = None, Condition.STOPPED, ""
                    noted = is_noted(record)  # by another look, which lets it go just now
                if condition is Condition.SHUT_DOWN:
                    noted = note_shut_down(record)
            if noted:
                condition, detail = Condition.SHUT_DOWN, ""
                if process is not None:
                    send_signal(process, files.pid, signal.SIGTERM)
        if not files.folder.exists():
            if process is None:
                return RecoveredMachine(failover, Condition.ABSENT), None
            detail = f"{files.folder} was deleted while it runs. Destroy it, then fail over again."
        elif process is None and not files.order.exists():
            detail = "The machine's order is missing. Create the machine again, or destroy it."
        elif detail in ("running", "shutdown"):
            detail = ""
        return RecoveredMachine(failover, condition, _ADDRESS if condition in _LIVE else "", detail), process

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        files = self._files(failover)
        with explained(files.folder), Lending() as held:
            self._end(failover, grace, held)
            files.pid.unlink(missing_ok=True)

    def destroy(self, failover: FailoverId) -> None:
        folder = self._files(failover).folder
        with explained(folder), Lending() as held:
            bubble = self._bubble(failover)
            self._end(failover, 0, held)
            if bubble is not None:
                bubble.tidy()
            remove_home(folder)

    def present(self) -> tuple[FailoverId, ...]:
        folder = self._folder.absolute()
        with explained(folder):
            found = (
                {path.name for path in folder.iterdir() if path.is_dir() and path.name != _BUBBLES}
                if folder.exists()
                else set()
            )
            for _, user, record in processes():
                name = record.parent.name
                if record == RunFiles(folder / name).pid and user in _users(FailoverId(name)):
                    found.add(name)
        return tuple(FailoverId(name) for name in sorted(found))

    def resume(self, failover: FailoverId) -> None:
        """Resume a machine that was paused because a disk did not answer; wake one that suspended itself. Raises
        Unreachable."""
        monitor = self._files(failover).monitor
        told = ask(monitor, "query-status")
        suspended = isinstance(told, dict) and told.get("status") == "suspended"
        ask(monitor, "system_wakeup" if suspended else "cont")

    def answers(self, failover: FailoverId, port: int) -> bool:
        """Return whether the guest accepts connections. QEMU accepts every connection itself before it knows."""
        files = self._files(failover)
        bubble = self._bubble(failover)
        if bubble is not None:
            return bubble.answers(failover, self.order(failover).forward.get(port, 0))
        sign = re.compile(rf"^\s*TCP\[ESTABLISHED\]\s+\d+\s+\S+\s+{port}\s", re.MULTILINE)
        try:
            with socket.create_connection((_ADDRESS, port), timeout=_ANSWER_SECONDS) as peer:
                peer.settimeout(_POLL_SECONDS)
                end = time.monotonic() + _ANSWER_SECONDS
                while time.monotonic() < end:
                    told = ask(files.monitor, "human-monitor-command", {"command-line": "info usernet"})
                    if sign.search(str(told)):
                        return True
                    if _hung_up(peer):
                        return False
        except (OSError, Unreachable):
            # No listener, or a monitor that is busy: it does not answer yet.
            return False
        return False

    def lead_in(self, failover: FailoverId, port: int) -> int:
        """See Leading: add a forwarded port to QEMU. Only QEMU knows this port."""
        if self.status(failover).condition is not Condition.RUNNING:
            return 0
        order, monitor = self.order(failover), self._files(failover).monitor
        if not order.machine.nics:
            return 0
        found = _led_in(monitor, port, known=order.forward)
        if not found:
            with socket.socket() as chosen:
                chosen.bind((_ADDRESS, 0))
                host = chosen.getsockname()[1]
            rule = f"hostfwd_add net0 tcp:{_ADDRESS}:{host}-{guest_address(order.machine.nics[0])}:{port}"
            ask(monitor, "human-monitor-command", {"command-line": rule})
            found = _led_in(monitor, port, known=order.forward)
        return found

    def hardware_id(self, failover: FailoverId) -> str:
        """The failover's id: the console is passed to QEMU as the machine's UUID."""
        return failover.lower()

    def console(self, failover: FailoverId) -> Path:
        """Return the file with the output of the first serial port."""
        return self._files(failover).console

    def screen(self, failover: FailoverId) -> bytes:
        """See HasScreen."""
        files = self._files(failover)
        if self.status(failover).condition not in _LIVE:
            raise NotFound("The machine is not running, so it has no screen.", remedy="Start it first.")
        try:
            return png_of(screen(files.monitor))
        except ValueError as error:
            raise Unreachable(
                f"QEMU returned no picture of the screen: {error}.", remedy="Use the machine's console instead."
            ) from error

    def trim_console(self, failover: FailoverId) -> None:
        """Keep the newest half if the console is longer than CONSOLE_BYTES. Everything is dropped if the file system
        cannot remove a part (fallocate(2), FALLOC_FL_COLLAPSE_RANGE). QEMU appends, so it continues after what is kept.
        Of QEMU's log the oldest half of LOG_BYTES is kept, which has the first error."""
        path = self._files(failover).console
        with explained(path.parent):
            log = self._files(failover).log
            with contextlib.suppress(FileNotFoundError):
                if log.stat().st_size > LOG_BYTES:
                    os.truncate(log, LOG_BYTES // 2)
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                return
            if size <= CONSOLE_BYTES:
                return
            drop = (size - CONSOLE_BYTES // 2) // _CONSOLE_STEP * _CONSOLE_STEP
            command = ["fallocate", "--collapse-range", "--offset", "0", "--length", str(drop), str(path)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                os.truncate(path, 0)

    def order(self, failover: FailoverId) -> RecoveryOrder:
        """Return the machine's order. Raises NotFound, Damaged."""
        return kept_order(self._files(failover).order, failover)

    def _is_ordered(self, order: RecoveryOrder) -> bool:
        """Return whether exactly this order is stored. Its text may differ: an earlier release wrote fewer fields."""
        try:
            return self.order(order.failover) == order
        except (NotFound, Damaged):
            return False

    @property
    def _bubbles(self) -> Path:
        return self._folder.absolute() / _BUBBLES

    def _bubble(self, failover: FailoverId) -> BubbleAddress | None:
        """The test network of a machine; None create it missing on none."""
        try:
            name = self.order(failover).bubble
        except (NotFound, Damaged):
            return None
        return BubbleAddress(self._bubbles, name) if name else None

    def _files(self, failover: FailoverId) -> RunFiles:
        return RunFiles(home_of(self._folder, failover))

    def _host(self) -> Host:
        if self._accelerator is None:
            self._accelerator = choose_accelerator(self._folder, self._kernel)
        firmware = next((path for path in FIRMWARE if path.exists()), None)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Host(self._accelerator, os.cpu_count() or 1, firmware, memory)

    def _find(self, failover: FailoverId, record: int | None) -> int | None:
        """Return the process that runs this machine, if any: the recorded one, or one whose record is gone."""
        path = self._files(failover).pid
        process = recorded_process(record)
        if process is not None and runs(process, path):
            return process
        return find_process(path, _users(failover))

    def _take(self, failover: FailoverId, held: Lending, *, make: bool = False) -> RecoveredMachine | None:
        """Wait for the machine's lock, which ``held`` then holds. If the machine runs, return it, without the lock.

        A QEMU that cannot continue is ended. With ``make``, create a missing folder. Raises TryLater."""
        files = self._files(failover)
        give_up = time.monotonic() + _START_SECONDS
        while True:
            found, process = self._look(failover)
            if found.condition in _LIVE:
                return found
            if process is not None:
                send_signal(process, files.pid, signal.SIGKILL)
            if make:
                files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            taken = lock(files.lock, os.O_CREAT)
            if taken is not None:
                held.lend(taken)
                return None
            if time.monotonic() > give_up:
                raise TryLater(f"Another call is working on {failover}.", remedy="Repeat once that has ended.")
            time.sleep(_POLL_SECONDS)

    def _end(self, failover: FailoverId, grace: float, held: Lending) -> None:
        """End the machine's process and prevent a new one: ``held`` gets the machine's lock. Raises TryLater."""
        files = self._files(failover)
        process = self._process(failover)
        if process is not None and grace > 0:
            _shut_down(files, process, grace)
        if process is not None:
            with contextlib.suppress(Unreachable):
                # It closes its disks in order; what the guest had not flushed is in the overlay already.
                ask(files.monitor, "quit")
                _ends(files, process, _END_SECONDS / 2)
        give_up = time.monotonic() + _END_SECONDS
        while True:
            process = self._process(failover)
            if process is not None:
                send_signal(process, files.pid, signal.SIGKILL)
            else:
                try:
                    taken = lock(files.lock)
                except FileNotFoundError:
                    return
                if taken is not None:
                    held.lend(taken)
                    return
            if time.monotonic() > give_up:
                raise TryLater(
                    f"The process of {failover} does not stop.", remedy="Find out what it waits for, such as its disks."
                )
            time.sleep(_POLL_SECONDS)

    def _process(self, failover: FailoverId) -> int | None:
        """Return the process that runs this machine now."""
        with opened_record(self._files(failover).pid) as record:
            return self._find(failover, record)


def _users(failover: FailoverId) -> set[int]:
    """Return the users whose processes can be this machine's."""
    who = account(failover)
    return {os.geteuid(), *([who.user] if who is not None else [])}


def _shut_down(files: RunFiles, process: int, grace: float) -> None:
    """Ask the guest to shut down and wait until it has, for at most ``grace`` seconds."""
    give_up = time.monotonic() + grace
    try:
        ask(files.monitor, "system_powerdown")
    except Unreachable:
        return  # waiting is useless
    while runs(process, files.pid) and time.monotonic() < give_up:
        with contextlib.suppress(Unreachable):
            if ask(files.monitor, "query-status")["status"] == "shutdown":
                return
        time.sleep(_POLL_SECONDS)


def _ends(files: RunFiles, process: int, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while runs(process, files.pid) and time.monotonic() < give_up:
        time.sleep(_POLL_SECONDS)


def _led_in(monitor: Path, port: int, *, known: Mapping[int, int]) -> int:
    """Return the port of this host that QEMU forwards to the guest's ``port``, other than those in ``known``; 0:
    none."""
    told = ask(monitor, "human-monitor-command", {"command-line": "info usernet"})
    for host, guest in _FORWARDED.findall(str(told)):
        if int(guest) == port and int(host) not in known:
            return int(host)
    return 0


def _hung_up(peer: socket.socket) -> bool:
    """Wait a moment for the end of a connection."""
    try:
        return not peer.recv(1)
    except TimeoutError:
        return False


def _available_memory() -> int | None:
    """Return the bytes that programs can have without swapping; None if the kernel does not report them."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _require_qemu() -> None:
    if shutil.which(QEMU) is None:
        raise Refused("QEMU is not installed here.", remedy="Install the package qemu-system-x86.")
