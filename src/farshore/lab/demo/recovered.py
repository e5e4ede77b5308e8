"""Examine a recovered machine from outside: does its database answer, is it complete, what does it hold?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from farshore.lab.command import HOST_SEEN_FROM_GUEST
from farshore.lab.counter import Database, rows
from farshore.lab.image import GuestImage
from farshore.lab.shell import Shell
from farshore.model.errors import Unreachable

ANSWER_SECONDS = 300.0
_AS_OWNER = "cd /tmp && runuser -u postgres --"
_DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
"""template0 is omitted: nobody may connect to it, nor write to it."""


@dataclass(frozen=True)
class Checked:
    """What pg_amcheck checked; ``complaint`` is empty if everything is clean."""

    databases: tuple[str, ...]
    complaint: str


class Recovered:
    """A machine that a failover brought up, behind two ports of this host."""

    def __init__(self, image: GuestImage, ssh: int, database: int) -> None:
        self._image = image
        self._ssh = ssh
        self.database = Database(database, image.database_password())

    def wait_for_rows(self, seconds: float = ANSWER_SECONDS) -> list[int]:
        """Return the counter's rows, as soon as PostgreSQL has recovered. Raises Unreachable."""
        end = time.monotonic() + seconds
        while True:
            try:
                return rows(self.database)
            except Unreachable:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def shell(self) -> Shell:
        """Open root's shell in it. The caller closes it."""
        shell = Shell(self._ssh, self._image.ssh_key, self._image.host_key)
        shell.wait(ANSWER_SECONDS)
        return shell

    def check_databases(self) -> Checked:
        """Check every table and index of every database with pg_amcheck, including the catalogs."""
        with self.shell() as shell:
            listed = shell.run(f'{_AS_OWNER} psql -XAtc "{_DATABASES}"')
            # pg_amcheck would skip a database without the extension with only a warning.
            done = shell.run(
                f"{_AS_OWNER} /usr/lib/postgresql/15/bin/pg_amcheck "
                "--all --install-missing --heapallindexed --jobs=2 2>&1",
                check=False,
                seconds=ANSWER_SECONDS,
            )
        said = done.output.strip()
        clean = done.status == 0 and "skipping database" not in said
        return Checked(tuple(listed.output.split()), "" if clean else (said[-400:] or f"status {done.status}"))

    def reaches_host(self, port: int) -> bool:
        """Return whether the machine can open a connection to this host: a rehearsal must not."""
        with self.shell() as shell:
            probe = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{HOST_SEEN_FROM_GUEST}/{port}'"
            return shell.run(probe, check=False, seconds=60).status == 0
