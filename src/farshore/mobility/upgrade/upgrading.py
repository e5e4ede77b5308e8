"""An upgrade, from the command to its result: fetch, check, try out, and then this process becomes the new release.

The old agent ends its epoch in good order, leaves bitmap mode running (capture.pinned) and a handover, and executes the
new release in its own place. That one heals: it copies only what was written meanwhile. Once it works and the
configuration server has answered it, the service is switched to it. If it ends before, or does nothing for some
minutes, the service starts the old release, which takes over in the same way.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import List, Optional, Protocol, Sequence, Tuple

from farshore.api_types.commands import CommandResult, UpgradeArguments, UpgradeResult, failure
from farshore.client.machine_self import MachineSelf
from farshore.mobility.capture.pinned import Document, unpin
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.settings import Settings
from farshore.mobility.stream.replication import Replication
from farshore.mobility.upgrade.handover import Handover, forget
from farshore.mobility.upgrade.releases import Releases
from farshore.mobility.upgrade.trust import check_release
from farshore.model.errors import NoSpace, Refused
from farshore.model.position import Position

log = logging.getLogger(__name__)

TRIAL_SECONDS = 180
"""The new release works by then, or the kernel ends it."""


Concluded = Tuple[str, CommandResult]
"""A command and its result."""


class Upgrades(Protocol):
    """What the session needs from it."""

    @property
    def under_way(self) -> Optional[str]:
        """The command that a previous process began; None once its result was given, or if there was none."""
        ...

    def carry_out(self, command: str, wanted: UpgradeArguments) -> None:
        """Upgrade. If it succeeds this process is another one afterwards, unless it already was that release."""
        ...

    def conclude(self, *, wanted: bool) -> Optional[Concluded]:
        """Return the result of an upgrade once there is one; called after an answered heartbeat."""
        ...


class Upgrade:
    """``handover``: what the previous process left. ``arguments``: of the command line, for starting again."""

    def __init__(
        self,
        settings: Settings,
        run: str,
        server: MachineSelf,
        replication: Replication,
        handover: Optional[Handover],
        arguments: Sequence[str],
    ) -> None:
        self._settings = settings
        self._run = run
        self._server = server
        self._replication = replication
        self._handover = handover
        self._arguments: List[str] = list(arguments)
        self._releases = Releases.here()

    @property
    def under_way(self) -> Optional[str]:
        """See Upgrades."""
        return None if self._handover is None else self._handover.command

    def carry_out(self, command: str, wanted: UpgradeArguments) -> None:
        """See Upgrades. Raises FarshoreError; then this release continues."""
        releases = self._releases
        if releases is None:
            raise Refused(
                "This agent was not installed as a release, so it cannot upgrade itself.",
                remedy="Install it again: farshore machine add",
            )
        if wanted.release == releases.release:
            return
        signed = self._server.signature(wanted.release)
        check_release(self._settings.release_key, wanted.release, wanted.digest, signed.signature)
        releases.install(wanted.release, wanted.digest, self._server.bundle(wanted.release))
        try:
            releases.try_out(wanted.release, self._arguments[:-1])
            self._replication.hand_over(
                lambda position, disks, capture: self._become(
                    releases, command, wanted.release, position, disks, capture
                )
            )
        except BaseException:
            releases.remove(wanted.release)
            raise

    def conclude(self, *, wanted: bool) -> Optional[Concluded]:
        """See Upgrades. ``wanted``: this machine should be protected, so an epoch must exist first."""
        handover = self._handover
        if handover is None or (wanted and self._replication.current is None):
            return None
        self._handover = None
        signal.alarm(0)
        result = self._settled(handover)
        # Last: until then, after a kill, the next process that comes here does it, whichever release it is.
        if handover.capture is not None:
            unpin(Path(handover.capture["folder"]))
        forget(self._settings.handover)
        return handover.command, result

    def _settled(self, handover: Handover) -> CommandResult:
        """Let the service start the release that works; return the command's result."""
        old, new = handover.releases
        if self._releases is not None and self._releases.release == new:
            try:
                self._releases.make_current()
            except NoSpace as error:
                log.warning("The upgrade is not settled: %s", error)
                return failure(error)
            log.info("The upgrade is done.", extra={"fields": {"from": old, "to": new}})
            return CommandResult(payload=UpgradeResult(release=new))
        if self._releases is not None:
            self._releases.remove(new)
        log.warning("The upgrade has failed; the former release is back.", extra={"fields": {"failed": new}})
        return failure(
            Refused(
                f"Release {new} ended before it worked, and the former release was restored.",
                remedy="Read the agent's log: journalctl -u farshore-mobility",
            )
        )

    def _become(
        self,
        releases: Releases,
        command: str,
        release: str,
        position: Position,
        disks: Sequence[ProtectedDisk],
        capture: Optional[Document],
    ) -> None:
        pair = (releases.release, release)
        handover = Handover(self._run, position, command, pair, tuple(disks), capture)
        try:
            handover.save(self._settings.handover)
        except OSError as error:
            forget(self._settings.handover)  # it may exist, but not certainly on the disk
            raise NoSpace(
                f"The hand-over cannot be written to {self._settings.handover}: {error.strerror}.",
                remedy=f"Free space in {self._settings.state}, then request the upgrade again.",
            ) from error
        program = str(releases.program(release))
        log.info("This agent is being replaced by another release.", extra={"fields": {"from": pair[0], "to": pair[1]}})
        signal.alarm(TRIAL_SECONDS)  # survives the exec; nothing handles it, so it ends the process
        try:
            os.execv(program, [program, *self._arguments])  # noqa: S606 - the point of it
        except OSError as error:
            signal.alarm(0)
            forget(self._settings.handover)
            raise Refused(
                f"{program} cannot be run: {error.strerror}.", remedy="The present release continues."
            ) from error
