"""An installation and a real Debian machine that it protects: what scenarios of the way home begin with, and their
benchmark."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

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

NAME = "onprem"
"""The guest's own: a vault knows no other."""
SECONDS = 1800.0


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


def step_seconds(job: dict[str, Any]) -> dict[str, float]:
    """How long each step of a job took."""
    times = {step["name"]: (step["started"], step["ended"]) for step in job["steps"]}
    return {name: _time(ended) - _time(started) for name, (started, ended) in times.items()}


def own_downtime(job: dict[str, Any]) -> float:
    """Of a failback: for how long the machine was down less its own boot, in seconds."""
    took = step_seconds(job)
    return float(job["result"]["downtime_seconds"]) - took["start the machine"] - took["await its answer"]


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
