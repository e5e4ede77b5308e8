"""The agent is taken off a real Debian machine, where systemd runs it, in each of the ways that are offered: it removes
itself, the server removes it by SSH, somebody types what is printed.

Afterwards nothing of it is there: no process, unit, file, certificate, key, .hrl, nothing that it kept in the kernel.
Every other file of the machine is as it was before, and so is each byte of a disk that nobody else writes to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.places import short_folder
from tests.waiting import until

from farshore.cli import by_hand
from farshore.lab.command import HOST_SEEN_FROM_GUEST, GuestSettings
from farshore.lab.demo.operator import Operator
from farshore.lab.guest import Guest
from farshore.lab.image import ensure_image
from farshore.lab.ports import free_ports
from farshore.lab.recipe import GuestRecipe

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(3600)]
NAME = "onprem"
"""The guest's own: a vault knows no other."""
UNIT = f"{by_hand.UNIT}.service"
PINS = "/sys/fs/bpf"
OURS = (*by_hand.STAYS, f"/etc/systemd/system/{UNIT}", f"/etc/systemd/system/multi-user.target.wants/{UNIT}")
HOOK = "/etc/farshore/app-consistent.d/ours"
_SECONDS = 1800.0
_DATA = 48 << 20
_LIVING = (
    *("/var/log", "/var/lib/postgresql", "/var/lib/systemd", "/var/cache", "/tmp", "/var/tmp"),
    *("/root/.ansible", "/etc/ssl/certs", "/etc/resolv.conf", "/etc/mtab"),
)
"""What the system itself writes to while it runs."""
_FILES = f"""\
cd /; find / -xdev {" ".join(f"-path {place} -prune -o" for place in _LIVING)} \
-type d -printf '%y %m %U:%G %p\\n' -o -printf '%y %m %U:%G %s %T@ %p %l\\n' | sort
find /etc /boot /root /srv /opt /usr/local /usr/lib/systemd -xdev -type f -print0 | sort -z | xargs -0 sha256sum
"""


