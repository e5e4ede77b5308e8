"""The commands that install and remove the mobility service by hand, for machines that the server cannot reach by SSH.

They are the steps of a push installation (protection/push/install.py), and use the same folders.
"""

from __future__ import annotations

import shlex

ARCHIVE = "farshore-agent.tar.gz"
UNIT = "farshore-mobility"
PROGRAM = "/opt/farshore/current/bin/farshore-mobility"
STAYS = ("/opt/farshore", "/etc/farshore", "/var/lib/farshore-mobility")
"""What stays on a machine: releases; options and hooks; state with certificate, key and .hrl file (512 MiB by
default)."""


def installation(server_url: str, fingerprint: str) -> list[tuple[str, list[str]]]:
    """Return (where, commands) in order. They do not contain the token: the agent reads it from standard input."""
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
                f"{shlex.join(enrol)}   # then type the token and press Enter",
                f"systemctl enable --now {UNIT}",
            ],
        ),
    ]


def removal() -> list[str]:
    """Return the commands that remove the agent, to be run on the machine as root."""
    return [
        f"systemctl disable --now {UNIT}",
        f"rm -f /etc/systemd/system/{UNIT}.service && systemctl daemon-reload",
        f"rm -rf {' '.join(STAYS)}",
    ]
