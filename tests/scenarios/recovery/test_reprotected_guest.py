"""A real Debian machine after its failover: its agent goes on with the stream from the recovery site, whose network
leads nowhere, only what differs travels, and it comes home."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.contract.places import short_folder
from tests.scenarios.recovery.guest_world import NAME, SECONDS, World, own_downtime, step_seconds

from farshore.lab.command import HOST_SEEN_FROM_GUEST
from farshore.lab.ports import free_ports

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(3600)]
_WRITTEN = 8 << 20
_OVERHEAD = 128 << 20
"""What a Debian system writes to its disk by itself while it starts twice: logs, journals, the agent's state."""


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
    print("steps, in seconds:", step_seconds(job))
    print(f"down for {result['downtime_seconds']:.1f} s, {own_downtime(job):.1f} s of it without the guest's boot")
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
