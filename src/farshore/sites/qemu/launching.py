"""Start a machine's QEMU: what it is lent, its cables, and why it did not come up."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
from pathlib import Path

from farshore.model.errors import NotFound, Refused, TryLater
from farshore.sites.bubble.client import BubbleAddress
from farshore.sites.half_written import check_whole
from farshore.sites.port import RecoveryOrder, ServedDisk, TcpAddress, UnixAddress, WrittenDisk
from farshore.sites.qemu.command import Host, Lent, LentDisk, RunFiles, has_variables, qemu_command
from farshore.sites.qemu.confinement import Lending, confined
from farshore.sites.qemu.processes import begin_record

_ANSWER_SECONDS = 2.0
_PORT_RULE = re.compile(r"host forwarding rule 'tcp:[\d.]*:(\d+)-")


def launch(
    order: RecoveryOrder, files: RunFiles, host: Host, bubbles: Path, lending: Lending
) -> subprocess.Popen[bytes]:
    """Start QEMU for ``order``, with what it is lent. ``bubbles`` is the folder of this site's test networks. Raises
    NotFound, TryLater, Refused."""
    console = lending.file(files.console, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if has_variables(order) and not files.variables.exists():
        raise NotFound(f"The UEFI variables of {order.name} are gone.", remedy="Create the machine again.")
    variables = lending.file(files.variables, os.O_RDWR) if has_variables(order) else -1
    try:
        sockets = {path: lending.socket(path) for path in _sockets(order)}
        credentials = {path: lending.folder(path) for path in _credentials(order)}
    except FileNotFoundError as error:
        raise TryLater(
            f"Nothing exports the disks of {order.name}: {error.filename} is missing.",
            remedy="Start the export, then the machine.",
        ) from error
    disks = {path: _lent_disk(lending.disk(path, order.name)) for path in _written(order)}
    for path in disks:
        check_whole(path)
    cards = _plug_in(order, bubbles, lending)
    files.monitor.unlink(missing_ok=True)
    files.log.write_bytes(b"")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor,
        begin_record(files.pid) as pid,
        files.log.open("ab") as log,
    ):
        monitor.bind(str(files.monitor))
        files.monitor.chmod(0o600)
        monitor.listen(8)
        lent = Lent(monitor.fileno(), console, variables, sockets, disks, credentials, cards)
        run = qemu_command(order, files, host, lent)
        command = confined(run, machine=order.failover, ports=() if order.bubble else sorted(order.forward))
        try:
            return subprocess.Popen(
                # The number stands in the file before QEMU begins, whatever becomes of this process meanwhile.
                ["/bin/sh", "-c", 'echo $$ && exec "$@" >&2', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=pid,
                stderr=log,
                pass_fds=(monitor.fileno(), *lending.descriptors),
                # A signal to the server's process group is not meant for its machines.
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise Refused(f"QEMU cannot be started: {error}.", remedy="Install qemu-system-x86.") from error


def start_failure(files: RunFiles) -> TryLater:
    """Return why QEMU ended, from its own words."""
    said = files.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it did not say why"]
    taken = _PORT_RULE.search(said[0])
    if taken is not None:
        return TryLater(
            f"Port {taken[1]} of this host cannot be forwarded to the machine: something else listens on it.",
            remedy=f"Find the program (ss -ltnp sport = :{taken[1]}) and stop it, or fail over with another port.",
        )
    return TryLater(f"QEMU did not start: {said[0]}", remedy="Remove the cause that QEMU names, then repeat.")


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether QEMU has ended, or does so now that its monitor is closed."""
    try:
        process.wait(_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _plug_in(order: RecoveryOrder, bubbles: Path, lending: Lending) -> dict[int, int]:
    """Make the machine a member of its test network, and return the cables of its cards. Raises Refused,
    TryLater."""
    if not order.bubble or not order.machine.nics:
        return {}
    bubble = BubbleAddress(bubbles, order.bubble)
    try:
        ends = bubble.join(order.failover, order.machine.nics, order.forward)
    except OSError as error:
        raise TryLater(
            f"The test network {order.bubble} does not answer: {error}.", remedy="Repeat the command."
        ) from error
    return {number: lending.lend(end) for number, end in enumerate(ends)}


def _sockets(order: RecoveryOrder) -> set[Path]:
    """Return the sockets of its disks that are served on this host."""
    media = [disk.medium for disk in order.disks]
    addresses = [medium.address for medium in media if isinstance(medium, ServedDisk)]
    return {address.path for address in addresses if isinstance(address, UnixAddress)}


def _credentials(order: RecoveryOrder) -> set[Path]:
    """Return the folders with its credentials for disks that are served over TLS."""
    media = [disk.medium for disk in order.disks]
    addresses = [medium.address for medium in media if isinstance(medium, ServedDisk)]
    return {one.tls.folder for one in addresses if isinstance(one, TcpAddress) and one.tls is not None}


def _written(order: RecoveryOrder) -> list[Path]:
    """Return its disks that are files or devices of this host."""
    return [disk.medium.path for disk in order.disks if isinstance(disk.medium, WrittenDisk)]


def _lent_disk(descriptor: int) -> LentDisk:
    return LentDisk(descriptor, stat.S_ISBLK(os.fstat(descriptor).st_mode))
