"""Hosts with networks of their own on one wire, this test among them: network namespaces at a bridge.

A store that listens on this host's loopback is reached from each of them at the same address, over a way of its own
that can be cut.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from tests.crash.fire.azure_store import AzureStore
from tests.loopdisks import run


class Hosts:
    """Use as a context manager. ``names``: of the hosts."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._wire, self._net = f"fsw{os.getpid()}"[:15], f"10.78.{os.getpid() % 250}"
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Hosts:
        with contextlib.ExitStack() as undo:
            run(f"ip link add {self._wire} type bridge")
            undo.callback(run, f"ip link del {self._wire}")
            run(f"ip address add {self._net}.254/24 dev {self._wire}")
            run(f"ip link set {self._wire} up")
            for number, name in enumerate(self._names):
                space, plug = self._space(name), f"fs{os.getpid()}-{number}"[:15]
                run(f"ip netns add {space}")
                undo.callback(run, f"ip netns del {space}")
                run(f"ip -n {space} link set lo up")
                run(f"ip link add {plug} type veth peer name wire netns {space}")
                run(f"ip link set {plug} master {self._wire} up")
                run(f"ip -n {space} address add {self.address(name)}/24 dev wire")
                run(f"ip -n {space} link set wire up")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def address(self, name: str) -> str:
        """Where a host is reached."""
        return f"{self._net}.{self._names.index(name) + 1}"

    def command(self, name: str) -> list[str]:
        """What to put before a command so that it runs on a host, with the files of everybody else."""
        return ["nsenter", f"--net=/run/netns/{self._space(name)}", "--"]

    def behind(self, gate: str, name: str) -> str:
        """An address of a host that only ``gate`` reaches, over a wire of their own."""
        net, inner = f"10.79.{os.getpid() % 250}", self._space(name)
        run(f"ip -n {self._space(gate)} link add inside type veth peer name inside netns {inner}")
        for space, number in ((self._space(gate), 1), (inner, 2)):
            run(f"ip -n {space} address add {net}.{number}/24 dev inside")
            run(f"ip -n {space} link set inside up")
        return f"{net}.2"

    def store(self, url: str, environment: Mapping[str, str]) -> dict[str, AzureStore]:
        """Have every host reach a store; answers the ways to it."""
        endpoint = environment.get("AZURE_STORAGE_ENDPOINT") or environment["AWS_ENDPOINT"]
        port = urlsplit(endpoint).port
        assert port is not None
        ways = {name: AzureStore(url, port, self._space(name)) for name in self._names}
        for way in ways.values():
            self._undo.callback(way.close)
        return ways

    def cut(self, name: str) -> None:
        """Its cable is out."""
        run(f"ip -n {self._space(name)} link set wire down")

    def _space(self, name: str) -> str:
        return f"fs-{os.getpid()}-{name}"
