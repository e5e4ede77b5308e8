"""Create or complete an installation: ``python -m farshore.configuration_server.setup``, run by ``farshore up``.

A separate program, because it needs neither the web framework nor the job engine, which take seconds to load.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farshore.clock import SystemClock
from farshore.configuration_server.adopting import adopt, rebuild_catalog
from farshore.configuration_server.backing_up import back_up
from farshore.configuration_server.installation import set_up
from farshore.configuration_server.restoring import opened_backup, restore
from farshore.configuration_server.settings import Settings, checked, from_environment, home_from_environment, load
from farshore.model.errors import FarshoreError, Malformed, NotFound, Refused
from farshore.telemetry import logs

_UNFIT = re.compile(r"[#%?,:;\"'\\\x00-\x1f\x7f]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Set up; the exit status is that of the error's class."""
    options = _parser().parse_args(arguments)
    logs.configure("setup", level="WARNING")
    try:
        _set_up(options)
    except FarshoreError as error:
        if options.json:
            sys.stderr.write(json.dumps(error.as_json()) + "\n")
        else:
            sys.stderr.write(f"Error: {error.message}\nRemedy: {error.remedy}\n")
        return error.exit_status
    return 0


def _set_up(options: argparse.Namespace) -> None:
    """Set up. Raises Refused, with the file, for what the file system of the home does not support."""
    try:
        if options.rebuild_catalog:
            rebuild_catalog(load(options.home), SystemClock())
            return
        if options.back_up is not None:
            _answer(back_up(load(options.home), options.back_up, SystemClock()).as_json())
            return
        if options.show_backup is not None:
            _answer(opened_backup(options.show_backup, options.key).contents.as_json())
            return
        if options.restore is not None:
            restore(_new_home(options.home), options.restore, options.key, _given(options), SystemClock())
            return
        if options.adopt_vault is not None:
            options.vault_url = options.adopt_vault
        settings = _settings(options)
        if options.check_ports:
            _check_ports(settings)
        if options.adopt_vault is not None:
            adopt(settings, options.key, SystemClock())
        else:
            set_up(settings, SystemClock())
    except OSError as error:
        where = error.filename or options.home
        raise Refused(
            f"An installation cannot be in {options.home}: {where}: {error.strerror or error}.",
            remedy="Choose another folder with --home, on a file system that supports it.",
        ) from error


def _answer(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")


def _check_ports(settings: Settings) -> None:
    """Raise Refused if a port is in use, before anything is created or started."""
    for option, port in (("--port", settings.port), ("--process-server-port", settings.process_server_port)):
        family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((settings.listen, port))
                tried.listen()
            except PermissionError as error:
                raise Refused(
                    f"Port {port} is not available: {error.strerror}.",
                    remedy=f"Run as root, or choose a port of 1024 or higher with {option}.",
                ) from error
            except OSError as error:
                raise Refused(
                    f"Port {port} of {settings.listen} is not available: {error.strerror}.",
                    remedy=f"Stop the program that listens there (ss -ltnp 'sport = :{port}'), or choose "
                    f"another port with {option}.",
                ) from error


def _settings(options: argparse.Namespace) -> Settings:
    """Return the installation's settings, overridden by the options."""
    try:
        present = load(options.home).model_dump()
    except NotFound:
        present = {**from_environment(), "home": _new_home(options.home)}
    return checked({**present, **_given(options)})


def _given(options: argparse.Namespace) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(options).items()
        if name in Settings.model_fields and name != "home" and value is not None
    }


def _new_home(home: Path) -> Path:
    """Return the folder of a new installation. It becomes part of URLs and of command lines, so some names are refused.
    Raises Malformed."""
    found = _UNFIT.search(str(home))
    if found is not None or ".." in home.parts:
        raise Malformed(
            f"An installation cannot be in {str(home)!r}: its path contains {found[0] if found else '..'!r} in it.",
            remedy="Choose another folder with --home.",
        )
    return home.absolute()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Creates or completes an installation; omitted options keep their values."
    )
    home = home_from_environment()
    parser.add_argument("--home", type=Path, default=home, help="folder of the installation (FARSHORE_HOME)")
    parser.add_argument("--listen", help="address to listen on")
    parser.add_argument("--port", type=int, help="port of the REST API")
    parser.add_argument("--process-server-port", type=int, help="port of the process server's data plane")
    parser.add_argument(
        "--advertise", action="append", help="a name or address that machines use; they connect to the first"
    )
    parser.add_argument(
        "--standby", action="append", help="https://HOST:PORT where an installation that takes over would be reached"
    )
    parser.add_argument(
        "--master-target", action=argparse.BooleanOptionalAction, help="whether a master target runs beside the others"
    )
    parser.add_argument("--vault-url", help="file:///path, s3://bucket, az://container, gs://bucket")
    parser.add_argument("--catalog-url", help="another database than the SQLite file of the installation")
    parser.add_argument("--adopt-vault", metavar="URL", help="take over the vault of an installation that is lost")
    parser.add_argument("--key", type=Path, help="the vault owner's key file")
    parser.add_argument("--rebuild-catalog", action="store_true", help="rebuild a lost catalog from the vault")
    parser.add_argument("--back-up", type=Path, metavar="FILE", help="write a backup to a new file")
    parser.add_argument("--show-backup", type=Path, metavar="FILE", help="with --key: check a backup")
    parser.add_argument("--restore", type=Path, metavar="FILE", help="with --key: make the installation of a backup")
    parser.add_argument("--check-ports", action="store_true", help="refuse a port that is in use")
    parser.add_argument("--json", action="store_true", help="print an error as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
