"""Two network namespaces joined by a veth pair: the protected machine's and the servers'.

The servers listen on their own loopback; a relay (relay.py) in their namespace carries what the machine sends to the
advertised address, so that the way can be slowed down as well as cut.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.loopdisks import run

MACHINE_ADDRESS, SERVERS_ADDRESS, SECOND_ADDRESS = "10.77.1.1", "10.77.1.2", "10.77.1.3"
"""The second process server may not take a name of the configuration server."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces:
    """Use as a context manager."""

    def __init__(self) -> None:
        self.machine, self.servers = f"fire-{os.getpid()}-m", f"fire-{os.getpid()}-s"

    def __enter__(self) -> Namespaces:
        with contextlib.ExitStack() as undo:
            for name in (self.machine, self.servers):
                run(f"ip netns add {name}")
                undo.callback(run, f"ip netns del {name}")
                run(f"ip -n {name} link set lo up")
            run(f"ip -n {self.machine} link add wire type veth peer name wire netns {self.servers}")
            addresses = {self.machine: [MACHINE_ADDRESS], self.servers: [SERVERS_ADDRESS, SECOND_ADDRESS]}
            for name, of_it in addresses.items():
                for address in of_it:
                    run(f"ip -n {name} address add {address}/29 dev wire")
                run(f"ip -n {name} link set wire up")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def command(self, name: str) -> list[str]:
        """What to put before a command so that it runs in a namespace, with the mounts of everybody else."""
        return ["nsenter", f"--net=/run/netns/{name}", "--"]

    def cut(self) -> None:
        """The cable is out: the machine sees no carrier."""
        run(f"ip -n {self.servers} link set wire down")

    def mend(self) -> None:
        """The cable is in again."""
        run(f"ip -n {self.servers} link set wire up")

    def swallow(self) -> None:
        """Packets vanish on their way back without a word, as behind a firewall that lost its state."""
        run(f"ip -n {self.servers} route add blackhole {MACHINE_ADDRESS}/32")

    def deliver(self) -> None:
        """Packets arrive again."""
        run(f"ip -n {self.servers} route del blackhole {MACHINE_ADDRESS}/32")


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread's sockets are made in a namespace meanwhile."""
    with Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open() as own:
        with Path(f"/run/netns/{name}").open() as wanted:
            _enter(wanted.fileno())
        try:
            yield
        finally:
            _enter(own.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
