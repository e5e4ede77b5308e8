"""Debian's PostgreSQL as its own user, its data on a protected file system; and the same from a recovered one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

USER = "postgres"
FOLDER = "postgresql"
_SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "min_wal_size": "4MB",
    "max_wal_size": "16MB",
    "checkpoint_timeout": "30s",
}


def programs() -> Path:
    """The folder of the newest PostgreSQL's programs. Raises FileNotFoundError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise FileNotFoundError("PostgreSQL is not installed; `make setup-tests` installs it")
    return found[-1].parent


def make(folder: Path) -> None:
    """A new cluster below a mounted file system."""
    data = folder / FOLDER
    data.mkdir(mode=0o700)
    shutil.chown(data, USER, USER)
    _as_owner("initdb", "-D", str(data), "--wal-segsize=1", "--auth=trust", "--no-locale", "-E", "UTF8", "-k")


@contextlib.contextmanager
def running(folder: Path, connections: int = 8) -> Iterator[Path]:
    """The cluster below ``folder``, started; the folder of its socket."""
    data = folder / FOLDER
    with tempfile.TemporaryDirectory(prefix="fire-pg-") as name:
        socket = Path(name)
        shutil.chown(socket, USER, USER)
        settings = {**_SETTINGS, "unix_socket_directories": str(socket), "max_connections": str(connections)}
        options = " ".join(f"-c {key}='{value}'" for key, value in settings.items())
        log = socket / "log"
        try:
            _as_owner("pg_ctl", "-D", str(data), "-w", "-t", "60", "-l", str(log), "-o", options, "start")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text() if log.exists() else ''}") from None
        try:
            yield socket
        finally:
            _as_owner("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")


def recovered_rows(folder: Path) -> list[str]:
    """The ledger's rows in a recovered cluster, once PostgreSQL has checked it. Raises AssertionError."""
    # On the machine that this was copied from, that process lives.
    (folder / FOLDER / "postmaster.pid").unlink(missing_ok=True)
    with running(folder) as socket:
        where = ["-h", str(socket), "-d", USER]
        _as_owner("pg_amcheck", *where, "--no-dependent-toast", "-t", "ledger")
        return _as_owner("psql", *where, "-Atc", "SELECT n || ' ' || word FROM ledger ORDER BY n").split("\n")[:-1]


def prepare(socket: Path) -> None:
    """The table that the ledger writes."""
    statements = "CREATE EXTENSION amcheck; CREATE TABLE ledger (n bigint PRIMARY KEY, word text NOT NULL)"
    _as_owner("psql", "-h", str(socket), "-d", USER, "-qc", statements)


def _as_owner(program: str, *arguments: str) -> str:
    command = ["runuser", "-u", USER, "--", str(programs() / program), *arguments]
    # Not through a pipe alone: the server that pg_ctl starts would keep it open.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, cwd="/")
        said.seek(0)
        text = said.read().decode(errors="replace")
    assert done.returncode == 0, f"{program}: {done.returncode}: {text}"
    return text
