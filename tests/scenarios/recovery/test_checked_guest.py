"""A real Debian machine, tested: its own agent runs a script of the server in it, over a network that leads nowhere."""

from __future__ import annotations

import pytest
from tests.scenarios.recovery.guest_world import NAME, SECONDS, World
from tests.scenarios.recovery.test_reprotected_guest import world

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(3600)]
__all__ = ["world"]
SCRIPT = """\
#!/bin/sh
systemctl is-active postgresql || exit 1
echo "$(hostname) $FARSHORE_FAILOVER as $(id -un)"
"""


def test_a_script_is_run_in_the_copy_by_its_agent(world: World) -> None:
    world.protect()
    world.guest.kill()
    folder = world.operator.home / "checks"
    folder.mkdir(exist_ok=True)
    script = folder / "orders"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    job = world.operator.ask("failover", "test", NAME, "--check", "agent:orders,within=1800", seconds=SECONDS)
    print("tested:", job["result"])
    found = world.operator.ask("failover", "list", "--machine", NAME)[0]
    (check,) = found["evidence"]["checks"]
    print(check)
    assert check["passed"], check["detail"]
    assert f"{NAME} {found['id']} as root" in check["detail"]
    machine = world.machine()
    assert (machine["state"], machine["site"]) == ("protected", ""), "the copy is not taken for the source"
