"""What a temporary process server carries out when it first starts: user data for cloud-init. Pure.

It is JSON, which is YAML. Whoever administers the site can read it, so it has one secret, a token that is good once;
its copy on the machine goes as soon as the server has enrolled, or cannot.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from farshore.sites.port import ServerSoftware

PORT = 9443
SETTINGS = "/etc/farshore/process-server.toml"
_TOKEN = "/run/farshore-token"  # noqa: S105 - the name of a file
_UNIT = "farshore-process-server.service"
_TRIES = 90
_SCRIPT = """\
umask 022
trap 'rm -f {token}' EXIT
python3 -m venv /opt/farshore
/opt/farshore/bin/pip install --no-input --disable-pip-version-check {package}
server=/opt/farshore/bin/farshore-process-server
try=0
until "$server" --settings {settings} enroll --server {url} --authority-fingerprint {fingerprint} < {token}; do
  try=$((try + 1))
  [ "$try" -lt {tries} ]
  sleep 10
done
systemctl daemon-reload
systemctl enable --now {unit}
"""


@dataclass(frozen=True)
class Invitation:
    """Where the server enrols, with what, and where it is reached then: URLs."""

    server_url: str
    fingerprint: str
    own_url: str
    token: str = field(repr=False)


def user_data(software: ServerSoftware, invitation: Invitation) -> str:
    """The whole text."""
    settings = f"url = {json.dumps(invitation.own_url)}\nport = {PORT}\n"
    written = [
        _file(_TOKEN, f"{invitation.token}\n", "0600"),
        _file(SETTINGS, settings, "0644"),
        _file(f"/etc/systemd/system/{_UNIT}", unit(), "0644"),
    ]
    if software.environment:
        lines = "".join(f"{name}={value}\n" for name, value in sorted(software.environment.items()))
        written.append(_file("/etc/farshore/store.env", lines, "0600"))
    script = _SCRIPT.format(
        token=_TOKEN,
        package=shlex.quote(software.package),
        settings=SETTINGS,
        url=shlex.quote(invitation.server_url),
        fingerprint=shlex.quote(invitation.fingerprint),
        tries=_TRIES,
        unit=_UNIT,
    )
    content: dict[str, Any] = {
        "package_update": True,
        "packages": ["python3-venv"],
        "write_files": written,
        "runcmd": [["sh", "-euc", script]],
    }
    return f"#cloud-config\n{json.dumps(content, indent=1)}\n"


def unit() -> str:
    """The systemd unit of a process server of its own."""
    return (files("farshore.recovery") / _UNIT).read_text()


def _file(path: str, content: str, permissions: str) -> dict[str, str]:
    return {"path": path, "owner": "root:root", "permissions": permissions, "content": content}
