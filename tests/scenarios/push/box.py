"""A machine with OpenSSH's own server, on a host of tests/scenarios/hosts.py: its places are its own, and its systemctl
starts the agent without systemd.

OpenSSH's server is this host's, or is fetched once from the package index and unpacked, not installed: nothing of it
may listen on this host. The machine's Python is the one that runs the tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.waiting import until

_UNPACKED = Path.home() / ".cache" / "farshore" / "doubles" / "openssh"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_BOX = """\
set -eu
mount --make-rprivate /
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
sed -i 's/^root:[^:]*/root:*/' /etc/shadow
sed -i "s#^root:.*#root:x:0:0:root:$1/home:/bin/bash#" /etc/passwd
grep -q ^sshd: /etc/passwd || echo 'sshd:x:110:65534::/run/sshd:/usr/sbin/nologin' >> /etc/passwd
for place in /opt /run /var/lib; do mount -t tmpfs box $place; done
mkdir -p /run/sshd /run/systemd/system /etc/farshore
mount --bind "$1/systemctl" /usr/bin/systemctl
mkdir "$1/home"
echo "while [ -e $1/hold ]; do sleep 0.1; done" > "$1/home/.bashrc"
exec "$2" -D -e -f "$1/sshd_config"
"""
_SYSTEMCTL = """\
#!/bin/sh
[ "$1" = restart ] || exit 0
. /etc/farshore/mobility.conf
[ -e /run/agent.pid ] && kill -9 $(cat /run/agent.pid)
setsid /opt/farshore/current/bin/farshore-mobility $FARSHORE_OPTIONS run > {folder}/agent.log 2>&1 < /dev/null &
echo $! > /run/agent.pid
"""


def sshd() -> tuple[Path, dict[str, str]]:
    """OpenSSH's server, and its environment. Skips the test where there is none."""
    installed = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if installed:
        return Path(installed), {}
    program = _UNPACKED / "usr/sbin/sshd"
    if not program.exists():
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(subprocess.CalledProcessError, OSError):
            command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "openssh-server", "libwrap0"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            for package in Path(folder).glob("*.deb"):
                subprocess.run(["dpkg", "-x", package, _UNPACKED], check=True, capture_output=True)
    if not program.exists():
        pytest.skip("OpenSSH's server is not installed, and apt-get has none")
    return program, {"LD_LIBRARY_PATH": f"{_UNPACKED / _LIBRARIES}:{_UNPACKED / 'lib/x86_64-linux-gnu'}"}


class Box:
    """``runs_in``: what to put before a command so that it runs on the host. It listens at ``address`` alone."""

    def __init__(self, folder: Path, address: str, runs_in: Sequence[str]) -> None:
        self.folder, self.address = folder, address
        self._runs_in = [*runs_in]
        self.key = folder / "login"
        self._host_key = folder / "host_key"
        self._hold = folder / "hold"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        for key in (self.key, self._host_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        shutil.copy(f"{self.key}.pub", folder / "authorized_keys")
        (folder / "sshd_config").write_text(
            f"ListenAddress {address}\nHostKey {self._host_key}\nAuthorizedKeysFile {folder}/authorized_keys\n"
            f"SetEnv PATH={folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            f"StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nPidFile {folder}/sshd.pid\n"
        )
        (folder / "systemctl").write_text(_SYSTEMCTL.format(folder=folder))
        (folder / "systemctl").chmod(0o755)
        (folder / "bin").mkdir()
        python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        (folder / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}").symlink_to(python)
        (folder / "bin" / "python3").symlink_to(python)

    @property
    def host_key(self) -> str:
        shown = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(self._host_key)], check=True, capture_output=True, text=True
        )
        return shown.stdout.split()[1]

    def start(self) -> None:
        program, environment = sshd()
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._runs_in, *_APART, "sh", "-c", _BOX, "box", str(self.folder), str(program)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        until(lambda: "Server listening" in self.log(), f"sshd does not start: {self.log()}")

    def hold(self) -> None:
        """Have every login wait before its command runs."""
        self._hold.touch()

    def go_on(self) -> None:
        self._hold.unlink()

    def logins(self) -> int:
        """Connections that are open now."""
        done = subprocess.run(
            [*self._runs_in, "ss", "-Htn", "state", "established", f"src {self.address}:22"],
            check=True,
            capture_output=True,
            text=True,
        )
        return len(done.stdout.splitlines())

    def log(self) -> str:
        return (self.folder / "sshd.log").read_text()[-3000:]

    def close(self) -> None:
        """End it with all that runs in it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None
