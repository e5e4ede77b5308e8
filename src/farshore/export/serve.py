"""The export process: ``python -m farshore.export.serve FOLDER``, settings as JSON on standard input.

It detaches once it has read them, opens the disks, listens, records that in FOLDER, and serves until SIGTERM. It
depends on no other process of Farshore: a recovered machine runs on it while servers restart.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import ValidationError

from farshore.export.bounded_log import BoundedLog
from farshore.export.device import Device
from farshore.export.hydration import Hydration
from farshore.export.nbd.server import NbdServer
from farshore.export.nbd.tls import server_context
from farshore.export.opening import open_devices
from farshore.export.run_folder import FAILED, READY, ExportState, RunFolder
from farshore.export.settings import ExportSettings
from farshore.model.errors import FarshoreError
from farshore.telemetry.logs import configure

log = logging.getLogger(__name__)

_REPORT_SECONDS = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Read settings, detach, serve. Returns 0 once detached; the folder contains the further result."""
    (folder,) = arguments if arguments is not None else sys.argv[1:]
    run = RunFolder(Path(folder))
    try:
        settings = ExportSettings.model_validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        run.report(
            ExportState(FAILED, "malformed", f"The settings are wrong at {fields}.", "Upgrade Farshore as a whole.")
        )
        return 2
    # Held over the fork, so that the folder is never seen unclaimed while we start.
    if not run.claim():
        log.warning("Another process exports this folder already.")
        return 0
    if os.fork():
        return 0
    os.setsid()
    run.sign()
    configure("farshore-export", handler=BoundedLog(run.log))
    os._exit(serve(settings, run))


def serve(settings: ExportSettings, run: RunFolder) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    devices: dict[str, Device] = {}
    try:
        devices = open_devices(settings)
        server = NbdServer(devices, default=settings.disks[0].name)
        server.listen_unix(settings.socket, 0o666 if settings.shared else 0o600)
        if settings.tls is not None:
            shown = settings.tls
            context = server_context(shown.authority, shown.certificate, shown.key.get_secret_value())
            server.listen_tls(context, settings.address, settings.port)
        elif settings.port:
            server.listen_loopback(settings.port, settings.address)
    except (FarshoreError, OSError) as error:
        log.error("The export cannot be opened: %s", error)
        run.report(_failure(error))
        _close(devices)
        return 1
    server.start()
    hydration = Hydration(devices, settings.hydrate_rate)
    said: ExportState | None = None
    while True:
        if run.hydration_wanted:
            hydration.start()
        state = ExportState(READY, hydrated=hydration.done, total=hydration.total)
        if state != said:
            run.report(state)
            said = state
        if stop.wait(_REPORT_SECONDS):
            break
    log.info("The export ends.")
    hydration.stop()
    if not server.close():
        log.warning("Some requests did not end in time.")
    settings.socket.unlink(missing_ok=True)
    return 0 if _close(devices) else 1


def _close(devices: dict[str, Device]) -> bool:
    sound = True
    for name, device in devices.items():
        try:
            device.close()
        except (FarshoreError, OSError) as error:
            log.error("Disk %s could not be closed properly: %s", name, error)
            sound = False
    return sound


def _failure(error: FarshoreError | OSError) -> ExportState:
    if isinstance(error, FarshoreError):
        return ExportState(FAILED, error.code, error.message, error.remedy)
    return ExportState(FAILED, "try-later", str(error), "Remove the cause, then try again.")


if __name__ == "__main__":
    sys.exit(main())
