"""``farshore-master-target``: wiring only.

A registered master target (``enroll``) writes disks for failbacks, as the configuration server says, with only the keys
of their machines. Work by hand (``begin``, ``finish``) needs the vault's URL and its owner's key, and no server.
Without a command, or by ``run``, it does both, as far as its settings allow.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farshore.master_target import beginning, images
from farshore.master_target.beginning import Wanted
from farshore.master_target.identity import enrol
from farshore.master_target.record import DiskRecord, MachineRecord, Phase, RecordFolder
from farshore.master_target.serving import serve
from farshore.master_target.settings import Settings, load_settings
from farshore.master_target.working import Working, following, records
from farshore.model.errors import Busy, Damaged, FarshoreError, Malformed, NotFound, WrongKey, WrongState
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.position import Position
from farshore.sites.half_written import check_whole
from farshore.telemetry import logs
from farshore.vault.keys.files import open_key_file
from farshore.vault.stores.recent import RecentStore
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

_log = logging.getLogger(__name__)
_LOOK = 0.5
_FAILBACKS = "failbacks"
"""Below the folder of records: those of failbacks."""


def main() -> int:
    """Run a command; the exit status is that of its error, if any."""
    options = _parser().parse_args()
    try:
        if options.command == "check":
            return _check(options.paths)
        settings = load_settings(options.settings)
        logs.configure("master-target", level=settings.log_level)
        commands: dict[str, Callable[[Settings, argparse.Namespace], int]] = {
            "enroll": _enroll,
            "begin": _begin,
            "finish": _finish,
            "show": _show,
            "forget": _forget,
        }
        return commands.get(options.command or "run", _run)(settings, options)
    except FarshoreError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status


def _open_vault(settings: Settings) -> Vault:
    key = _check_by_hand(settings)
    return Vault.open(RecentStore(open_store(settings.vault)), open_key_file(key))


def _check_by_hand(settings: Settings) -> Path:
    """Return the owner's key file. Raises Malformed if the settings name no key file or no vault."""
    if settings.key is None or not settings.vault:
        raise Malformed(
            f"This master target is not registered ({settings.credentials}), and work by hand needs the vault and its "
            "owner's key.",
            remedy="Register it: farshore-master-target enroll; or set vault and key in the settings.",
        )
    return settings.key


