"""``farshore support-bundle``: state and logs for support in one file, without secrets.

It works while the servers are down: parts that cannot be fetched are listed in the bundle. Keys, credentials, the
catalog, the vault and consoles of recovered machines are never in it. All text passes through ``redaction``.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from farshore import __version__
from farshore.cli.connection import AsJson, home, management
from farshore.cli.output import print_done
from farshore.cli.redaction import Redaction
from farshore.model.errors import FarshoreError, Refused

Fetch = Callable[[str], bytes]
"""Sends a GET to the API and returns the body. Raises FarshoreError."""
_ASKED = {
    "status": "/v1/status",
    "machines": "/v1/machines",
    "process-servers": "/v1/process-servers",
    "master-targets": "/v1/master-targets",
    "policies": "/v1/policies",
    "sites": "/v1/sites",
    "failovers": "/v1/failovers",
    "jobs": "/v1/jobs",
    "alerts": "/v1/alerts?all=true",
    "alert-channels": "/v1/alert-channels",
    "events": "/v1/events?newest=true&limit=2000",
    "vault": "/v1/vault",
    "metrics": "/v1/metrics",
}
_RUN = {
    "system/uname": ["uname", "-a"],
    "system/df": ["df", "-P", "-T"],
    "system/memory": ["free", "-m"],
    "system/addresses": ["ip", "-brief", "address"],
    "system/listening": ["ss", "-ltn"],
    "system/clock": ["timedatectl"],
    "system/services": ["systemctl", "status", "--no-pager", "--lines=0", "farshore*"],
    "system/journal": ["journalctl", "--no-pager", "--lines=5000", "--unit=farshore*"],
    "system/agent": ["farshore-mobility", "status"],
}
_SETTINGS = ("configuration-server.toml", "process-server/settings.toml", "master-target/settings.toml")
_LOGS = ("*.log", "*.log.1", "process-server/*.log", "failovers/*/export.log", "failovers/*/*/export.log")
_SECRETS = (
    "*.key",
    "admin.json",
    "*/credentials.json",
    "pki/**/*.json",
    "pki/**/*.pem",
    "pki/**/*.key",
    "release/*.key",
)
_MOST_LOG = 8 << 20
_MOST_CHECKED = 50
_SECONDS = 20


def support_bundle(
    output: Annotated[Path | None, typer.Argument(help="File to write. Default: farshore-support-TIME.tar.gz.")] = None,
    as_json: AsJson = False,
) -> None:
    """Collect state and logs of this installation in one file, with secrets removed.

    It contains names and addresses of your machines. Review it before you send it.
    """
    path = output or Path(f"farshore-support-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz")
    problems = write_bundle(path, home(), _fetch())
    told = f"Wrote {path}. It contains names and addresses of your machines: review it before you send it."
    if problems:
        told += f" Missing parts (see problems.txt in it): {', '.join(problems)}."
    print_done(told, as_json, output=str(path), problems=problems)


def write_bundle(path: Path, folder: Path, fetch: Fetch) -> list[str]:
    """Write the bundle of the installation in ``folder``, and return the names of missing parts. Raises Refused if the
    file exists."""
    redact = Redaction(_known(folder))
    problems: dict[str, str] = {}
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(f"{path} cannot be written ({error.strerror}).", remedy="Give another name.") from error
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, text in _parts(folder, fetch, problems):
            _add(bundle, name, _redacted(redact, name, text))
        _add(bundle, "problems.txt", redact("".join(f"{name}: {why}\n" for name, why in problems.items())))
    return list(problems)


def _parts(folder: Path, fetch: Fetch, problems: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield "version.txt", f"farshore {__version__}\n"
    machines = "[]"
    for name, place in _ASKED.items():
        try:
            text = fetch(place).decode(errors="replace")
        except FarshoreError as error:
            problems[f"api/{name}"] = str(error)
            continue
        machines = text if name == "machines" else machines
        yield f"api/{name}.{'txt' if name == 'metrics' else 'json'}", text
    for machine in _ids(machines)[:_MOST_CHECKED]:
        try:
            yield f"api/checks/{machine}.json", fetch(f"/v1/machines/{machine}/check").decode(errors="replace")
        except FarshoreError as error:
            problems[f"api/checks/{machine}"] = str(error)
    files = [folder / name for name in _SETTINGS if (folder / name).is_file()]
    files += sorted({found for pattern in _LOGS for found in folder.glob(pattern)})
    for file in files:
        try:
            yield f"files/{file.relative_to(folder)}", _tail(file)
        except OSError as error:
            problems[str(file)] = str(error)
    for name, command in _RUN.items():
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            problems[name] = str(error)
            continue
        yield f"{name}.txt", (done.stdout + done.stderr).decode(errors="replace")


def _redacted(redact: Redaction, name: str, text: str) -> str:
    if name.endswith(".json"):
        try:
            return json.dumps(redact.document(json.loads(text)), indent=1)
        except ValueError:  # then it is text
            pass
    return redact(text)


def _known(folder: Path) -> Iterator[str]:
    """Yield the secrets in the installation's files: each line and each JSON string."""
    for place in {place for pattern in _SECRETS for place in folder.glob(pattern)}:
        try:
            text = place.read_text(errors="replace")
        except OSError:  # the user may not read it, so nothing below contains it
            continue
        if "CERTIFICATE-----" in text and "PRIVATE KEY-----" not in text:
            continue
        yield from (line.strip() for line in text.splitlines() if "-----" not in line and "CERTIFICATE" not in line)


def _ids(machines: str) -> list[str]:
    try:
        return [str(one["id"]) for one in json.loads(machines)]
    except (ValueError, KeyError, TypeError):
        return []


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MOST_LOG))
        return file.read(_MOST_LOG).decode(errors="replace")


def _add(bundle: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode(errors="replace")
    member = tarfile.TarInfo(f"farshore-support/{name}")
    member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
    bundle.addfile(member, io.BytesIO(data))


def _fetch() -> Fetch:
    try:
        transport = management().transport
    except FarshoreError as error:
        failed = error

        def nothing(_place: str) -> bytes:
            raise failed

        return nothing
    return lambda place: transport.request("GET", place)
