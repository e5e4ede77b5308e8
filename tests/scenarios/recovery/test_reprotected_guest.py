"""A real Debian machine after its failover: its agent goes on with the stream from the recovery site, whose network
leads nowhere, only what differs travels, and it comes home."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.contract.places import short_folder
from tests.waiting import until

from farshore.export.launch import ExportLauncher
from farshore.lab.command import HOST_SEEN_FROM_GUEST
from farshore.lab.demo.operator import Operator
from farshore.lab.guest import Guest
from farshore.lab.image import ensure_image
from farshore.lab.ports import free_ports
from farshore.lab.recipe import GuestRecipe
from farshore.lab.shell import Shell
from farshore.sites.qemu.site import QemuSite

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(3600)]
NAME = "onprem"
"""The guest's own: a vault knows no other."""
SECONDS = 1800.0
_WRITTEN = 8 << 20
_OVERHEAD = 128 << 20
"""What a Debian system writes to its disk by itself while it starts twice: logs, journals, the agent's state."""


class World:
    """An installation, a guest that it protects, and what the guest was recovered as."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = ensure_image(GuestRecipe())
        self.operator = Operator(folder / "home")
        self.port, data_port = free_ports(2)
        self.operator.run(
            *("up", "--detach", "--port", str(self.port), "--process-server-port", str(data_port)),
            *("--advertise", HOST_SEEN_FROM_GUEST, "--advertise", "127.0.0.1"),
        )
        self.guest = Guest(self.image, folder / "guest")

    def protect(self) -> None:
        guest = self.guest
        guest.start()
        guest.wait_until_up()
        fingerprint = guest.shell.run("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").output.split()[1]
        self.operator.ask(
            *("machine", "add", "127.0.0.1", "--port", str(guest.ports.ssh), "--user", "root", "--name", NAME),
            *("--ssh-key", str(guest.image.ssh_key), "--host-key", fingerprint),
            *("--server-url", f"https://{HOST_SEEN_FROM_GUEST}:{self.port}"),
        )
        self.operator.run("machine", "protect", NAME, "--cpu-percent", "90")
        self.wait_for("protected")

    def machine(self) -> Any:
        return self.operator.ask("machine", "show", NAME)

    def wait_for(self, state: str) -> None:
        until(lambda: self.machine()["state"] == state, f"{NAME} is {state}", seconds=SECONDS, pause=2.0)

    def shell(self, port: int) -> Shell:
        shell = Shell(port, self.image.ssh_key, self.image.host_key)
        shell.wait(SECONDS)
        return shell

    def vault_bytes(self) -> int:
        files = (self.folder / "home" / "vault").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    def at(self, point: str) -> Path:
        """The disk as it was at a point, restored with no server's help."""
        home, restored = self.operator.home, self.folder / "restored.raw"
        self.operator.run(
            *("vault", "restore", "--vault", f"file://{home / 'vault'}", "--key", str(home / "vault.key")),
            *("--machine", NAME, "--point", point, "--disk", "0", "--output", str(restored)),
        )
        return restored

    def close(self) -> None:
        self.guest.kill()
        self.operator.run("down")
        for folder in (self.operator.home / "sites").iterdir():
            site = QemuSite(folder, accelerator="tcg")
            for failover in site.present():
                site.destroy(failover)
        for folder in (self.operator.home / "failovers").iterdir():
            ExportLauncher().stop(folder)


def _seconds(step: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(step[name]) for name in ("started", "ended"))
    return (ended - began).total_seconds()


def holds(disk: Path, text: str) -> bool:
    """Whether the text is in some file there: it is shorter than a block, so no piece cuts it."""
    with disk.open("rb") as file:
        return any(text.encode() in piece for piece in iter(partial(file.read, 16 << 20), b""))


@pytest.fixture
def world() -> Iterator[World]:
    with short_folder() as folder, contextlib.closing(World(folder)) as made:
        yield made


def test_a_machine_is_replicated_from_where_it_was_recovered_and_comes_home(world: World) -> None:
    world.protect()
    world.guest.kill()
    (ssh,) = free_ports(1)
    job = world.operator.ask("failover", "run", NAME, "--yes", "--forward", f"{ssh}:22", seconds=SECONDS)
    position = job["result"]["position"]
    world.operator.ask("failover", "commit", NAME, "--yes", seconds=SECONDS)
    note = f"written-at-the-site-{time.time_ns()}"
    with world.shell(ssh) as shell:
        shell.run(f"head -c {_WRITTEN} /dev/urandom > /root/there; echo {note} > /root/note; sync")
    before = world.vault_bytes()
    granted = world.operator.ask("failover", "reprotect", NAME, seconds=SECONDS)["result"]
    print("reprotected:", granted)
    assert (granted["kind"], granted["parent"]) == ("resync", position)
    began = time.monotonic()
    world.wait_for("protected")
    grown = world.vault_bytes() - before
    print(f"protected again after {time.monotonic() - began:.0f} s; the vault grew by {grown >> 20} MiB")
    assert _WRITTEN <= grown < _WRITTEN + _OVERHEAD, f"{grown >> 20} MiB"
    assert world.machine()["site"] == "qemu"
    later = f"later-{time.time_ns()}"
    with world.shell(ssh) as shell:
        shell.run(f"echo {later} > /root/later; sync")
        probe = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{HOST_SEEN_FROM_GUEST}/{world.port}'"
        assert shell.run(probe, check=False, seconds=60).status != 0, "its network leads nowhere all the same"
    world.operator.ask("point", "create", NAME, "--name", "after", seconds=SECONDS)
    held = world.at("after")
    for text in (note, later):
        assert holds(held, text), text

    # Home, onto the disk that survived there, and it is protected again: with all that was committed, and no full copy.
    world.operator.run("site", "add", "home", "--kind", "qemu", "--setting", "disks=written")
    last = f"last-{time.time_ns()}"
    with world.shell(ssh) as shell:
        shell.run(f"echo {last} > /root/last; sync /root/last")
    before, (ssh,) = world.vault_bytes(), free_ports(1)
    forward = ("--forward", f"{ssh}:22")
    way = ("--site", "home", "--disk", f"0={world.guest.disk}")
    job = world.operator.ask("failback", "run", NAME, *way, "--yes", *forward, seconds=SECONDS)
    result = job["result"]
    print("came home:", result)
    took = {step["name"]: _seconds(step) for step in job["steps"]}
    print("steps, in seconds:", took)
    own = result["downtime_seconds"] - took["start the machine"] - took["await its answer"]
    print(f"down for {result['downtime_seconds']:.1f} s, {own:.1f} s of it without the guest's boot")
    assert result["held"]
    assert not list((world.operator.home / "failovers" / result["failover"]).glob("disk-*")), "the old disk was used"
    with world.shell(ssh) as shell:
        assert shell.run("cat /root/note /root/later /root/last").output.split() == [note, later, last]
    world.wait_for("protected")
    assert world.machine()["site"] == ""
    grown = world.vault_bytes() - before
    print(f"protected at home; the vault grew by {grown >> 20} MiB")
    assert grown < _OVERHEAD, f"{grown >> 20} MiB"
    states = {one["site"]: one["state"] for one in world.operator.ask("failover", "list")}
    assert states == {"qemu": "cleaned-up", "home": "committed"}
