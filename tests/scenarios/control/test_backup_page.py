"""docs/operate/backup.md, typed through: each command of the page is run, in its order, with real servers; first on the
same host, to take a mistake back, then on another one, while the first is alive and stops writing."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.scenarios.control.test_site_lost import Host, begin
from tests.scenarios.control.test_site_lost import shells as shells
from tests.unit.test_operate_pages import PAGES, typed
from tests.waiting import until

from farshore.lab.ports import free_port

__all__ = ["shells"]

RESTORING = "farshore server restore /root/farshore.backup --key /root/vault.key"


def commands() -> list[str]:
    (page,) = [page for page in PAGES if page.stem == "backup"]
    return typed(page)


def typing(desk: Path) -> Callable[..., str]:
    """Types a line of the page at a host, with what stands in /root there in ``desk``."""

    def type_line(host: Host, line: str, *more: str) -> str:
        return host.run(*[word.replace("/root/", f"{desk}/") for word in shlex.split(line)[1:]], *more)

    return type_line


@pytest.mark.soak  # six starts of an installation; the parts have tests of their own in the gate
@pytest.mark.timeout(900)
def test_the_page_of_backups(shells: tuple[Host, Host], tmp_path: Path) -> None:
    near, far = shells
    desk = tmp_path / "desk"
    desk.mkdir()
    begin(near, f"file://{tmp_path}/vault")
    shutil.copy(near.home / "vault.key", desk / "vault.key")
    near.run("policy", "create", "silver")
    type_line, left = typing(desk), commands()

    type_line(near, left.pop(0))
    backup = desk / "farshore.backup"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert (desk / "vault.key").read_bytes() not in backup.read_bytes()
    near.run("policy", "delete", "silver", "--yes")
    near.run("policy", "create", "later")

    looked = type_line(near, left.pop(0))
    assert "silver" not in [one["name"] for one in near.json("policy", "list")], f"it was a trial: {looked}"
    assert left == ["farshore down", f"{RESTORING} --yes", "farshore up --detach"], "every command of the page is typed"
    for line in left:
        type_line(near, line)
    assert {"silver", "later", "gold"} <= {one["name"] for one in near.json("policy", "list")}
    assert [one["name"] for one in near.json("machine", "list")] == ["web1"]

    type_line(far, f"{RESTORING} --dry-run")
    assert not (far.home / "catalog.sqlite").exists(), "it was a trial"
    type_line(far, f"{RESTORING} --yes", "--advertise", "127.0.0.1")
    ports = ["--port", str(free_port()), "--process-server-port", str(free_port())]
    type_line(far, "farshore up --detach", *ports)
    assert [one["name"] for one in far.json("machine", "list")] == ["web1"]
    until(lambda: any(one["kind"] == "displaced" for one in near.alerts()), "the first does not hear of it")
    assert "taken over by installation" in near.run("policy", "create", "late", status=77)
