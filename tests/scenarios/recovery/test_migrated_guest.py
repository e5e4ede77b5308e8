"""A real Debian machine is migrated: it runs at the site, unprotected, without an agent, and its points stay."""

from __future__ import annotations

import time

import pytest
from tests.scenarios.recovery.guest_world import NAME, SECONDS, World
from tests.scenarios.recovery.test_reprotected_guest import world
from tests.waiting import until

from farshore.lab.ports import free_ports
from farshore.model.errors import Refused

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(7200)]
__all__ = ["world"]


def test_a_migrated_machine_is_unprotected_and_has_no_agent(world: World) -> None:
    world.protect()
    world.operator.ask("point", "create", NAME, "--name", "before", seconds=SECONDS)
    world.guest.kill()
    (ssh,) = free_ports(1)
    forward = ("--forward", f"{ssh}:22")
    world.operator.ask("failover", "run", NAME, "--migrate", "--yes", *forward, seconds=SECONDS)
    with world.shell(ssh) as shell:
        assert shell.run("systemctl is-active farshore-mobility", check=False).output.strip() == "active"
    began = time.monotonic()
    try:
        result = world.operator.ask("failover", "commit", NAME, "--yes", seconds=SECONDS)["result"]
    except Refused as error:
        # On a busy host an emulated guest may need longer than the job waits; it takes itself off all the same.
        if "so when it reaches this server" not in error.message:
            raise
    else:
        assert "/opt/farshore/releases" in result["agent"]["removed"]
    with world.shell(ssh) as shell:
        left = "systemctl is-active farshore-mobility; ls -d /opt/farshore /var/lib/farshore-mobility 2>/dev/null; true"
        gone = lambda: shell.run(left).output.split() == ["inactive"]  # noqa: E731
        until(gone, "the agent to have taken itself off", seconds=SECONDS, pause=2.0)
    print(f"the agent was off after {time.monotonic() - began:.0f} s")
    machine = world.machine()
    assert (machine["state"], machine["site"]) == ("unprotected", "qemu")
    assert "before" in [point["name"] for point in world.operator.ask("point", "list", NAME)]
