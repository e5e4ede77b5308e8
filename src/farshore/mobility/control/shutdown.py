"""Shut the machine down for a failover, so that all its writes are before its last point.

An agent that ends with its machine cannot send what other services write after it. So the order is reversed here: the
services are stopped, the file systems are frozen, and the last point is created. Once the process server has everything
up to it and the configuration server knows that, the machine is switched off in its frozen state: nothing can be
written after the point. A failure before that thaws the machine and starts its services again.

An answer that was sent and may have been received cannot be taken back: then the machine is switched off too, because
two running instances are worse than none.
"""

from __future__ import annotations

import ctypes
import enum
import logging
import os
import time
from pathlib import Path
from typing import Callable, ContextManager, Protocol, Sequence, Union

from farshore.api_types.commands import ShutDownArguments, ShutDownResult
from farshore.formats.point_payload import PointPayload
from farshore.mobility.capture.disks import mounted_once
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.points.freezing import Freeze, order_of_freezing
from farshore.mobility.points.services import Services
from farshore.mobility.rounds.round_run import RoundRun
from farshore.mobility.stream.epoch_run import EpochRun
from farshore.mobility.stream.pump import Milestone
from farshore.mobility.unit import is_service, run_systemctl
from farshore.model.errors import Refused, TryLater, Unsupported
from farshore.model.identifiers import PointId
from farshore.model.point import PointKind

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05
_TELL_SECONDS = 1.0
_OFF_SECONDS = 20.0
_POWER_OFF = 0x4321FEDC
_SYSRQ = Path("/proc/sysrq-trigger")
_LIBC = ctypes.CDLL(None, use_errno=True)


class Heard(enum.Enum):
    """Whether the answer to the command was received."""

    YES = "yes"
    NO = "no"
    """It came too late: nobody waits for it."""
    UNKNOWN = "unknown"


class Stillness(Protocol):
    """farshore.mobility.points.freezing.Freeze, inside its block."""

    def holds(self) -> bool:
        """Return whether it is certain that nothing can be written."""
        ...


Hold = Callable[[Sequence[ProtectedDisk], float], ContextManager[Stillness]]
Tell = Callable[[ShutDownResult], Heard]


def hold_still(disks: Sequence[ProtectedDisk], seconds: float) -> ContextManager[Stillness]:
    """Freeze the file systems on these disks."""
    return Freeze(order_of_freezing(mounted_once(), frozenset(one.disk.device for one in disks)), seconds)


def power_off() -> None:
    """Switch the machine off at once, without another write. The unit's filter denies reboot(2) to the agent: then the
    kernel's emergency key (sysrq) is used. Raises OSError."""
    if _LIBC.reboot(ctypes.c_int(_POWER_OFF)):
        log.info("reboot(2): %s", os.strerror(ctypes.get_errno()))
    with _SYSRQ.open("w") as key:
        key.write("o")


class Shutdown:
    """``hold`` freezes, ``off`` switches the machine off, ``ours`` returns whether the machine is this agent's own."""

    def __init__(
        self,
        services: Services,
        *,
        hold: Hold = hold_still,
        off: Callable[[], None] = power_off,
        ours: Callable[[], bool] = is_service,
    ) -> None:
        self._services = services
        self._hold = hold
        self._off = off
        self._ours = ours

    def recover(self) -> None:
        """Recover, at the agent's start, from a shutdown that an earlier run did not finish."""
        self._services.start_again()

    def carry_out(
        self,
        command: str,
        wanted: ShutDownArguments,
        run: Union[EpochRun, RoundRun],
        disks: Sequence[ProtectedDisk],
        tell: Tell,
    ) -> ShutDownResult:
        """Shut the machine down. If this returns, the power is still on for some reason, though everything else is
        done.

        Raises Refused, Unsupported, TryLater; then the machine continues."""
        epoch = self._check(run)
        try:
            still = self._services.stop(wanted.services)
            with self._hold(disks, wanted.hold) as stillness:
                result = self._last_point(command, wanted, epoch, stillness, still)
                self._told(tell, result, stillness)
                self._end(stillness)
        except BaseException:
            self._services.start_again()
            raise
        # No longer frozen, and the answer was received: later writes are in no point, so the machine is switched off in
        # any case.
        log.error("The machine could not be switched off at once; systemd is asked to.")
        run_systemctl(["--no-block", "poweroff"])
        return result

    def _check(self, run: Union[EpochRun, RoundRun]) -> EpochRun:
        if not self._ours():
            raise Refused(
                "This agent does not run as the machine's service, so it does not shut the machine down.",
                remedy="Shut the machine down yourself, then fail it over.",
            )
        if isinstance(run, RoundRun):
            raise Unsupported(
                "Without data mode the last write of this machine is not known.",
                remedy="Shut the machine down yourself after a round has ended, then fail it over.",
            )
        return run

    def _last_point(
        self, command: str, wanted: ShutDownArguments, run: EpochRun, stillness: Stillness, still: Sequence[str]
    ) -> ShutDownResult:
        point = PointPayload(PointId(command), PointKind.APP_CONSISTENT, wanted.name)
        milestone = run.cut(point, stillness.holds)
        self._acknowledged(run, milestone, stillness)
        return ShutDownResult(
            epoch=run.grant.epoch, sequence=milestone.sequence, time=milestone.time, still=list(still)[:32]
        )

    def _acknowledged(self, run: EpochRun, milestone: Milestone, stillness: Stillness) -> None:
        while stillness.holds():
            if milestone.reached and run.acknowledged >= milestone.sequence:
                return
            if milestone.failed:
                break
            time.sleep(_LOOK_SECONDS)
        raise TryLater(
            "The last writes of this machine did not arrive while it was frozen.",
            remedy="Find out why its stream is slow (farshore machine show), or fail over without a shutdown.",
        )

    def _told(self, tell: Tell, result: ShutDownResult, stillness: Stillness) -> None:
        while True:
            heard = tell(result)
            if heard is Heard.YES:
                return
            if heard is Heard.NO:
                raise Refused(
                    "The request to shut this machine down has expired.",
                    remedy="Check the failover: farshore failover show",
                )
            if not stillness.holds():
                return
            time.sleep(_TELL_SECONDS)

    def _end(self, stillness: Stillness) -> None:
        try:
            self._off()
        except OSError as error:
            log.error("The machine cannot be switched off at once: %s", error)
            return
        end = time.monotonic() + _OFF_SECONDS
        while stillness.holds() and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
