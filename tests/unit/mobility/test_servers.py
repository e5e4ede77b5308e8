"""Where an agent turns to when its configuration server is gone, and when it has been displaced."""

from __future__ import annotations

from pathlib import Path
from typing import List

from farshore.client.credentials import Credentials
from farshore.mobility.control.servers import SILENT_SECONDS, TURN_SECONDS, Servers
from farshore.mobility.settings import Settings

NEAR, FAR, THIRD = "https://near:443", "https://far:443", "https://third:443"


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> int:
        return int(self.time * 1e9)


class Server:
    """farshore.client.machine_self.MachineSelf, as far as it is asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.servers: List[str] = []
        self.leaves = False

    def move_to(self, url: str) -> None:
        self.url, self.servers, self.leaves = url, [], False


class Rig:
    def __init__(self, folder: Path) -> None:
        self.settings = Settings(state=folder)
        if not self.settings.credentials.exists():
            Credentials(NEAR, "authority", "certificate", "key").save(self.settings.credentials)
        self.clock = Clock()
        self.server = Server(Credentials.load(self.settings.credentials).url)
        self.servers = Servers(self.settings, self.server, self.clock)  # type: ignore[arg-type]

    def answered(self, *announced: str) -> None:
        self.server.servers = list(announced)
        self.servers.answered()

    def failed(self, after: float) -> str:
        self.clock.time += after
        self.servers.failed()
        return self.server.url


def test_a_server_that_is_gone_is_looked_for_in_the_order_announced(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answered(NEAR, FAR, THIRD)
    assert rig.failed(0) == NEAR
    assert rig.failed(SILENT_SECONDS - 1) == NEAR, "it may just be restarting"
    assert rig.failed(1) == FAR
    assert rig.failed(TURN_SECONDS - 1) == FAR
    assert rig.failed(1) == THIRD
    assert rig.failed(TURN_SECONDS) == NEAR, "and again from the first"
    assert rig.failed(TURN_SECONDS) == FAR
    rig.answered(FAR, THIRD)
    assert rig.server.url == FAR
    assert rig.failed(0) == FAR
    assert rig.failed(TURN_SECONDS) == FAR, "whoever answered has the longer patience"
    again = Rig(tmp_path)
    assert again.server.url == FAR, "after a restart it is asked first"
    assert Credentials.load(again.settings.credentials).key == "key"
    assert again.failed(0) == FAR
    assert again.failed(SILENT_SECONDS) == THIRD, "and the list is known"


def test_a_displaced_server_is_left_for_its_successor(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answered(NEAR, THIRD)
    rig.server.leaves = True
    rig.answered(FAR, THIRD)
    assert rig.server.url == FAR
    assert Rig(tmp_path).server.url == NEAR, "nothing is kept before the successor has answered"
    rig.answered(FAR)
    assert Rig(tmp_path).server.url == FAR


def test_a_server_that_is_known_here_by_another_name_is_not_left(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answered("https://the-name-that-it-knows-itself-by:443", FAR)
    assert rig.server.url == NEAR
    assert rig.failed(0) == NEAR
    assert rig.failed(SILENT_SECONDS) == "https://the-name-that-it-knows-itself-by:443"
    assert rig.failed(TURN_SECONDS) == FAR


def test_without_a_list_it_goes_nowhere(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.answered()
    assert rig.failed(0) == NEAR
    assert rig.failed(100 * SILENT_SECONDS) == NEAR
    (tmp_path / "servers.json").write_text('{"servers": ["http://elsewhere", 7]}')
    assert Rig(tmp_path).failed(100 * SILENT_SECONDS) == NEAR
    (tmp_path / "servers.json").write_text("no JSON")
    assert Rig(tmp_path).failed(100 * SILENT_SECONDS) == NEAR
