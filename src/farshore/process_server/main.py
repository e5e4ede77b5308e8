"""``farshore-process-server``: wiring only. Settings are read, the configuration server is asked, parts are created.

``farshore-process-server enroll`` exchanges a token (on standard input, never an argument) for a certificate; without a
command it runs the server.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from importlib.metadata import version
from pathlib import Path

from farshore.api_types.servers import ProcessServerSettings, Registration, ServerReport
from farshore.backoff import Backoff
from farshore.client.credentials import Credentials
from farshore.client.process_server_self import ProcessServerSelf
from farshore.client.transport import Transport
from farshore.clock import SystemClock
from farshore.model.bandwidth import Bandwidth
from farshore.model.errors import FarshoreError, Malformed, NotFound, TryLater, Unsupported, WrongState
from farshore.process_server.allocator import keep_freed_memory
from farshore.process_server.discovering.discoveries import Discoveries
from farshore.process_server.identity import Renewal, enrol, turn_to
from farshore.process_server.keys import GrantedKeys
from farshore.process_server.listening.peer import server_context
from farshore.process_server.pushing.pushes import Install, Pushes
from farshore.process_server.pushing.releases import Releases
from farshore.process_server.server import Endpoint, OrderHandlers, ProcessServer, StoreUse
from farshore.process_server.settings import Settings, load_settings
from farshore.process_server.spool.disk import SpoolDisk
from farshore.process_server.storing.owner_lookout import OwnerLookout
from farshore.process_server.storing.throttled_store import ThrottledStore
from farshore.process_server.storing.watched_store import WatchedStore
from farshore.protection.installation import PushTarget, Reporter
from farshore.telemetry import logs
from farshore.vault.promises import check_creates_only
from farshore.vault.stores.counted import counted
from farshore.vault.stores.owned import owned
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

_log = logging.getLogger(__name__)
_SOFTWARE = 70
"""EX_SOFTWARE of sysexits.h."""
_REGISTER_PAUSE = 1.0
_LONGEST_REGISTER_PAUSE = 15.0


def main() -> int:
    """Run until SIGTERM or SIGINT. The exit status is that of the error that ended it, if any."""
    options = _parser().parse_args()
    try:
        settings = load_settings(options.settings)
    except FarshoreError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    logs.configure("process-server", level=settings.log_level)
    threading.excepthook = _end_at_once
    keep_freed_memory()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        if options.command == "enroll":
            return _enroll(settings, options)
        return _run(settings, stopping)
    except FarshoreError as error:
        _log.critical("%s", error)
        return error.exit_status


def _end_at_once(failure: threading.ExceptHookArgs) -> None:
    """End the process, because a defect of ours has ended a thread. A restart is the tested path for that: acknowledged
    data is in the spool, and the supervisor starts us again."""
    name = failure.thread.name if failure.thread is not None else "a thread"
    error = failure.exc_value or failure.exc_type()
    _log.critical("%s failed; the process server restarts.", name, exc_info=error)
    os._exit(_SOFTWARE)


def _enroll(settings: Settings, options: argparse.Namespace) -> int:
    if settings.credentials.exists() and not options.again:
        raise WrongState(
            f"{settings.credentials} exists: this server is enrolled.", remedy="Add --again to enrol again."
        )
    token = sys.stdin.readline().strip()
    if not token:
        raise Malformed(
            "There is no token on standard input.", remedy="Make one: farshore process-server add https://HOST:PORT"
        )
    made = enrol(settings.credentials, options.server.rstrip("/"), options.authority_fingerprint, token)
    sys.stdout.write(f"{made.process_server}\n")
    if (settings.url or _own_url(settings)) != made.url:
        sys.stderr.write(f'Machines will look for it at {made.url}: have url = "{made.url}" in its settings.\n')
    return 0


def _own_url(settings: Settings) -> str:
    return f"https://{socket.getfqdn()}:{settings.port}"


def _context(credentials: Credentials, settings: Settings) -> ssl.SSLContext:
    return server_context(credentials.authority, credentials.certificate, credentials.key, settings.ciphers)


def _run(settings: Settings, stopping: threading.Event) -> int:
    credentials = Credentials.load(settings.credentials)
    url = settings.url or _own_url(settings)
    control = ProcessServerSelf(Transport.from_credentials(credentials))
    registration = Registration(url=url, version=version("farshore"))
    given = _register(control, registration, stopping)
    if given is None:
        return 0
    clock = SystemClock()
    bandwidth = Bandwidth(clock)
    requests = counted(open_store(given.vault_url))
    guarded = owned(requests)
    watched = WatchedStore(guarded, clock)
    store = ThrottledStore(watched, bandwidth, stopping)
    keys = GrantedKeys(control, given.upkeep_key, store)
    lookout = OwnerLookout(
        requests,
        keys.upkeep,
        given.generation,
        lambda: control.register(registration).generation,
        (lambda elsewhere: turn_to(elsewhere, settings.credentials, registration, given.generation))
        if settings.follows_vault
        else None,
    )
    guarded.guard = lookout.ownership
    vault = _open_vault(store, keys, settings.state / "chunk-indexes", control, registration, stopping)
    if vault is None:
        return 0
    pushes = Pushes(control, _installing(Releases(control, settings.state / "agent-releases")))
    discoveries = Discoveries(control)
    server = ProcessServer(
        control,
        vault,
        given,
        SpoolDisk(settings.state / "spool"),
        Endpoint(
            _context(credentials, settings),
            settings.listen,
            settings.port,
            url,
            workers=settings.workers,
            connections=settings.connections,
        ),
        registration.version,
        store=StoreUse(
            bandwidth,
            trouble=lambda: watched.trouble or keys.trouble,
            requests=requests,
            check_owner=lookout.refuse_if_displaced,
            uploads=settings.uploads,
        ),
        orders=OrderHandlers(pushes.offered, discoveries.ordered),
        spool_file_bytes=settings.spool_file_bytes,
    )
    server.start()
    users = (control.use, lambda renewed: server.listener.use(_context(renewed, settings)))
    renewal = Renewal(settings.credentials, control, users, clock)
    threading.Thread(target=renewal.run, args=(stopping,), name="renewal", daemon=True).start()
    threading.Thread(target=lookout.run, args=(stopping,), name="owner", daemon=True).start()
    # Objects that exist now remain. Without this the collector visits all of them again and again while batches come
    # and go (measured: a tenth of the CPU under load); requests leave no cycles behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    host, port = server.listener.address
    _log.info("Listening on %s port %d; the vault is %s.", host, port, given.vault_url)
    if settings.ready_file is not None:
        settings.ready_file.write_text(f"{host} {port}\n")
    stopping.wait()
    _log.info("Stopping.")
    pushes.stop()
    discoveries.stop()
    server.stop()
    vault.close()
    control.close()
    return 0


def _installing(releases: Releases) -> Install:
    async def install(target: PushTarget, report: Reporter) -> str:
        # Imported here: SSH's library takes 0.2 s to load, and most process servers never install anything.
        from farshore.protection.push.install import PushInstaller

        return await PushInstaller(bundles=releases).install(target, report)

    return install


def _register(
    control: ProcessServerSelf, registration: Registration, stopping: threading.Event
) -> ProcessServerSettings | None:
    """Return the settings, as soon as the configuration server answers; None if we must stop."""
    backoff = Backoff(_REGISTER_PAUSE, _LONGEST_REGISTER_PAUSE)
    while not stopping.is_set():
        try:
            return control.register(registration)
        except TryLater as error:
            _log.warning("The configuration server does not answer yet: %s", error)
            stopping.wait(backoff.pause())
    return None


def _open_vault(
    store: ThrottledStore,
    keys: GrantedKeys,
    indexes: Path,
    control: ProcessServerSelf,
    registration: Registration,
    stopping: threading.Event,
) -> Vault | None:
    """Return the vault, as soon as its store answers; None if we must stop. The problem is reported meanwhile."""
    backoff = Backoff(_REGISTER_PAUSE, _LONGEST_REGISTER_PAUSE)
    while not stopping.is_set():
        try:
            vault = Vault.with_keys(store, keys, indexes=indexes)
            _check_store(store)
            return vault
        except (TryLater, NotFound) as error:  # not found: the disk of a vault in a folder is not mounted yet
            _log.warning("The vault cannot be opened yet: %s", error)
            trouble = ServerReport(
                url=registration.url,
                version=registration.version,
                spool_bytes=0,
                spool_limit=0,
                store_trouble=str(error),
            )
            with contextlib.suppress(TryLater):  # the next report will tell it
                control.report(trouble)
            stopping.wait(backoff.pause())
    return None


def _check_store(store: ThrottledStore) -> None:
    """Raise TryLater if the store replaces an object that must only be created: nothing may be written until somebody
    has repaired the store. If a store accepts no writes at the moment (it is full), the spool can still receive
    batches."""
    try:
        check_creates_only(store)
    except Unsupported as error:
        raise TryLater(error.message, remedy=error.remedy) from error
    except TryLater as error:
        _log.warning("The store cannot be tested now: %s", error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Receives machines' streams, stores them in the vault.")
    parser.add_argument("--settings", type=Path, help="TOML file; FARSHORE_PROCESS_SERVER_* variables win over it")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    enrolling = commands.add_parser("enroll", help="trade a token, read from standard input, for a certificate")
    enrolling.add_argument("--server", required=True, help="URL of the configuration server")
    enrolling.add_argument("--authority-fingerprint", required=True, help="SHA-256 that came with the token")
    enrolling.add_argument("--again", action="store_true", help="enrol again, although this server is already enrolled")
    return parser


if __name__ == "__main__":
    sys.exit(main())
