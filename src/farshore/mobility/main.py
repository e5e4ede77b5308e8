"""The mobility service's command line and its only wiring place.

``farshore-mobility enroll`` exchanges a token (on standard input, never an argument) for a certificate, ``run`` is the
service, ``status`` shows its last report, ``check`` shows what this machine supports.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Sequence, Tuple

from farshore import __version__
from farshore.client.credentials import Credentials
from farshore.client.machine_self import MachineSelf
from farshore.client.transport import Transport
from farshore.clock import SystemClock
from farshore.mobility.capture.probe import probe
from farshore.mobility.checks import Surroundings, look_around
from farshore.mobility.checks.lookout import Lookout
from farshore.mobility.commands.fetching import Fetching
from farshore.mobility.commands.handling import Handling
from farshore.mobility.commands.record import Record
from farshore.mobility.control.description import describe, hardware_id
from farshore.mobility.control.guest_scripts import guest_scripts
from farshore.mobility.control.identity import enrol_machine, machine_of
from farshore.mobility.control.led_out import lead_out
from farshore.mobility.control.removal import Removal
from farshore.mobility.control.renewal import Renewal
from farshore.mobility.control.reporting import Reporter
from farshore.mobility.control.servers import Servers
from farshore.mobility.control.session import Session
from farshore.mobility.control.shutdown import Shutdown
from farshore.mobility.copying.named_disks import accept_named
from farshore.mobility.copying.protected_disks import DiskNumbers, protected_disks
from farshore.mobility.heap import bound_heap
from farshore.mobility.points.services import Services
from farshore.mobility.rounds.fallback import choose_fallback
from farshore.mobility.rounds.replication import RoundReplication
from farshore.mobility.settings import STATE, Settings
from farshore.mobility.stream.planes import Planes
from farshore.mobility.stream.replication import Replication
from farshore.mobility.stream.running import Limits
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.mobility.upgrade.handover import Handover
from farshore.mobility.upgrade.releases import Releases
from farshore.mobility.upgrade.trust import pin as pin_release_key
from farshore.mobility.upgrade.upgrading import Upgrade
from farshore.model.errors import FarshoreError, Malformed, NotFound, WrongState
from farshore.model.identifiers import new_id
from farshore.model.states import CaptureMode
from farshore.telemetry.logs import configure

log = logging.getLogger("farshore.mobility")
AUTO = "auto"


_DESCRIPTION = (
    "The agent of Farshore on a protected machine. `enroll` trades a token, read from standard input, for a "
    "certificate; `run` is the service; `status` shows its last report; `check` says what this machine allows."
)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    configure("mobility", level=options.log_level, as_json=options.log_json)
    bound_heap()
    settings = Settings(
        state=options.state,
        disks=tuple(options.disk),
        ring_bytes=options.ring_mib << 20,
        spill_bytes=options.spill_mib << 20,
        capture=None if options.capture == AUTO else CaptureMode(options.capture),
        round_seconds=options.round_seconds,
        scan_seconds=options.scan_seconds,
    )
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        status: int = options.command(settings, options)
        return status
    except FarshoreError as error:
        sys.stderr.write(f"{error.message}\n{error.remedy}\n")
        return error.exit_status


def enroll(settings: Settings, options: argparse.Namespace) -> int:
    """Exchange the token for a certificate; do nothing if this machine has one for that server."""
    if settings.credentials.exists() and not options.again:
        known = Credentials.load(settings.credentials)
        if known.url == options.server.rstrip("/"):
            if options.release_key:
                pin_release_key(settings.release_key, options.release_key)
            sys.stdout.write(f"{machine_of(known)}\n")
            return 0
        raise WrongState(f"This machine is enrolled with {known.url}.", remedy="Add --again to enrol it again.")
    token = sys.stdin.readline().strip()
    if not token:
        raise Malformed("There is no token on standard input.", remedy="Make one: farshore token create")
    accept_named(settings.disks, settings.named_disks)
    numbers = DiskNumbers(settings.disk_numbers)
    description = describe(protected_disks(numbers, settings.disks, None, ()))
    url = options.server.rstrip("/")
    sys.stdout.write(f"{enrol_machine(settings, url, options.authority_fingerprint, token, description)}\n")
    return 0


def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Run the service until SIGTERM."""
    credentials = Credentials.load(settings.credentials)
    machine = machine_of(credentials)
    clock = SystemClock()
    stop = threading.Event()
    with _lock_file(settings.lock) as lock:
        _lock_or_refuse(lock.fileno())
        accept_named(settings.disks, settings.named_disks)
        lead_out()
        handover = Handover.load(settings.handover)
        identifier = new_id() if handover is None or handover.capture is None else handover.run
        limits = Limits(Bandwidth(clock), Courtesy(clock))
        server = MachineSelf(Transport.from_credentials(credentials))
        planes = Planes(machine, settings.credentials)
        parts = (machine, identifier, settings, server, planes, clock, limits)
        fallback = choose_fallback(settings, clock)
        replication = Replication(*parts, handover) if fallback is None else RoundReplication(*parts, fallback)
        lookout = Lookout(lambda: replication.surroundings(credentials.url), clock)
        reporter = Reporter(identifier, replication, clock, lookout)
        upgrade = Upgrade(settings, identifier, server, replication, handover, sys.argv[1:])
        removal = Removal(settings, Releases.here(), stop.set)
        shutdown = Shutdown(Services(settings.stopped_services))
        shutdown.recover()
        handling = Handling(server, replication, upgrade, Record(settings.commands), removal, shutdown)
        fetching = Fetching(server, handling, identifier, lambda: _epoch(replication), clock, hardware_id())
        servers = Servers(settings, server, clock)
        session = Session(settings, server, replication, reporter, clock, planes.follow, upgrade, handling, servers)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        log.info("The mobility service begins.", extra={"fields": {"version": __version__, "machine": machine}})
        renewing = Renewal(settings, server, (server.use, planes.use), clock)
        renewal = threading.Thread(target=renewing.run, args=(stop,), daemon=True)
        heartbeats = threading.Thread(target=session.run, args=(stop,), daemon=True)
        scripts = guest_scripts(settings)
        if scripts is not None:
            threading.Thread(target=scripts.run, args=(stop,), name="guest scripts", daemon=True).start()
        renewal.start()
        threading.Thread(target=fetching.run, args=(stop,), name="commands", daemon=True).start()
        threading.Thread(target=lookout.run, args=(stop,), daemon=True).start()
        heartbeats.start()
        worker = threading.Thread(target=_guarded, args=(replication, stop), daemon=True)
        worker.start()
        # Signals wake only the main thread. Without heartbeats the service would not receive requests, so it ends.
        while worker.is_alive() and (heartbeats.is_alive() or stop.is_set()):
            worker.join(0.5)
            if stop.is_set():
                replication.interrupt()
        handling.close()
        session.wake()
        heartbeats.join(1.0)
        server.close()
        if removal.heard:
            removal.finish()
    log.info("The mobility service ends.")
    return 0 if stop.is_set() else 1


