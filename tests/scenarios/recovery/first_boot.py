"""A machine's first boot by its user data, without the machine: its commands run in a network namespace, over the root
file system of this host, on a layer of its own that is gone with it. A stand-in for systemd starts the service.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

SYSTEMCTL = """\
#!/bin/sh
# What the user data asks of systemd: to start a unit.
[ "$1" = enable ] || exit 0
unit=/etc/systemd/system/$3
mkdir -p /var/lib/farshore/process-server
setsid $(sed -n 's/^ExecStart=//p' "$unit") >> /var/log/farshore.log 2>&1 < /dev/null &
"""
AS_CLOUD_INIT = """\
import json, os, subprocess, sys
told = json.loads(open(sys.argv[1]).read().removeprefix("#cloud-config\\n"))
for one in told["write_files"]:
    os.makedirs(os.path.dirname(one["path"]), exist_ok=True)
    with open(os.open(one["path"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY, int(one["permissions"], 8)), "w") as file:
        file.write(one["content"])
for name in told["packages"]:
    subprocess.run(["dpkg", "-s", name], check=True, stdout=subprocess.DEVNULL)
for command in told["runcmd"]:
    status = subprocess.run(command).returncode
    print("runcmd ended with", status, flush=True)
"""


class Booted:
    """``root``: the root file system of the machine, as it sees it."""

    def __init__(self, log: Path, root: Path) -> None:
        self._log, self.root = log, root

    def said(self) -> str:
        """What its first boot and its service printed."""
        service = self.root / "var/log/farshore.log"
        return self._log.read_text() + (service.read_text() if service.exists() else "")


@contextlib.contextmanager
def booted(
    folder: Path, user_data: str, runs_in: Sequence[str], shared: Sequence[Path], **variables: str
) -> Iterator[Booted]:
    """Boot it once. ``runs_in``: what to put before a command so that it runs in its network; ``shared``: folders of
    this host that it sees and writes to; ``variables``: of its environment. Everything of it ends with the context."""
    upper, log = folder / "layer", folder / "console.log"
    folder.mkdir()
    upper.mkdir()
    (folder / "user-data").write_text(user_data)
    (folder / "as-cloud-init.py").write_text(AS_CLOUD_INIT)
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    binds = "\n".join(f"mount --bind {shlex.quote(str(one))} root{shlex.quote(str(one))}" for one in shared)
    script = textwrap.dedent("""\
        set -eu
        cd {folder}
        mount -t tmpfs none layer
        mkdir layer/up layer/work root
        mount -t overlay -o lowerdir=/,upperdir=layer/up,workdir=layer/work none root
        for one in proc sys dev; do mount --rbind /$one root/$one; done
        {binds}
        mkdir -p root/usr/local/sbin
        cp systemctl root/usr/local/sbin/systemctl
        cp user-data as-cloud-init.py root/run/
        chroot root /usr/bin/python3 /run/as-cloud-init.py /run/user-data
        rm root/run/user-data
        sleep infinity
    """).format(folder=shlex.quote(str(folder)), binds=binds)
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | variables
    environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    command = [*runs_in, "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "sh", "-c", script], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield Booted(log, Path(f"/proc/{_child(process.pid)}/root{folder}/root"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # unshare's child is the first process of all others there
        process.wait()


def _child(process: int) -> int:
    """The process that sees the machine's files."""
    for _ in range(200):
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        if found:
            return int(found[0])
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("the machine does not start")
