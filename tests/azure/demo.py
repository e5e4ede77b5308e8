"""``python -m tests.azure.demo``: the demo with its vault in Azurite, and a double of Azure as the place to come up.

What Azure would start is a disk. So it is taken out of Azurite again, as it stands there, and booted by QEMU, and its
PostgreSQL is judged as the demo judges every machine that it brings up.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.azure.resources import Resource
from tests.azure.running import Served, azure
from tests.contract.doubles import azurite

from farshore.formats.vhd import FOOTER_BYTES, footer
from farshore.lab.counter import Acknowledged
from farshore.lab.demo.__main__ import main
from farshore.lab.demo.display import Display, Stage
from farshore.lab.demo.recovered import Recovered
from farshore.lab.demo.story import NAME, Story
from farshore.lab.guest import Guest
from farshore.lab.image import GuestImage

SITE = "cloud"
BOOT_SECONDS = 900.0
_PIECE = 8 << 20
_SCRIPT = Path(__file__).parents[2] / "scripts" / "verify-azure"
_AZ = """#!/bin/sh
case "$1 $2" in
  "network nic") echo '{"name": "nothing-outbound"}' ;;
  "vm show") echo '{}' ;;
esac
"""
"""What the script asks of Azure by its command line, beside what it asks by Farshore."""


class AzureStory(Story):
    """The demo's story, whose second site is Azure."""

    def __init__(self, folder: Path, display: Display) -> None:
        super().__init__(folder, display)
        self._served: Served | None = None
        self._recovered: Guest | None = None

    def tell(self) -> None:
        """See Story: with an Azurite and a double beside it."""
        with azurite(folder=self._folder / "azurite") as (url, environment), _in_environment(environment):
            self._vault = f"{url}/vault"
            with azure(self._folder, environment) as self._served:
                super().tell()

    def clean_up(self) -> None:
        """See Story."""
        if self._recovered is not None:
            self._recovered.kill()
        super().clean_up()

    def fail_over(self, image: GuestImage, record: tuple[Acknowledged, ...]) -> None:
        """To Azure, and from there to where PostgreSQL answers."""
        self._add_site()
        requested = time.monotonic()
        with self._display.stage("farshore failover run: disks uploaded to Azure") as stage:
            self._operator.ask("failover", "run", NAME, "--yes", "--site", SITE)
            (run,) = [one for one in self._operator.ask("failover", "list") if one["kind"] == "failover"]
            took = time.monotonic() - requested
            machine = self._machine(run["id"])
            stage.tell(f"{machine['name']}, {machine['properties']['hardwareProfile']['vmSize']}, runs there")
        self._display.find("Failover to Azure: request to the machine's start", f"{took:.1f} s")
        self._judge_preparation(run["id"])
        self._recovered = Guest(image, self._taken_out(run["id"]))
        with self._display.stage("The same disk, booted by QEMU") as stage:
            self._recovered.start()
            there = Recovered(image, self._recovered.ports.ssh, self._recovered.ports.database)
            found = there.wait_for_rows(BOOT_SECONDS)
            rto, since_loss = time.monotonic() - requested, time.monotonic() - self._lost
            stage.tell("PostgreSQL answered")
        self.judge_rows(record, found, rto, since_loss)
        self.judge_databases(there)

    def rehearse(self, image: GuestImage, record: tuple[Acknowledged, ...], moment: int) -> None:
        """A test in a virtual network of its own, and nothing left of it."""
        before = set(self._azure.double.known.held)
        with self._display.stage("Test failover, isolated") as stage:
            self._operator.ask("failover", "test", NAME, "--site", SITE)
            (test,) = [one for one in self._operator.ask("failover", "list") if one["kind"] == "test"]
            isolated = self._is_isolated(test["id"])
            stage.tell("in a virtual network of its own")
        self._display.find(
            "Test failover: isolated by its network and its rules", "yes" if isolated else "no", isolated
        )
        with self._display.stage("Cleaning the test up") as stage:
            self._operator.ask("failover", "cleanup", test["id"], "--yes")
            left = sorted(set(self._azure.double.known.held) ^ before)
            stage.tell("nothing left behind" if not left else f"left behind: {left}")
        self._display.find("Test failover: left behind after clean-up", "nothing" if not left else str(left), not left)

        self._verify(before)

    def _verify(self, before: set[str]) -> None:
        """The script for a real subscription, by these servers: what it asks of ``az`` is answered by a stand-in."""
        az = self._folder / "bin" / "az"
        az.parent.mkdir()
        az.write_text(_AZ)
        az.chmod(0o755)
        home, path = str(self._operator.home), f"{az.parent}:{os.environ['PATH']}"
        words = {"FARSHORE": f"{sys.executable} -m farshore.cli.main", "FARSHORE_HOME": home, "PATH": path}
        with self._display.stage("scripts/verify-azure") as stage:
            done = subprocess.run(
                [str(_SCRIPT), SITE, NAME], env={**os.environ, **words}, capture_output=True, text=True, timeout=900,
                check=False,
            )  # fmt: skip
            stage.tell((done.stdout.strip().splitlines() or [""])[-1].strip())
        good = done.returncode == 0 and set(self._azure.double.known.held) == before
        self._display.find("scripts/verify-azure", "to its end" if good else done.stderr.strip()[-300:], good)

    @property
    def _azure(self) -> Served:
        assert self._served is not None
        return self._served

    def _add_site(self) -> None:
        with self._display.stage("farshore site add, and its check") as stage:
            secret = self._folder / "safe" / "principal"
            secret.write_bytes(self._azure.secret)
            settings = [
                word for name, value in self._azure.settings.items() for word in ("--setting", f"{name}={value}")
            ]
            self._operator.ask("site", "add", SITE, "--kind", "azure", "--secret-file", str(secret), *settings)
            found = self._operator.ask("site", "check", SITE)["found"]
            stage.tell(f"{found['region']}; {found['virtual network']}")

    def _machine(self, failover: str) -> Resource:
        (found,) = self._of("virtualMachines", failover)
        return found

    def _of(self, kind: str, failover: str) -> list[Resource]:
        return [one for path, one in self._azure.double.known.of(kind) if failover in path]

    def _judge_preparation(self, failover: str) -> None:
        done: dict[str, Any] = self._operator.ask("failover", "show", failover)["preparation"]
        told = f"{done['outcome']}: {len(done['changes'])} changes, {len(done['warnings'])} warnings"
        self._display.find("The guest, prepared for Hyper-V", told, done["outcome"] == "prepared")
        for line in [*done["changes"], *done["warnings"]]:
            self._display.say(f"  {line}")

    def _taken_out(self, failover: str) -> Path:
        """The folder of a guest whose disk is that of the machine, as Azurite has it."""
        (disk,) = self._of("disks", failover)
        properties = disk["properties"]
        size, unique = int(properties["diskSizeBytes"]), str(properties["uniqueId"])
        folder = self._folder / "at-azure"
        folder.mkdir()
        with self._display.stage("The uploaded disk, taken out of Azurite") as stage:
            blob = self._azure.double.known.blobs.direct(unique)
            with (folder / "disk.raw").open("wb") as file:
                file.truncate(size)
                for start in range(0, size, _PIECE):
                    piece = blob.download_blob(start, min(_PIECE, size - start)).readall()
                    if piece.count(0) != len(piece):
                        file.seek(start)
                        file.write(piece)
                    self._say(stage, start, size)
            whole = blob.download_blob(size, FOOTER_BYTES).readall() == footer(size, uuid.UUID(unique))
            stage.tell(f"{size >> 20} MiB and its footer")
        self._display.find("The footer of the uploaded disk", "whole" if whole else "wrong", whole)
        return folder

    def _say(self, stage: Stage, done: int, size: int) -> None:
        stage.tell(f"{done >> 20} of {size >> 20} MiB", done / size)

    def _is_isolated(self, failover: str) -> bool:
        """Its card is on a network of its own, which is joined to no other, behind rules that let nothing pass."""
        networks, groups = self._of("virtualNetworks", failover), self._of("networkSecurityGroups", failover)
        if len(networks) != 1 or len(groups) != 1 or "virtualNetworkPeerings" in networks[0]["properties"]:
            return False
        rules = [one["properties"] for one in groups[0]["properties"]["securityRules"]]
        shut = {one["direction"] for one in rules if one["access"] == "Deny" and one["destinationAddressPrefix"] == "*"}
        return shut == {"Inbound", "Outbound"} and all(one["access"] == "Deny" for one in rules)


@contextlib.contextmanager
def _in_environment(more: Mapping[str, str]) -> Iterator[None]:
    """The servers and commands that are started meanwhile have these variables."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    sys.exit(main(AzureStory, "demo-azure"))
