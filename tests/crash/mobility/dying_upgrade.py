"""The agents of test_upgrade_kill_points.py, which do nothing but upgrade: this program forks one for each line that it
reads, "root release die-at", and answers how that one ended.

An agent does what one does at its start: conclude what was handed over to it, or else obey the command that waits for a
result. It dies before the durable effect number ``die-at`` (0: never), counted over the change of programs too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from farshore.api_types.commands import CommandResult, UpgradeArguments, UpgradeResult
from farshore.api_types.machines import ReleaseSignature
from farshore.formats.release_statement import statement
from farshore.mobility.settings import Settings
from farshore.mobility.upgrade.handover import Handover
from farshore.mobility.upgrade.releases import Releases
from farshore.mobility.upgrade.trust import pin
from farshore.mobility.upgrade.upgrading import Upgrade
from farshore.model.identifiers import Epoch, Sequence
from farshore.model.position import Position

COMMAND, RESULT, BUNDLE = "command.json", "result.json", "bundle"
EFFECTS = ("replace", "symlink", "unlink", "execv")


class Fuse:
    """Burns down by one before each effect."""

    def __init__(self, die_at: int) -> None:
        self._left = die_at

    def dying(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return effect(*arguments, **options)

        return wrapped


class ReplicationDouble:
    """A stream that is always at work and may always be handed over."""

    current = object()

    def hand_over(self, give_way: Callable[[Position, list[Any], None], None]) -> None:
        give_way(Position(Epoch(1), Sequence(9)), [], None)


class ServerDouble:
    def __init__(self, root: Path) -> None:
        self._root = root

    def signature(self, release: str) -> ReleaseSignature:
        key = Ed25519PrivateKey.generate()
        pin(Settings(state=self._root).release_key, key.public_key().public_bytes_raw().hex())
        digest = hashlib.sha256(self.bundle(release)).hexdigest()
        signed = key.sign(statement(release, digest)).hex()
        return ReleaseSignature(release=release, digest=digest, signature=signed)

    def bundle(self, release: str) -> bytes:
        return (self._root / BUNDLE).read_bytes()


def agent(root: Path, release: str) -> None:
    settings = Settings(state=root)
    handover = Handover.load(settings.handover)
    upgrade = Upgrade(settings, "run", ServerDouble(root), ReplicationDouble(), handover, ["run"])  # type: ignore[arg-type]
    upgrade._releases = Releases(root, release)
    concluded = upgrade.conclude(wanted=True)
    if concluded is not None:
        tell(root, concluded[1])
    elif (root / COMMAND).exists():
        wanted = UpgradeArguments.model_validate_json((root / COMMAND).read_text())
        upgrade.carry_out("c", wanted)
        tell(root, CommandResult(payload=UpgradeResult(release=wanted.release)))


def tell(root: Path, result: CommandResult) -> None:
    """The server hears the result, and the command is over."""
    (root / RESULT).write_text(result.model_dump_json())
    shutil.move(root / COMMAND, root / "obeyed")


def live(root: Path, release: str, die_at: int) -> None:
    """One agent's life, as whichever releases it becomes."""

    def become(program: str, _arguments: list[str]) -> None:
        agent(root, Path(program).parents[1].name)
        os._exit(0)

    os.execv = become  # type: ignore[assignment]
    fuse = Fuse(die_at)
    for name in EFFECTS:
        setattr(os, name, fuse.dying(getattr(os, name)))
    agent(root, release)


def main() -> None:
    for line in sys.stdin:
        root, release, die_at = line.split()
        child = os.fork()
        if not child:
            try:
                live(Path(root), release, int(die_at))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