class World:
    """An installation and a guest with a second disk, which nobody in the guest writes to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operator = Operator(folder / "home")
        self.port, data_port = free_ports(2)
        self.operator.run(
            *("up", "--detach", "--port", str(self.port), "--process-server-port", str(data_port)),
            *("--advertise", HOST_SEEN_FROM_GUEST, "--advertise", "127.0.0.1"),
        )
        self.data = folder / "data.raw"
        self.data.write_bytes(os.urandom(_DATA))
        self.digest = digest(self.data)
        self.guest = Guest(ensure_image(GuestRecipe()), folder / "guest", GuestSettings(data_disks=(self.data,)))
        self.guest.start()
        self.guest.wait_until_up()
        self.guest.wait_for_database()
        self.before = self.files()

    def files(self) -> set[str]:
        """A line for each file of the boot disk, but those that the system writes to by itself."""
        return set(self.guest.shell.run(_FILES, seconds=_SECONDS).output.splitlines())

    def said(self, command: str) -> str:
        """What the guest's shell says, whether that succeeds or not."""
        done = self.guest.shell.run(command, check=False)
        return (done.output + done.complaint).strip()

    def ssh(self) -> tuple[str, ...]:
        """How the server logs in."""
        fingerprint = self.said("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
        image, port = self.guest.image, self.guest.ports.ssh
        return ("--ssh-key", str(image.ssh_key), "--host-key", fingerprint, "--port", str(port), "--user", "root")

    def push(self, *options: str) -> None:
        url = f"https://{HOST_SEEN_FROM_GUEST}:{self.port}"
        self.operator.ask("machine", "add", "127.0.0.1", *self.ssh(), "--name", NAME, "--server-url", url, *options)

    def install_by_hand(self) -> None:
        """What `farshore token create` prints, typed line by line."""
        token = self.operator.ask("token", "create", "--name", NAME)
        url = token["server_url"].replace("127.0.0.1", HOST_SEEN_FROM_GUEST)
        (_, here), (_, there) = by_hand.installation(url, token["authority_fingerprint"])
        archive = self.folder / by_hand.ARCHIVE
        make, _copy = here
        self.operator.run(*make.removeprefix("farshore ").replace(by_hand.ARCHIVE, str(archive)).split())
        self.guest.shell.copy(archive, f"/root/{by_hand.ARCHIVE}")
        for line in there:
            self.guest.shell.run(line, stdin=f"{token['token']}\n" if " enroll " in line else None)
        self.guest.shell.run(f"rm /root/{by_hand.ARCHIVE}")

    def wait_for(self, state: str) -> None:
        def there() -> bool:
            return bool(self.operator.ask("machine", "show", NAME)["state"] == state)

        until(there, f"{NAME} is {state}", seconds=_SECONDS, pause=2.0)

    def assert_it_is_there(self) -> None:
        """The control: what is looked for below is found while the agent runs."""
        assert self.said(f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT}") == "active\nenabled"
        assert all(self.there(path) for path in OURS)
        assert self.there("/var/lib/farshore-mobility/credentials.json")
        assert self.said("pgrep -f farshore-mobility")
        assert self.said(f"find {' '.join(by_hand.STAYS)} -name '*.hrl'")
        assert self.files() - self.before

    def assert_it_is_gone(self) -> None:
        """Nothing of the agent is on the machine, and nothing else has changed."""
        until(lambda: not self.said("pgrep -f '[f]arshore-mobility'"), "the end of its process")
        until(lambda: self.said(f"systemctl show -P LoadState {UNIT}") == "not-found", "that systemd forgets it")
        assert [path for path in (*OURS, "/run/farshore-mobility") if self.there(path)] == []
        assert "farshore" not in self.said("systemctl list-units --all --plain --no-legend")
        assert "farshore" not in self.said("systemctl list-unit-files --no-legend")
        assert self.said("systemctl --failed --plain --no-legend") == ""
        assert self.said("find / -xdev -name '*farshore*' -not -path '/var/log/*'") == ""
        assert self.said(f"find {PINS} -mindepth 1") == ""
        now = self.files()
        assert (sorted(now - self.before), sorted(self.before - now)) == ([], [])
        self.guest.shell.run("sync; blockdev --flushbufs /dev/vdb")
        assert digest(self.data) == self.digest
        names = [machine["name"] for machine in self.operator.ask("machine", "list")]
        assert names == []

    def there(self, path: str) -> bool:
        return self.said(f"test -e {path} -o -L {path} && echo yes") == "yes"

    def points(self) -> list[Any]:
        """What the vault has of the machine."""
        home = self.operator.home
        key = ("--vault", f"file://{home / 'vault'}", "--key", str(home / "vault.key"))
        found: list[Any] = self.operator.ask("vault", "points", "--machine", NAME, *key)
        return found

    def close(self) -> None:
        self.guest.kill()
        self.operator.run("down")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def world() -> Iterator[World]:
    with short_folder() as folder, contextlib.closing(World(folder)) as made:
        yield made


def test_nothing_of_the_agent_stays(world: World) -> None:
    # The small disk alone, which is copied soon; below it is all of them, in the middle of their copy.
    world.push("--disk", "/dev/vdb")
    world.wait_for("protected")
    world.assert_it_is_there()
    world.operator.run("machine", "unprotect", NAME, "--yes")
    said = world.operator.run("machine", "delete", NAME, "--uninstall", "--yes")
    print(said)
    assert "its agent removed." in said
    world.assert_it_is_gone()
    assert world.points(), "what the vault holds stays"

    # Once more by hand, with a hook of the machine's owner; now the agent does not answer, and the server logs in.
    world.install_by_hand()
    world.wait_for("initial-replication")
    world.guest.shell.run(f"echo true > {HOOK}")
    world.assert_it_is_there()
    world.operator.run("machine", "unprotect", NAME, "--yes")
    world.guest.shell.run(f"systemctl stop {UNIT}")
    said = world.operator.run("machine", "delete", NAME, "--uninstall", "--host", "127.0.0.1", *world.ssh(), "--yes")
    print(said)
    assert "/etc/farshore" in said
    assert world.said(f"cat {HOOK}") == "true"
    world.guest.shell.run("rm -r /etc/farshore")
    world.assert_it_is_gone()

    # And once more, taken away as `farshore machine delete` prints it.
    world.install_by_hand()
    world.wait_for("initial-replication")
    world.operator.run("machine", "unprotect", NAME, "--yes")
    said = world.operator.run("machine", "delete", NAME, "--yes")
    assert all(line in " ".join(said.split()) for line in by_hand.removal())
    for line in by_hand.removal():
        world.guest.shell.run(line)
    world.assert_it_is_gone()
