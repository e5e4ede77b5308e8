"""What to type to bring the mobility service to a machine, and to take it away, without SSH from the server.

The commands are the steps of a push installation (protection/push/install.py), with the same folders.
"""

from __future__ import annotations

import shlex

ARCHIVE = "farshore-agent.tar.gz"
UNIT = "farshore-mobility"
PROGRAM = "/opt/farshore/current/bin/farshore-mobility"
STAYS = ("/opt/farshore", "/etc/farshore", "/var/lib/farshore-mobility")
"""The releases; the options and hooks; the state: certificate, key and the .hrl file (512 MiB by default)."""


def installation(server_url: str, fingerprint: str) -> list[tuple[str, list[str]]]:
    """Where to type what, in order. The token is no part of it: the agent reads it from its standard input."""
    enrol = [PROGRAM, "enroll", "--server", server_url, "--authority-fingerprint", fingerprint]
    return [
        ("On this server's host", [f"farshore machine package --output {ARCHIVE}", f"scp {ARCHIVE} root@MACHINE:"]),
        (
            "On the machine, as root",
            [
                "mkdir -p /opt/farshore/releases /etc/farshore/app-consistent.d",
                f"tar -xzf {ARCHIVE} -C /opt/farshore/releases",
                f'ln -sfn "releases/$(tar -tzf {ARCHIVE} | head -n 1 | cut -d / -f 1)" /opt/farshore/current',
                f"install -m 0644 /opt/farshore/current/{UNIT}.service /etc/systemd/system/",
                "systemctl daemon-reload",
                f"{PROGRAM} check --reach {shlex.quote(server_url)}",
                f"{shlex.join(enrol)}   # then type the token, Enter",
                f"systemctl enable --now {UNIT}",
            ],
        ),
    ]


def removal() -> list[str]:
    """What to type on the machine, as root."""
    return [
        f"systemctl disable --now {UNIT}",
        f"rm -f /etc/systemd/system/{UNIT}.service && systemctl daemon-reload",
        f"rm -rf {' '.join(STAYS)}",
    ]
