"""Examine a machine before anything is copied there: what it is, and what prevents its protection."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from farshore.api_types.body import clean_line
from farshore.api_types.machines import CheckSeverity, Finding
from farshore.model.errors import NoSpace, Refused, Unsupported
from farshore.protection.push.bundle import NEWEST, OLDEST, PythonVersion
from farshore.protection.push.shell import RemoteShell

NEEDED_KIB = 300 << 10
SURVEY = """\
echo system=$(uname -s)
echo user=$(id -u)
echo architecture=$(uname -m)
echo kernel=$(uname -r)
[ -e /sys/kernel/btf/vmlinux ] && echo btf=yes
command -v systemctl >/dev/null && [ -d /run/systemd/system ] && echo systemd=yes
for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9; do
  command -v $p >/dev/null && echo python=$($p -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
done
mkdir -p /opt
echo space=$(df -Pk /opt | awk 'NR==2 {print $4}')
echo temporary=$(df -Pk /tmp | awk 'NR==2 {print $4}')
echo release=$(readlink /opt/farshore/current 2>/dev/null)
exit 0
"""


_WINDOWS = re.compile(
    r"is not recognized as an internal or external command|CommandNotFoundException|Microsoft Windows|is not valid here"
)
"""What the shells of Windows answer to ``sh``."""


@dataclass(frozen=True)
class Survey:
    """``release`` is the installed release, or empty. ``btf`` False: the service will have to scan."""

    kernel: str
    python: PythonVersion
    btf: bool
    release: str


async def survey(shell: RemoteShell, host: str, user: str) -> Survey:
    """Examine the machine. Raises Refused (no root), Unsupported (architecture, Python, no systemd), NoSpace."""
    try:
        text = await shell.run(SURVEY, "A first look around")
    except Refused as error:
        if _WINDOWS.search(error.message):
            raise _not_linux(host, "Windows") from error
        if user == "root":
            raise
        raise Refused(
            f"{user} cannot become root on {host} without a password.",
            remedy=f"Allow it (visudo: {user} ALL=(ALL) NOPASSWD: ALL), or log in as root.",
        ) from error
    return read_survey(text, host)


def read_survey(text: str, host: str) -> Survey:
    """Return the survey's output as a value; raises as ``survey`` does."""
    facts: dict[str, str] = {}
    pythons: list[PythonVersion] = []
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "python" and value.count(".") == 1:
            major, minor = value.split(".")
            pythons.append((int(major), int(minor)))
        else:
            facts[name] = clean_line(value).strip()
    if facts.get("system", "Linux") != "Linux":
        raise _not_linux(host, facts["system"])
    if facts.get("user") != "0":
        raise Refused(f"The login on {host} is not root.", remedy="Log in as root, or as a user with sudo.")
    if facts.get("architecture") != "x86_64":
        raise Unsupported(
            f"{host} is {facts.get('architecture')}; the mobility service runs on x86_64.",
            remedy="This machine cannot be protected by this release.",
        )
    usable = next((version for version in pythons if OLDEST <= version <= NEWEST), None)
    if usable is None:
        raise Unsupported(
            f"{host} has no Python version that the mobility service supports (found: {_listed(pythons)}).",
            remedy="Install Python 3.9 or newer there, for example: apt-get install python3",
        )
    if facts.get("systemd") != "yes":
        raise Unsupported(
            f"{host} does not run systemd.", remedy="Install the mobility service by hand: farshore token create"
        )
    for place, folder in (("space", "/opt"), ("temporary", "/tmp")):  # noqa: S108 - on that machine
        if int(facts.get(place) or 0) < NEEDED_KIB:
            raise NoSpace(f"{folder} on {host} has less than {NEEDED_KIB >> 10} MiB free.", remedy="Free space there.")
    release = facts.get("release", "").rsplit("/", 1)[-1]
    return Survey(facts.get("kernel", ""), usable, facts.get("btf") == "yes", release)


@dataclass(frozen=True)
class Troubles:
    """The findings of the agent's own check, a sentence each, with its remedy."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def read_findings(text: str) -> Troubles:
    """Return the output of ``farshore-mobility check``. Raises Refused if it is invalid."""
    try:
        found = [Finding.model_validate(one) for one in json.loads(text)["findings"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"The check's answer cannot be read: {text[-300:]!r}", remedy="Run `farshore-mobility check` there by hand."
        ) from error
    told = [(one.severity, f"{one.subject}: {one.message} ({one.remedy})") for one in found]
    return Troubles(
        tuple(text for severity, text in told if severity is CheckSeverity.ERROR),
        tuple(text for severity, text in told if severity is CheckSeverity.WARNING),
    )


def _not_linux(host: str, system: str) -> Unsupported:
    return Unsupported(
        f"{host} runs {system}; Farshore protects Linux machines only.",
        remedy="Protect it with another product, or protect its data where it is stored.",
    )


def _listed(pythons: list[PythonVersion]) -> str:
    return ", ".join(f"{major}.{minor}" for major, minor in pythons) or "none"
