"""A registered master target: it reports every other second, and does what the answers name."""

from __future__ import annotations

import contextlib
import logging
import threading
from importlib.metadata import version
from pathlib import Path

from farshore.api_types.master_targets import MOST_HELD, MasterTargetRegistration, MasterTargetReport
from farshore.backoff import Backoff
from farshore.client.credentials import Credentials
from farshore.client.master_target_self import MasterTargetSelf
from farshore.client.transport import Transport
from farshore.clock import SystemClock
from farshore.master_target.errand_process import ErrandProcess
from farshore.master_target.errands import Errands
from farshore.master_target.identity import Renewal
from farshore.model.errors import FarshoreError, TryLater

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def serve(path: Path, url: str, state: Path, stopping: threading.Event) -> None:
    """Serve with the credentials at ``path`` until ``stopping`` is set. ``url``: another configuration server that
    replaced the one in the credentials; otherwise empty. Raises the error of a refused registration."""
    control = MasterTargetSelf(Transport.from_credentials(Credentials.load(path), url or None))
    with contextlib.closing(control):
        registration = MasterTargetRegistration(version=version("farshore"))
        backoff = Backoff(_PAUSE, _LONGEST_PAUSE)
        given = None
        while given is None:
            try:
                given = control.register(registration)
            except TryLater as error:
                log.warning("The configuration server does not answer yet: %s", error)
                if stopping.wait(backoff.pause()):
                    return
        errands = Errands(control, given.vault_url, given.upkeep_key, state, ErrandProcess)
        renewal = Renewal(path, control, SystemClock())
        threading.Thread(target=renewal.run, args=(stopping,), name="renewal", daemon=True).start()
        log.info("Registered; the vault is %s.", given.vault_url)
        try:
            _report(control, errands, registration.version, stopping)
        finally:
            errands.stop()


def _report(control: MasterTargetSelf, errands: Errands, release: str, stopping: threading.Event) -> None:
    silent = False
    while not stopping.is_set():
        try:
            said = MasterTargetReport(version=release, host=_running_system(), holds=errands.held()[:MOST_HELD])
            orders = control.report(said)
        except FarshoreError as error:
            if not silent:
                log.warning("The configuration server does not accept reports: %s", error)
            silent = True
        else:
            silent = False
            errands.forget(orders.forget)
            errands.offered(orders.errands)
        stopping.wait(REPORT_SECONDS)


def _running_system() -> str:
    """Return an id of the running system: two programs with the same id share their disks."""
    with contextlib.suppress(OSError):
        return _BOOT.read_text().strip()
    return ""
