"""Bring the mobility service to a machine, enrol it and start it. Every step may be repeated.

Releases are side by side in /opt/farshore/releases; /opt/farshore/current points to the one in use, so an upgrade is
one rename. The enrolment token goes to the agent's standard input, never into an argument list or a file.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from farshore.model.errors import Malformed, Refused, TryLater
from farshore.protection.installation import PushTarget, Reporter
from farshore.protection.push.bundle import UNIT, Bundle, PythonVersion, build_bundle, default_cache
from farshore.protection.push.shell import Connect, RemoteShell
from farshore.protection.push.ssh import connect as by_ssh
from farshore.protection.push.survey import read_findings, survey

_DEVICE = re.compile(r"/dev/[0-9A-Za-z][0-9A-Za-z._:+@=/-]*")
PROGRAM = "/opt/farshore/current/bin/farshore-mobility"
_UNPACK = """\
set -eu
umask 022
mkdir -p /opt/farshore/releases
rm -rf /opt/farshore/releases/.new
mkdir /opt/farshore/releases/.new
tar -xzf {archive} -C /opt/farshore/releases/.new
rm -f {archive}
rm -rf /opt/farshore/releases/{release}
mv /opt/farshore/releases/.new/{release} /opt/farshore/releases/{release}
rmdir /opt/farshore/releases/.new
ln -sfn releases/{release} /opt/farshore/.current
mv -fT /opt/farshore/.current /opt/farshore/current
"""
_CONFIGURE = """\
set -eu
umask 077
mkdir -p /etc/farshore/app-consistent.d
printf 'FARSHORE_OPTIONS="%s"\\n' {options} > /etc/farshore/mobility.conf
install -m 0644 /opt/farshore/current/{unit} /etc/systemd/system/{unit}
systemctl daemon-reload
"""
_START = """\
set -eu
systemctl enable --quiet {unit}
systemctl restart {unit}
cd /opt/farshore/releases
for old in *; do [ "$old" = {release} ] || rm -rf "$old"; done
"""


class PushInstaller:
    """A protection.installation.Installer; ``cache`` is where bundles are kept. ``bundles`` gets them from elsewhere.
    ``connect``: the way to the machine."""

    def __init__(
        self,
        cache: Path | None = None,
        bundles: Callable[[PythonVersion], Bundle] | None = None,
        connect: Connect = by_ssh,
    ) -> None:
        self._connect = connect
        self._bundles = bundles or (lambda python: build_bundle(python, cache or default_cache()))

    def __call__(self, target: PushTarget, report: Reporter) -> str:
        """Install on the target and report progress to ``report``; return the fingerprint of the host's key."""
        return asyncio.run(self.install(target, report))

    async def install(self, target: PushTarget, report: Reporter) -> str:
        """Return the same, in a task. If it is cancelled, it closes the connection."""
        report(0.0, f"connecting to {target.host}")
        async with self._connect(target) as shell:
            report(0.1, "looking around")
            found = await survey(shell, target.host, target.user)
            report(0.2, f"making the bundle for Python {found.python[0]}.{found.python[1]}")
            bundle = await self._bundle(found.python)
            if found.release != bundle.release:
                report(0.4, "copying the bundle")
                await self._bring(shell, bundle)
            options = _options(target.disks)
            configure = _CONFIGURE.format(options=shlex.quote(options), unit=UNIT)
            await shell.run(configure, "Configuring the mobility service")
            await self._check(shell, options, target, report)
            report(0.7, "enrolling")
            enrol = [PROGRAM, *options.split(), "enroll", "--server", target.server_url]
            enrol += ["--authority-fingerprint", target.authority_fingerprint, "--release-key", target.release_key]
            await shell.run_with_input(shlex.join(enrol), target.token + "\n", "Enrolling the machine")
            report(0.9, "starting the mobility service")
            await shell.run(_START.format(unit=UNIT, release=bundle.release), "Starting the mobility service")
            report(1.0, "the mobility service runs")
            return shell.fingerprint

    async def _bundle(self, python: PythonVersion) -> Bundle:
        """Return the bundle; repeat the request as long as its maker says TryLater. There is no separate time limit:
        the push has one, and cancelling the push ends this too."""
        while True:
            try:
                return await asyncio.to_thread(self._bundles, python)
            except TryLater as error:
                if not error.after:
                    raise
                await asyncio.sleep(error.after)

    async def _check(self, shell: RemoteShell, options: str, target: PushTarget, report: Reporter) -> None:
        """Check the machine before it is enrolled. Raises Refused with every problem that prevents protection."""
        report(0.65, "looking for what cannot be protected")
        command = f"{PROGRAM} {options} check --reach {shlex.quote(target.server_url)}"
        found = read_findings(await shell.run(command, "Checking the machine"))
        if found.errors:
            raise Refused(
                f"{target.host} cannot be protected as it is: {' '.join(found.errors)}",
                remedy="Fix each of these, or select disks with --disk. Then add the machine again.",
            )
        if found.warnings:
            report(0.67, f"warnings: {' '.join(found.warnings)}")

    async def _bring(self, shell: RemoteShell, bundle: Bundle) -> None:
        folder = (await shell.run("mktemp -d /tmp/farshore-XXXXXXXX", "Making room", as_root=False)).strip()
        archive = f"{folder}/{bundle.path.name}"
        await shell.upload(bundle.path, archive)
        unpack = _UNPACK.format(archive=shlex.quote(archive), release=bundle.release)
        await shell.run(unpack + f"rmdir {shlex.quote(folder)}\n", "Unpacking the bundle")


def _options(disks: Sequence[str]) -> str:
    """Return the agent's options. They go into the environment file of a root service, so none may contain a line end
    or a quotation mark. Raises Malformed."""
    for disk in disks:
        if not _DEVICE.fullmatch(disk):
            raise Malformed(f"{disk!r} is not the path of a disk.", remedy="Give its path in /dev, such as /dev/vda.")
    return " ".join(f"--disk {disk}" for disk in disks)
