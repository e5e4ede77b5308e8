"""What failbacks need from master targets: each errand is recorded, and the master target's result is awaited.

So nothing depends on this process: a server that resumes the job finds the errand as it is by then, and continues to
wait. The master target learns of it in the answer to its next report, within seconds. A result is used once: then the
errand is deleted, and another request creates a new one, which continues from the master target's own record.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from farshore.api_types.commands import CommandFailure
from farshore.api_types.master_targets import ErrandResult
from farshore.catalog import master_targets
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.delegated import DelegatedState
from farshore.catalog.tables import ErrandRow, MasterTargetRow
from farshore.delivery.in_place import HomeOrder
from farshore.delivery.port import Watch
from farshore.model.errors import Cancelled, FarshoreError, NotFound, Refused, TryLater, WrongState, as_error
from farshore.model.home_task import Errand
from farshore.model.identifiers import new_id
from farshore.model.ports import Clock
from farshore.protection import errands
from farshore.sites.half_written import notice_on

POLL = 0.5
QUIET_LOOKS = 120
"""Polls of the catalog without a sign of the master target, which gives one a second, before it is given up. Polls and
not seconds: a server that was paused itself has received nothing."""
QUIET_LOOKS_FIRST = 30
"""The same before anything has stopped: no failback is better than one that is stuck."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _failure(said: CommandFailure) -> FarshoreError:
    """Return the error of a failed errand. Only users cancel, so if a master target reports a cancellation it is
    retried."""
    error = as_error(said.code, said.message, said.remedy)
    return TryLater(said.message, remedy=said.remedy) if isinstance(error, Cancelled) else error


def running_system() -> str:
    """Return the kernel's id of the running system: two programs with the same id share their disks."""
    with contextlib.suppress(OSError):
        return _BOOT.read_text().strip()
    return ""


class MasterTargets:
    """See farshore.delivery.in_place.MasterTargets."""

    def __init__(self, catalog: Catalog, clock: Clock, sleep: Callable[[float], None] = time.sleep) -> None:
        self._catalog, self._clock, self._sleep = catalog, clock, sleep

    def perform(self, order: HomeOrder, watch: Watch) -> None:
        """Let the errand be done. Raises its error, WrongState if no master target answers, TryLater if it stops
        answering later."""
        asked = self._catalog.write(lambda tx: self._ask(tx, order))
        result = self._wait_for(asked, order, watch)
        self._catalog.write(lambda tx: master_targets.drop_errand(tx, order.failover))
        if result.failure is not None:
            raise _failure(result.failure)
        if order.errand is Errand.FOLLOW:
            _check_seen(order)

    def forget(self, failover: str) -> None:
        """See farshore.delivery.in_place.MasterTargets."""
        self._catalog.write(lambda tx: master_targets.drop_errand(tx, failover))

    def _ask(self, tx: Transaction, order: HomeOrder) -> str:
        row = _chosen(tx, order.master_target)
        if order.errand is Errand.LOOK:
            _check_host(row, order)
        wanted = ErrandRow(
            id=new_id(),
            failover=order.failover,
            master_target=row.id,
            machine=order.machine,
            errand=order.errand.value,
            position=order.position,
            places=[asdict(one) for one in order.places],
            created=self._clock.now(),
        )
        return errands.ask(tx, wanted).id

    def _wait_for(self, errand: str, order: HomeOrder, watch: Watch) -> ErrandResult:
        name, signs, quiet = "", -1, 0
        patience = QUIET_LOOKS_FIRST if order.errand is Errand.LOOK else QUIET_LOOKS
        while quiet < patience:
            with self._catalog.reading() as tx:
                row = master_targets.errand(tx, errand)
                if row is None:
                    raise TryLater(
                        "The task of the master target is no longer known.", remedy="Run the failback again."
                    )
                name = master_targets.get(tx, row.master_target).name
            if row.state == DelegatedState.ENDED.value:
                return ErrandResult.model_validate(row.result)
            signs, quiet = row.signs, 0 if row.signs != signs else quiet + 1
            watch(row.fraction, row.detail or f"the master target {name} has not begun")
            self._sleep(POLL)
        remedy = "Check that it runs and reaches this server: farshore master-target list"
        said = f"The master target {name} does not report about the disks that it must write."
        raise WrongState(said, remedy=remedy) if order.errand is Errand.LOOK else TryLater(said, remedy=remedy)


def _chosen(tx: Transaction, wanted: str) -> MasterTargetRow:
    if wanted:
        return master_targets.get(tx, wanted)
    own = master_targets.own(tx)
    if own is None:
        raise NotFound(
            "This installation runs no master target.",
            remedy="Name one with --master-target, or start the installation with `farshore up --master-target`.",
        )
    return own


def _check_host(row: MasterTargetRow, order: HomeOrder) -> None:
    """Raise Refused for an image that a master target of another host would write: an image does not show whether this
    host starts the machine from exactly that image."""
    images = [place.path for place in order.places if place.image]
    if images and not row.own and row.host != running_system():
        raise Refused(
            f"{images[0]} is an image, and the master target {row.name} is on another hostor has not reported yet.",
            remedy="Use a master target on this server's host, or a raw file or device that both hosts share.",
        )


def _check_seen(order: HomeOrder) -> None:
    """Raise Refused unless the written disks are those that this host, which will start the machine, has at the same
    paths: the notice of a half-written disk identifies it."""
    for place in order.places:
        if place.image:
            continue  # see _check_host
        try:
            notice = notice_on(Path(place.path))
        except NotFound as error:
            raise Refused(
                f"This server's host, which will start the machine, cannot read it: {error.message}",
                remedy="Use a disk that both hosts see at this path.",
            ) from error
        if notice is None or (notice.machine, notice.disk) != (order.machine, place.disk):
            raise Refused(
                f"{place.path} of this server's host is not the disk that the master target writes.",
                remedy="Use a disk that both hosts have at this path, or a master target on this host.",
            )
