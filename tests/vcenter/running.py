"""A vCenter for tests: the Go program of this folder, built once and started on a free port of the loopback.

The binary is cached by what it is made of, beside the guests' images. Building takes a minute of a busy machine once;
a start takes a quarter of a second for a few machines, four seconds for 5,000.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farshore.lab.cache import cache_folder, only_one
from farshore.lab.ports import free_port

SOURCES = Path(__file__).parent
GOPATH = Path("/usr/share/gocode")
GOVMOMI = GOPATH / "src/github.com/vmware/govmomi"
USER, PASSWORD = "farshore@vsphere.local", "not-a-secret"
GUEST_PASSWORD = "guest-secret"


def binary() -> Path:
    """The program, built if it is not in the cache. Raises FileNotFoundError where Go or govmomi are missing."""
    if shutil.which("go") is None or not GOVMOMI.exists():
        raise FileNotFoundError("packages golang-go and golang-github-vmware-govmomi-dev are missing")
    digest = hashlib.sha256(subprocess.run(["go", "version"], check=True, capture_output=True).stdout)
    for source in sorted(SOURCES.glob("*.go")):
        digest.update(source.name.encode() + source.read_bytes())
    folder = cache_folder() / "vcenter"
    folder.mkdir(exist_ok=True)
    built = folder / digest.hexdigest()[:12]
    with only_one(folder / "lock"):
        if not built.exists():
            new = built.with_suffix(".new")
            environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "-trimpath"}
            subprocess.run(["go", "build", "-o", str(new), "."], cwd=SOURCES, env=environment, check=True, timeout=500)
            new.replace(built)
    return built


@dataclass
class Vcenter:
    """A running one. ``folder`` keeps its certificate, so that it is the same after a restart."""

    folder: Path
    machines: int = 4
    esx: bool = False
    port: int = field(default_factory=free_port)
    proxy: str = ""
    """The machine whose disks show up in ``devices``; empty: disks hold no bytes."""
    guest: str = ""
    """What carries out guest operations, with a line for a shell as one more argument: ``sh -c``, ``ssh …``."""
    _process: subprocess.Popen[str] | None = None

    host = "127.0.0.1"

    def start(self) -> None:
        command = [str(binary()), "-listen", f"{self.host}:{self.port}", "-machines", str(self.machines)]
        command += ["-certificate", str(self.folder / "vcenter.pem"), *(["-esx"] if self.esx else [])]
        if self.proxy:
            self.devices.mkdir(exist_ok=True)
            command += ["-proxy", self.proxy, "-devices", str(self.devices)]
        command += ["-guest", self.guest] if self.guest else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("ready"), "the simulator did not start"

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(120)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    @property
    def devices(self) -> Path:
        """Where disks that hang on the proxy show up."""
        return self.folder / "devices"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def fault(self, method: str, kind: str, times: int = 1, millis: int = 0, after: int = 0) -> None:
        """Let the next calls of a method fail, once ``after`` of them have passed; the kinds are in faults.go.
        ``times`` -1: until it is ordered anew."""
        self._order("fault", method=method, kind=kind, times=times, millis=millis, after=after)

    def lose_sessions(self) -> None:
        self._order("sessions")

    def die(self, machine: str) -> None:
        """End a machine, by its id, as the end of its host does."""
        self._order("die", machine=machine)

    def deny(self, privilege: str) -> None:
        self._order("deny", privilege=privilege)

    def allow(self) -> None:
        self._order("allow")

    def calls(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self._request("GET", "calls"))
        return found

    def _order(self, what: str, **values: Any) -> None:
        self._request("POST", f"{what}?{urllib.parse.urlencode(values)}")

    def _request(self, method: str, path: str) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(f"https://{self.host}:{self.port}/double/{path}", method=method)
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def vcenter(
    folder: Path, machines: int = 4, *, esx: bool = False, proxy: str = "", guest: str = ""
) -> Iterator[Vcenter]:
    """One that ends with the block."""
    running = Vcenter(folder, machines, esx, proxy=proxy, guest=guest)
    running.start()
    try:
        yield running
    finally:
        running.stop()