def status(settings: Settings, _options: argparse.Namespace) -> int:
    """Show what the running service reported last."""
    try:
        sys.stdout.write(settings.status.read_text(encoding="utf-8") + "\n")
    except FileNotFoundError as error:
        raise NotFound(
            "The service has not reported yet.",
            remedy="Start it (systemctl start farshore-mobility), or read its log: journalctl -u farshore-mobility",
        ) from error
    return 0


def check(settings: Settings, options: argparse.Namespace) -> int:
    """Print as JSON what this machine supports, what it lacks, and which disks would be protected."""
    accept_named(settings.disks, settings.named_disks)
    ability = probe()
    disks = protected_disks(DiskNumbers(settings.disk_numbers), settings.disks, None, ())
    here = Surroundings(settings, [one.disk for one in disks], options.reach, ability=ability)
    report = {
        "mode": ability.mode.value,
        "findings": [one.model_dump(mode="json") for one in look_around(here)],
        "description": describe(disks).model_dump(mode="json"),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def _epoch(replication: Replication) -> int:
    run = replication.current
    return 0 if run is None else run.grant.epoch


def _guarded(replication: Replication, stop: threading.Event) -> None:
    try:
        replication.run(stop)
    except Exception:
        log.exception("The mobility service failed; systemd starts it again.")


def _lock_file(path: Path) -> BinaryIO:
    """Return the lock file; create it if it is missing. On a read-only or full disk the existing one is enough."""
    try:
        return path.open("ab")
    except OSError:
        return path.open("rb")


def _lock_or_refuse(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WrongState(
            "The mobility service is already running.", remedy="Stop it first: systemctl stop farshore-mobility"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="farshore-mobility", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--state", type=Path, default=STATE, help="state directory (default: %(default)s)")
    parser.add_argument(
        "--disk", type=Path, action="append", default=[], help="protect this disk only; may be repeated (default: all)"
    )
    ring = "capture ring, a power of two (default: a quarter of the memory that the agent may use, 64)"
    parser.add_argument("--ring-mib", type=int, default=0, help=ring)
    parser.add_argument("--spill-mib", type=int, default=512, help=".hrl file; 0: none (default: %(default)s)")
    modes = [AUTO, *(mode.value for mode in CaptureMode)]
    parser.add_argument("--capture", choices=modes, default=AUTO, help="no better mode than this (default: the best)")
    parser.add_argument("--round-seconds", type=float, default=60.0, help="bitmap mode (default: %(default)s)")
    parser.add_argument("--scan-seconds", type=float, default=3600.0, help="scan mode (default: %(default)s)")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-json", action="store_true")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    enrolling = commands.add_parser("enroll", help="trade a token, read from standard input, for a certificate")
    enrolling.add_argument("--server", required=True, help="URL of the configuration server")
    enrolling.add_argument("--authority-fingerprint", required=True, help="SHA-256 that came with the token")
    key = "public half of the release key, in hex: pin it, on a machine that is enrolled as well"
    enrolling.add_argument("--release-key", default="", help=key)
    enrolling.add_argument(
        "--again", action="store_true", help="enrol again, although this machine is already enrolled"
    )
    enrolling.set_defaults(command=enroll)
    checking = commands.add_parser("check", help="print what this machine supports and lacks")
    checking.add_argument("--reach", action="append", default=[], metavar="URL", help="try to reach this server too")
    checking.set_defaults(command=check)
    for name, command, text in _plain_commands():
        commands.add_parser(name, help=text).set_defaults(command=command)
    return parser


def _plain_commands() -> Iterator[Tuple[str, object, str]]:
    yield "run", run, "the service itself"
    yield "status", status, "show the running service's last report"


if __name__ == "__main__":
    sys.exit(main())