def _run(settings: Settings, _options: argparse.Namespace) -> int:
    """Do both kinds of work, each in its own thread if there are two."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    by_hand = Working(lambda: _open_vault(settings), settings.state, settings.interval, stopping)
    registered = settings.credentials.exists()
    if not registered:
        _check_by_hand(settings)
        by_hand.run()
        return 0
    hand = threading.Thread(target=by_hand.run, name="by hand") if settings.vault else None
    if hand is not None:
        hand.start()
    try:
        serve(settings.credentials, settings.server, settings.state / _FAILBACKS, stopping)
    finally:
        stopping.set()
        if hand is not None:
            hand.join()
    return 0


def _enroll(settings: Settings, options: argparse.Namespace) -> int:
    if settings.credentials.exists() and not options.again:
        raise WrongState(
            f"{settings.credentials} exists: this master target is enrolled.", remedy="Add --again to enrol again."
        )
    token = sys.stdin.readline().strip()
    if not token:
        raise Malformed("There is no token on standard input.", remedy="Make one: farshore master-target add NAME")
    made = enrol(settings.credentials, options.server.rstrip("/"), options.authority_fingerprint, token)
    sys.stdout.write(f"{made.master_target}\n")
    return 0


def _begin(settings: Settings, options: argparse.Namespace) -> int:
    vault = _open_vault(settings)
    machine = _find(vault, options.machine)
    wanted = [
        Wanted(DiskNumber(one.disk), one.path, "" if one.format == "raw" else one.format, one.overwrite)
        for one in settings.disks
        if one.machine in (machine, options.machine) or one.machine == _hostname(vault, machine)
    ]
    folder = RecordFolder(settings.state / machine)
    with folder.locked():
        try:
            if not folder.load().released:
                raise WrongState(
                    f"The disks of machine {machine} are being written already.",
                    remedy="See `farshore-master-target show`; to begin with others, forget the machine first.",
                )
        except NotFound:
            pass  # the first time
        others = [one for one in records(settings.state) if one.machine != machine]
        beginning.begin(vault.id, vault.machine(machine), folder, wanted, others, images.opened)
    sys.stdout.write(f"{machine}\n")
    return 0


def _finish(settings: Settings, options: argparse.Namespace) -> int:
    """Request the end. If another process works on the machine, it finishes it; otherwise this process does."""
    machine = _begun(settings, options.machine)
    folder = RecordFolder(settings.state / machine)
    folder.load()
    folder.ask_to_finish(Position.parse(options.position) if options.position else None)
    vault: Vault | None = None
    while not folder.load().released:
        try:
            vault = vault or _open_vault(settings)
            with following(vault, folder) as one:
                while not one.record.released:
                    one.turn()
                    if not one.record.released:
                        time.sleep(settings.interval)
        except Busy:
            time.sleep(_LOOK)
    sys.stdout.write(f"{folder.load().disks[0].position}\n")
    return 0


def _show(settings: Settings, options: argparse.Namespace) -> int:
    found = records(settings.state)
    if options.json:
        sys.stdout.write(json.dumps([_row(record, disk) for record in found for disk in record.disks], indent=2) + "\n")
        return 0
    for record in found:
        for disk in record.disks:
            row = _row(record, disk)
            sys.stdout.write(
                f"{row['machine']} disk {row['disk']} {row['path']}: {row['state']}"
                f"{' at ' + row['position'] if row['position'] else ''}\n"
            )
    return 0


def _row(record: MachineRecord, disk: DiskRecord) -> dict[str, Any]:
    state = disk.phase.value
    if disk.phase is Phase.COMPARING:
        state = f"comparing, {disk.done >> 20} of {disk.size >> 20} MiB"
    return {
        "machine": record.machine,
        "disk": disk.number,
        "path": disk.path,
        "phase": disk.phase.value,
        "state": state,
        "position": "" if disk.position is None else str(disk.position),
        "may_be_started": record.released,
    }


def _forget(settings: Settings, options: argparse.Namespace) -> int:
    """Forget a machine; a disk that is half written remains so, with its notice."""
    folder = RecordFolder(settings.state / _begun(settings, options.machine))
    with folder.locked():
        folder.forget()
    return 0


def _check(paths: list[Path]) -> int:
    for path in paths:
        check_whole(path)
    return 0


def _begun(settings: Settings, wanted: str) -> MachineId:
    """Return the machine with that id, or the only one whose id begins with it. Raises NotFound, Malformed."""
    found = [path.parent.name for path in settings.state.glob("*/record.json") if path.parent.name.startswith(wanted)]
    if len(found) == 1:
        return MachineId(found[0])
    if not found:
        raise NotFound(
            f"No disks are being written for machine {wanted}.",
            remedy="See `farshore-master-target show`; give its id.",
        )
    raise Malformed(
        f"{len(found)} machines have an id that begins with {wanted}.", remedy="Give more digits of the id."
    )


def _find(vault: Vault, wanted: str) -> MachineId:
    """Return the machine in the vault with that id or host name. Raises NotFound."""
    found = vault.machines()
    named = [one for one in found if one == wanted] or [one for one in found if _hostname(vault, one) == wanted]
    if len(named) != 1:
        raise NotFound(f"The vault holds {len(named) or 'no'} machines {wanted!r}.", remedy="See `farshore vault ls`.")
    return named[0]


def _hostname(vault: Vault, machine: MachineId) -> str:
    try:
        return vault.machine(machine).stored.description().hostname
    except (NotFound, Damaged, WrongKey):
        return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Writes machines' disks from a vault, in place.")
    parser.add_argument("--settings", type=Path, help="TOML file; FARSHORE_MASTER_TARGET_* variables win over it")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="write disks for failbacks, and keep those begun by hand in step (the default)")
    enrolling = commands.add_parser("enroll", help="trade a token, read from standard input, for a certificate")
    enrolling.add_argument("--server", required=True, help="URL of the configuration server")
    enrolling.add_argument("--authority-fingerprint", required=True, help="SHA-256 that came with the token")
    enrolling.add_argument("--again", action="store_true", help="enrol again, although it is already enrolled")
    for name, words in (
        ("begin", "begin to write a machine's disks, at the places that the settings give them"),
        ("finish", "write the last changes and make the disks whole, so that the machine can be started from them"),
        ("forget", "forget a machine; a disk that is half written remains so"),
    ):
        one = commands.add_parser(name, help=words)
        one.add_argument("machine", help="its id; for begin, its host name will do")
        if name == "finish":
            one.add_argument("--position", default="", help="EPOCH:SEQUENCE; the newest in the vault by default")
    showing = commands.add_parser("show", help="list the disks that are being written, with their progress")
    showing.add_argument("--json", action="store_true", help="print JSON")
    checking = commands.add_parser("check", help="end with an error unless all of these disks may be started")
    checking.add_argument("paths", nargs="+", type=Path, metavar="DISK")
    return parser


if __name__ == "__main__":
    sys.exit(main())
