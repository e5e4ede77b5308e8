"""``farshore-process-server``: wiring only. Settings are read, the configuration server is asked, parts are made."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import sys
import threading
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from farshore.api_types.servers import ProcessServerSettings, Registration
from farshore.client.credentials import Credentials
from farshore.client.process_server_self import ProcessServerSelf
from farshore.client.transport import Transport
from farshore.model.errors import FarshoreError, TryLater
from farshore.process_server.allocator import keep_freed_memory
from farshore.process_server.listening.peer import server_context
from farshore.process_server.server import ProcessServer
from farshore.process_server.settings import Settings, load_settings
from farshore.process_server.spool.disk import SpoolDisk
from farshore.telemetry import logs
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

_log = logging.getLogger(__name__)
_SOFTWARE = 70
"""EX_SOFTWARE of sysexits.h."""
_REGISTER_PAUSE = 1.0
_LONGEST_REGISTER_PAUSE = 15.0


def main() -> int:
    """Run until SIGTERM or SIGINT. The exit status is that of the error that ended it, if one did."""
    parser = argparse.ArgumentParser(description="Receives machines' streams, stores them in the vault.")
    parser.add_argument("--settings", type=Path, help="TOML file; FARSHORE_PROCESS_SERVER_* variables win over it")
    try:
        settings = load_settings(parser.parse_args().settings)
    except ValidationError as error:
        sys.stderr.write(f"The settings are not valid: {error}\n")
        return 2
    logs.configure("process-server", level=settings.log_level)
    threading.excepthook = _end_at_once
    keep_freed_memory()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        return _run(settings, stopping)
    except FarshoreError as error:
        _log.critical("%s", error)
        return error.exit_status


def _end_at_once(failure: threading.ExceptHookArgs) -> None:
    """A thread has died of a mistake of ours. Starting anew is the one path that is tested for that: what was
    acknowledged is in the spool, and the supervisor starts us again."""
    name = failure.thread.name if failure.thread is not None else "a thread"
    error = failure.exc_value or failure.exc_type()
    _log.critical("%s failed; the process server starts anew.", name, exc_info=error)
    os._exit(_SOFTWARE)


def _run(settings: Settings, stopping: threading.Event) -> int:
    credentials = Credentials.load(settings.credentials)
    url = settings.url or f"https://{socket.getfqdn()}:{settings.port}"
    control = ProcessServerSelf(Transport.from_credentials(credentials))
    registration = Registration(url=url, version=version("farshore"))
    given = _register(control, registration, stopping)
    if given is None:
        return 0
    vault = Vault.open_with_vault_key(open_store(given.vault_url), bytes.fromhex(given.vault_key))
    server = ProcessServer(
        control,
        vault,
        given,
        SpoolDisk(settings.state / "spool"),
        server_context(credentials.authority, credentials.certificate, credentials.key, settings.ciphers),
        settings.listen,
        settings.port,
        registration.version,
        url=url,
        workers=settings.workers,
        uploads=settings.uploads,
        spool_file_bytes=settings.spool_file_bytes,
    )
    server.start()
    # What exists now stays. Without this the collector walks all of it again and again while batches come and go
    # (measured: a tenth of the CPU under load); what a request leaves behind has no cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    host, port = server.listener.address
    _log.info("Listening on %s port %d; the vault is %s.", host, port, given.vault_url)
    if settings.ready_file is not None:
        settings.ready_file.write_text(f"{host} {port}\n")
    stopping.wait()
    _log.info("Stopping.")
    server.stop()
    control.close()
    return 0


def _register(
    control: ProcessServerSelf, registration: Registration, stopping: threading.Event
) -> ProcessServerSettings | None:
    """The settings and the vault key, as soon as the configuration server answers; None where we are told to stop."""
    pause = _REGISTER_PAUSE
    while not stopping.is_set():
        try:
            return control.register(registration)
        except TryLater as error:
            _log.warning("The configuration server does not answer yet: %s", error)
            stopping.wait(pause)
            pause = min(_LONGEST_REGISTER_PAUSE, pause * 2)
    return None


if __name__ == "__main__":
    sys.exit(main())
