"""Carry out each command once, and send the results until they are acknowledged.

A command is offered until the server has its result, so the same one arrives repeatedly: with each poll, after an
interrupted connection, at the next process. One at a time is carried out, because a freeze must not meet another;
proofs, which may take hours, run beside the others.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, FrozenSet, Sequence, Set, Union

from farshore.api_types.commands import (
    Arguments,
    Command,
    CommandResult,
    Payload,
    PointArguments,
    PointResult,
    ProveArguments,
    ProveResult,
    ResyncResult,
    ShutDownArguments,
    ShutDownResult,
    UninstallArguments,
    UninstallResult,
    UpgradeArguments,
    UpgradeResult,
    arguments_of,
    failure,
)
from farshore.client.machine_self import MachineSelf
from farshore.formats.point_payload import PointPayload
from farshore.mobility.commands.record import Record
from farshore.mobility.control.removal import Removal
from farshore.mobility.control.shutdown import Heard, Shutdown
from farshore.mobility.points.points import take_point
from farshore.mobility.rounds.round_run import RoundRun
from farshore.mobility.stream.epoch_run import EpochRun
from farshore.mobility.stream.replication import Replication
from farshore.mobility.upgrade.upgrading import Upgrades
from farshore.model.commands import CommandKind, CommandState
from farshore.model.errors import Damaged, FarshoreError, Forbidden, NotFound, Refused, TryLater, Unauthenticated
from farshore.model.identifiers import PointId

log = logging.getLogger(__name__)

_PROVE_LOOK_SECONDS = 0.2


class _Ending(Exception):
    """The agent ends while a proof is in progress."""


class Handling:
    """Used from the polling thread, the heartbeats' and its own workers."""

    def __init__(
        self,
        server: MachineSelf,
        replication: Replication,
        upgrades: Upgrades,
        record: Record,
        removal: Removal,
        shutdown: Shutdown,
    ) -> None:
        self._server = server
        self._replication = replication
        self._upgrades = upgrades
        self._record = record
        self._removal = removal
        self._shutdown = shutdown
        self._lock = threading.Lock()
        self._unheard: Dict[str, CommandResult] = record.results()
        self._begun: Set[str] = set(self._unheard) | ({upgrades.under_way} if upgrades.under_way else set())
        self._busy: Set[str] = set()
        self._open: FrozenSet[str] = frozenset()
        self._ending = threading.Event()
        self._one_by_one = ThreadPoolExecutor(1, "command")
        self._proofs = ThreadPoolExecutor(1, "prove")

    def offered(self, commands: Sequence[Command]) -> None:
        """Begin open commands that were not begun yet. Drop those that were not begun and are no longer open."""
        with self._lock:
            self._open = frozenset(command.id for command in commands)
            new = [command for command in commands if command.id not in self._begun]
            self._busy.update(command.id for command in new)
            self._begun &= self._open | set(self._unheard)
            self._begun |= self._busy
        for command in new:
            whose = self._proofs if command.kind == CommandKind.PROVE.value else self._one_by_one
            whose.submit(self._carry_out, command)

    def beside(self, work: Callable[[], None]) -> None:
        """Do other work that must not run at the same time as a command: after those that were begun, before later
        ones."""
        self._one_by_one.submit(work)

    def finished(self, command: str, kind: str, result: CommandResult) -> None:
        """Keep a result until it is acknowledged, and try to send it now."""
        with self._lock:
            self._begun.add(command)
            self._busy.discard(command)
            self._unheard[command] = result
            self._record.end(command, kind, result)
        self.send_again()

    def send_again(self) -> None:
        """Send results that were not acknowledged yet. Called whenever the server answers."""
        with self._lock:
            unheard = dict(self._unheard)
        for command, result in unheard.items():
            try:
                state = self._server.answer(command, result).state
                log.info("A command has ended.", extra={"fields": {"command": command, "state": state.value}})
            except NotFound:
                log.warning("The server no longer knows the command %s.", command)
            except FarshoreError as error:
                if not (_is_farewell(result) and isinstance(error, (Forbidden, Unauthenticated))):
                    log.info("The result of command %s is sent later: %s", command, error)
                    return
            with self._lock:
                self._unheard.pop(command, None)
                self._record.forget(command)
            if _is_farewell(result):
                self._removal.conclude()

    def close(self) -> None:
        """Stop beginning commands."""
        self._ending.set()
        self._one_by_one.shutdown(wait=False)
        self._proofs.shutdown(wait=False)

    def _carry_out(self, command: Command) -> None:
        with self._lock:
            if command.id not in self._open:
                self._busy.discard(command.id)
                self._begun.discard(command.id)
                log.info("A command was withdrawn before it began.", extra={"fields": {"command": command.id}})
                return
        try:
            arguments = arguments_of(command)
            with self._lock:
                self._record.begin(command.id, CommandKind(command.kind))
            result = CommandResult(payload=self._done(command.id, arguments))
        except _Ending:
            return  # it is repeatable: the next process does it
        except FarshoreError as error:
            result = failure(error)
        except Exception as error:
            log.exception("Command %s failed.", command.kind)
            what = f"The agent failed: {type(error).__name__}: {error}"
            result = failure(Damaged(what, remedy="Read the agent's log: journalctl -u farshore-mobility"))
        self.finished(command.id, command.kind, result)

    def _done(self, command: str, arguments: Arguments) -> Payload:
        if isinstance(arguments, PointArguments):
            return self._point(command, arguments)
        if isinstance(arguments, UpgradeArguments):
            self._upgrades.carry_out(command, arguments)
            return UpgradeResult(release=arguments.release)
        if isinstance(arguments, ProveArguments):
            return self._prove(arguments)
        if isinstance(arguments, UninstallArguments):
            return self._removal.carry_out()
        if isinstance(arguments, ShutDownArguments):
            return self._shut_down(command, arguments)
        self._replication.resync()
        return ResyncResult()

    def _point(self, command: str, arguments: PointArguments) -> PointResult:
        run = self._consistent()
        point = PointPayload(PointId(command), arguments.kind, arguments.name)
        milestone = take_point(point, run, self._replication.disks, hold=arguments.hold or 0)
        return PointResult(epoch=run.grant.epoch, sequence=milestone.sequence, time=milestone.time)

    def _consistent(self) -> Union[EpochRun, RoundRun]:
        run = self._replication.current
        if run is None or not run.consistent:
            raise TryLater(
                "This machine has no consistent recovery point yet.",
                remedy="Wait until the copy is complete (farshore machine show), then repeat the request.",
            )
        return run

    def _shut_down(self, command: str, arguments: ShutDownArguments) -> ShutDownResult:
        def tell(result: ShutDownResult) -> Heard:
            try:
                state = self._server.answer(command, CommandResult(payload=result)).state
            except NotFound:
                return Heard.NO
            except FarshoreError as error:
                log.info("The result of the shutdown is sent again before the machine is switched off: %s", error)
                return Heard.UNKNOWN
            return Heard.YES if state is CommandState.SUCCEEDED else Heard.NO

        return self._shutdown.carry_out(command, arguments, self._consistent(), self._replication.disks, tell)

    def _prove(self, arguments: ProveArguments) -> ProveResult:
        """Return once everything requested has been compared, however often epochs begin meanwhile."""
        proving = self._replication.proving
        demand = proving.demand(whole=arguments.whole)
        while proving.demanded is demand:
            if self._ending.wait(_PROVE_LOOK_SECONDS):
                raise _Ending
        if demand.failed:
            raise Refused(demand.failed, remedy="Check the machine's state: farshore machine show")
        disks = proving.standing().disks
        return ProveResult(proven=demand.proven, differing=demand.differing, busy=demand.busy, disks=disks)


def _is_farewell(result: CommandResult) -> bool:
    """Return whether the agent has removed itself except for what this answer needs. A server that no longer admits it
    knows enough."""
    return isinstance(result.payload, UninstallResult)
