"""A real Debian machine under systemd is shut down by its agent before its failover: all that it wrote is in the point.

One that is silent is not: then a failover that requires it fails and leaves it running, and one that tries goes on.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.loopdisks import run
from tests.scenarios.recovery.test_reprotected_guest import NAME, SECONDS, World, world
from tests.waiting import until

from farshore.lab.disk_layout import Layout
from farshore.lab.ports import free_ports
from farshore.lab.recipe import GuestRecipe
from farshore.model.errors import Refused

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(3600)]
__all__ = ["world"]
AGENT = "farshore-mobility"
WRITER = """\
cat > /etc/systemd/system/writer.service <<'END'
[Service]
ExecStart=/bin/sh -c 'n=0; while :; do n=$((n+1)); echo $n >> /root/numbers; sync /root/numbers; done'
[Install]
WantedBy=multi-user.target
END
systemctl enable --now writer
"""
"""A service that writes whenever it can, to its end."""
WITHIN = "900"
FILES = """\
find . -xdev -not -name '*.hrl' -printf '%p %y %s %m %T@ %l\\n'
find . -xdev -type f -not -name '*.hrl' -print0 | xargs -0 sha256sum
"""


@contextmanager
def root_of(disk: Path, at: Path) -> Iterator[Path]:
    """The files of the lab's system on a raw disk, its log not replayed."""
    recipe = GuestRecipe()
    root = Layout(recipe.disk_bytes, recipe.swap_bytes).root
    at.mkdir()
    run(f"mount -o ro,noload,loop,offset={root.start},sizelimit={root.length} {disk} {at}")
    try:
        yield at
    finally:
        run(f"umount {at}")


def files(root: Path) -> list[str]:
    """A line for each file, and one for its bytes. The agent's spill file is no part of a copy."""
    return subprocess.run(FILES, shell=True, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()


def failover(world: World) -> Any:
    """The newest."""
    return world.operator.ask("failover", "list", "--machine", NAME)[0]


def fail_over(world: World, shutdown: str, port: int) -> Any:
    words = ("failover", "run", NAME, "--shutdown", shutdown, "--shutdown-within", WITHIN, "--yes")
    return world.operator.ask(*words, "--forward", f"{port}:22", seconds=SECONDS)


def begin(world: World) -> None:
    world.protect()
    world.guest.shell.run(WRITER)


def is_at_work(world: World) -> bool:
    return world.guest.shell.run("systemctl is-active writer", check=False).output.strip() == "active"


def test_a_source_that_is_silent_is_left_running_and_one_that_answers_loses_nothing(world: World) -> None:
    begin(world)
    shell, before = world.guest.shell, world.machine()["epoch"]
    (port,) = free_ports(1)
    shell.run(f"systemctl stop {AGENT}")
    with pytest.raises(Refused, match="was not shut down: its agent has said nothing for"):
        fail_over(world, "require", port)
    assert failover(world)["state"] == "failed"
    assert is_at_work(world), "it goes on, with its services"

    shell.run(f"systemctl start {AGENT}")
    until(
        lambda: world.machine()["epoch"] > before and world.machine()["state"] == "protected",
        "that it is protected again", seconds=SECONDS, pause=2.0,
    )  # fmt: skip
    result = fail_over(world, "require", port)["result"]
    until(lambda: not world.guest.running, "the end of the source", seconds=60)
    found = failover(world)
    print("failed over:", result, found["evidence"])
    assert found["evidence"]["rpo_seconds"] == 0
    assert "was shut down; its last position is" in found["evidence"]["shutdown"]
    # What is on the disk that was switched off is what was recovered.
    point = f"shutdown-{found['id'][:8]}"
    with (
        root_of(world.guest.disk, world.folder / "source") as source,
        root_of(world.at(point), world.folder / "copy") as copy,
    ):
        written = (source / "root/numbers").read_text()
        here, there = files(source), files(copy)
        assert len(here) > 10_000
        assert sorted({*here} ^ {*there}) == []
    with world.shell(port) as copy_shell:
        assert copy_shell.run("systemctl is-active writer").output.strip() == "active"
        assert copy_shell.run(f"head -c {len(written)} /root/numbers").output == written


def test_a_failover_that_tries_goes_on_without_a_source_that_is_silent(world: World) -> None:
    begin(world)
    (port,) = free_ports(1)
    world.guest.monitor("stop")
    fail_over(world, "try", port)
    found = failover(world)
    print(found["evidence"])
    assert "was not shut down: its agent has said nothing for" in found["evidence"]["shutdown"]
    assert found["evidence"]["rpo_seconds"] > 0
    with world.shell(port) as copy_shell:
        assert copy_shell.run("systemctl is-active writer").output.strip() == "active"
    # The source wakes: it runs on, and nothing of it reaches the vault any more.
    world.guest.monitor("cont")
    assert is_at_work(world)
    assert world.machine()["state"] == "failed-over"
