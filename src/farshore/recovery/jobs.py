"""The jobs of recovery: durable workflows over the steps. Only this module of recovery knows DBOS.

A job that is interrupted by the death of the server continues at the first step that had not ended. A step is retried
while its error is temporary. A failover that fails, or is cancelled, removes what it had brought up and gives the
machine back, so it never blocks the next one. Once its machine has answered, nothing is undone.

A failover has a direction (``FailoverRow.direction``): to a recovery site, or home. Both are this one workflow. An
instance of the machine that runs at a recovery site is stopped. If the machine's stream comes from there, it is stopped
before the fence, so that all its writes are in the stream; otherwise (another point was chosen) as late as possible.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from dbos import DBOS

from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.steps import STUBBORN, USUAL, Persistence, run_step
from farshore.model.errors import Cancelled, FarshoreError, TryLater, WrongState
from farshore.model.states import UNDER_WAY, FailoverAction, FailoverState
from farshore.recovery.asking import FAILOVER, HOME, IN_PLACE, MIGRATE, SHUT_DOWN, SWITCH_OFF, TEST_FAILOVER
from farshore.recovery.context import RecoveryContext
from farshore.recovery.lost_sites import site_found_job
from farshore.recovery.several import several_job
from farshore.recovery.standing import refuse_if_cancelled, rows
from farshore.recovery.steps import power
from farshore.recovery.steps.await_answer import await_answer
from farshore.recovery.steps.check import check
from farshore.recovery.steps.choose_point import choose_point
from farshore.recovery.steps.clearance import commit, may_clean_up, may_delete, settle
from farshore.recovery.steps.conclude import conclude
from farshore.recovery.steps.deliver import deliver
from farshore.recovery.steps.drain import drain
from farshore.recovery.steps.fence import fence
from farshore.recovery.steps.give_way import remove_earlier, start_earlier, stop_earlier
from farshore.recovery.steps.go_home import follow_home, hold, look_at_home, stop_for_home
from farshore.recovery.steps.migrate import await_agent_off, end_protection
from farshore.recovery.steps.prepare import prepare
from farshore.recovery.steps.process_server import await_server, cancel_server, make_server, undo_server
from farshore.recovery.steps.remove import forget, note_failed, note_removed, remove
from farshore.recovery.steps.reprotect import await_stream, grant_stream
from farshore.recovery.steps.send import send
from farshore.recovery.steps.shut_down import shut_down
from farshore.recovery.steps.start import start_machine
from farshore.recovery.steps.switch_off import switch_off
from farshore.recovery.steps.verify import verify

log = logging.getLogger(__name__)

ACTIONS = {
    FailoverAction.START: "failover-start",
    FailoverAction.STOP: "failover-stop",
    FailoverAction.COMMIT: "commit",
    FailoverAction.REPROTECT: "reprotect",
    FailoverAction.CLEAN_UP: "cleanup",
    FailoverAction.DELETE: "failover-delete",
}
"""The job for each action."""

CHECK = "check"
SHUT_SOURCE_DOWN = "shut the source down"
SWITCH_SOURCE_OFF = "switch the source off"
FENCE = "fence the source"
DRAIN = "drain the process server"
CHOOSE = "choose the point"
LOOK = "look at its home"
FOLLOW = "bring the old disks up to date"
HOLD = "hold the machine still"
STOP_EARLIER = "stop the earlier machine"
DELIVER = "deliver the disks"
PREPARE = "prepare the guest"
SEND = "send the disks"
START = "start the machine"
AWAIT = "await its answer"
CONCLUDE = "conclude"
VERIFY = "check it"
REMOVE_EARLIER = "remove the earlier machine"
HYDRATE = "hydrate"
UNDO = "undo"
START_EARLIER = "start the earlier machine again"
NOTE = "note the outcome"
REMOVE = "remove everything"
STOP = "stop the machine"
COMMIT = "commit"
FORGET = "forget it"
MAKE_SERVER = "make its process server"
AWAIT_SERVER = "await its process server"
GRANT = "grant it the stream"
AWAIT_STREAM = "await its agent"
END_PROTECTION = "end its protection"
TAKE_OFF = "take its agent off"

_STARTS = Persistence(3, 2.0)
"""A site's error may be temporary or not: whoever waits for a machine must learn of it soon."""
_PERSISTENCE = {START: _STARTS, DELIVER: STUBBORN, FOLLOW: STUBBORN, SEND: STUBBORN}
"""A full disk, or a store that fails for a quarter of an hour, must not cost hours of writing."""
_WORKING = frozenset({"PENDING", "ENQUEUED", "DELAYED"})

P = ParamSpec("P")
R = TypeVar("R")


def recovery_jobs(context: RecoveryContext) -> tuple[JobDefinition, ...]:
    """Return every job of recovery, bound to ``context``. Call it once in a process, before DBOS is launched."""

    @DBOS.workflow(name=FAILOVER)
    def fail_over(request: Request) -> Result:
        failover = str(request["failover"])
        try:
            stop_first, home = act(CHECK, check, failover), bool(request.get(HOME))
            if home:
                placed = act(LOOK, look_at_home, failover)  # an earlier release returned nothing
                if request.get(IN_PLACE) or placed:
                    act(FOLLOW, follow_home, failover)
                held = act(HOLD, hold, failover)
                held = act(STOP_EARLIER, stop_for_home, failover, held)
            elif stop_first:
                act(STOP_EARLIER, stop_earlier, failover)
            if request.get(SHUT_DOWN):
                act(SHUT_SOURCE_DOWN, shut_down, failover)
            if request.get(SWITCH_OFF):
                act(SWITCH_SOURCE_OFF, switch_off, failover)
            fenced = act(FENCE, fence, failover)
            note = act(DRAIN, drain, failover, fenced)
            position = act(CHOOSE, choose_point, failover)
            act(DELIVER, deliver, failover, position)
            act(PREPARE, prepare, failover, position)
            act(SEND, send, failover, position)
            if not stop_first and not home:
                act(STOP_EARLIER, stop_earlier, failover)
            address, came_up = come_up(failover, position)
        except (FarshoreError, OSError) as error:
            undo(failover, error)
            raise
        result = concluded(failover, address, came_up, note)
        verified = run_step(VERIFY, STUBBORN, verify, context, failover)
        run_step(REMOVE_EARLIER, STUBBORN, remove_earlier, context, failover)
        if home:
            # Nothing is left to decide: the machine away from home is not needed, and protection continues from here.
            made_final(failover)
            return {**result, **verified, "held": bool(held)}
        return {**result, **verified}

    @DBOS.workflow(name=TEST_FAILOVER)
    def test_failover(request: Request) -> Result:
        failover = str(request["failover"])
        try:
            act(CHECK, check, failover)
            position = act(CHOOSE, choose_point, failover)
            act(DELIVER, deliver, failover, position)
            act(PREPARE, prepare, failover, position)
            act(SEND, send, failover, position)
            address, came_up = come_up(failover, position)
        except (FarshoreError, OSError) as error:
            undo(failover, error)
            raise
        result = concluded(failover, address, came_up, "")
        return {**result, **run_step(VERIFY, STUBBORN, verify, context, failover)}

    def act(
        name: str, step: Callable[Concatenate[RecoveryContext, str, P], R], failover: str, *args: P.args, **kw: P.kwargs
    ) -> R:
        """Run a step before which the job may be cancelled."""

        def unless_cancelled() -> R:
            refuse_if_cancelled(context, failover)
            return step(context, failover, *args, **kw)

        return run_step(name, _PERSISTENCE.get(name, USUAL), unless_cancelled)

    def come_up(failover: str, position: str) -> tuple[str, Result]:
        address = act(START, start_machine, failover, position)
        return address, act(AWAIT, await_answer, failover)

    def concluded(failover: str, address: str, came_up: Result, note: str) -> Result:
        """Record that the machine has answered. This is retried however long the catalog is unreachable: a running
        machine is never left without a record."""
        while True:
            try:
                return run_step(CONCLUDE, STUBBORN, conclude, context, failover, address, came_up, note)
            except TryLater as error:
                log.error("Failover %s has come up, but this cannot be recorded yet: %s", failover, error)

    def undo(failover: str, error: FarshoreError | OSError) -> None:
        after = FailoverState.CANCELLED if isinstance(error, Cancelled) else FailoverState.FAILED
        run_step(UNDO, STUBBORN, remove, context, failover)
        run_step(START_EARLIER, STUBBORN, start_earlier, context, failover)
        run_step(NOTE, STUBBORN, note_failed, context, failover, str(error), after)

    @DBOS.workflow(name=ACTIONS[FailoverAction.CLEAN_UP])
    def clean_up(request: Request) -> Result:
        failover = str(request["failover"])
        half_done = run_step(CHECK, USUAL, may_clean_up, context, failover, _is_working)
        run_step(REMOVE, STUBBORN, remove, context, failover)
        if half_done:
            run_step(START_EARLIER, STUBBORN, start_earlier, context, failover)
        run_step(NOTE, STUBBORN, note_removed, context, failover)
        return {"failover": failover}

    @DBOS.workflow(name=ACTIONS[FailoverAction.COMMIT])
    def commit_failover(request: Request) -> Result:
        failover = str(request["failover"])
        result: Result = {"failover": failover, "removed": made_final(failover)}
        if request.get(MIGRATE):
            run_step(END_PROTECTION, STUBBORN, end_protection, context, failover)
            result["agent"] = run_step(TAKE_OFF, USUAL, await_agent_off, context, failover)
        return result

    def made_final(failover: str) -> list[str]:
        superseded = run_step(COMMIT, USUAL, commit, context, failover)
        for earlier in superseded:
            run_step(REMOVE, STUBBORN, remove, context, earlier)
            run_step(NOTE, STUBBORN, note_removed, context, earlier)
        run_step(HYDRATE, STUBBORN, settle, context, failover)
        return superseded

    @DBOS.workflow(name=ACTIONS[FailoverAction.REPROTECT])
    def reprotect(request: Request) -> Result:
        failover = str(request["failover"])
        try:
            if run_step(MAKE_SERVER, USUAL, make_server, context, failover):
                run_step(AWAIT_SERVER, USUAL, await_server, context, failover)
            granted = run_step(GRANT, USUAL, grant_stream, context, failover)
        except (FarshoreError, OSError):
            run_step(UNDO, STUBBORN, undo_server, context, failover)
            raise
        return run_step(AWAIT_STREAM, USUAL, await_stream, context, failover, granted)

    @DBOS.workflow(name=ACTIONS[FailoverAction.STOP])
    def stop_failover(request: Request) -> Result:
        failover = str(request["failover"])
        run_step(CHECK, USUAL, power.want, context, failover, running=False)
        run_step(STOP, USUAL, power.stop_machine, context, failover)
        return {"failover": failover}

    @DBOS.workflow(name=ACTIONS[FailoverAction.START])
    def start_failover(request: Request) -> Result:
        failover = str(request["failover"])
        position = run_step(CHECK, USUAL, power.want, context, failover, running=True)
        run_step(START, _STARTS, power.start_again, context, failover, position)
        return {"failover": failover}

    @DBOS.workflow(name=ACTIONS[FailoverAction.DELETE])
    def delete_failover(request: Request) -> Result:
        failover = str(request["failover"])
        run_step(CHECK, USUAL, may_delete, context, failover)
        run_step(REMOVE, STUBBORN, remove, context, failover)
        run_step(FORGET, STUBBORN, forget, context, failover)
        return {"failover": failover}

    def cancel(request: Request) -> None:
        with context.catalog.writing() as tx:
            row, machine = rows(tx, str(request["failover"]))
            if FailoverState(row.state) not in UNDER_WAY:
                raise WrongState(
                    f"{machine.name} is already up.",
                    remedy="See the possible actions: farshore failover show",
                )
            row.cancelled = True

    def stopped(_job: str, request: Request) -> None:
        failover = str(request["failover"])
        with context.catalog.reading() as tx:
            if FailoverState(rows(tx, failover)[0].state) not in UNDER_WAY:
                return
        remove(context, failover)
        start_earlier(context, failover)
        note_failed(context, failover, "The server was upgraded while this job was running.", FailoverState.FAILED)

    def cancel_making(request: Request) -> None:
        cancel_server(context, str(request["failover"]))

    def stop_making(_job: str, request: Request) -> None:
        undo_server(context, str(request["failover"]))

    reprotecting = (MAKE_SERVER, AWAIT_SERVER, GRANT, AWAIT_STREAM)
    coming_up = (START, AWAIT, CONCLUDE, VERIFY)
    before = (CHECK, FENCE, DRAIN, CHOOSE, DELIVER, PREPARE, SEND, STOP_EARLIER)
    real = JobDefinition(FAILOVER, fail_over, (*before, *coming_up, REMOVE_EARLIER), cancel, stopped)
    test = JobDefinition(
        TEST_FAILOVER, test_failover, (CHECK, CHOOSE, DELIVER, PREPARE, SEND, *coming_up), cancel, stopped
    )
    return (
        real,
        test,
        several_job(context, real, test),
        site_found_job(context),
        JobDefinition(ACTIONS[FailoverAction.CLEAN_UP], clean_up, (CHECK, REMOVE, NOTE), _to_its_end),
        JobDefinition(ACTIONS[FailoverAction.COMMIT], commit_failover, (COMMIT, HYDRATE), _to_its_end),
        JobDefinition(ACTIONS[FailoverAction.REPROTECT], reprotect, reprotecting, cancel_making, stop_making),
        JobDefinition(ACTIONS[FailoverAction.STOP], stop_failover, (CHECK, STOP), _to_its_end),
        JobDefinition(ACTIONS[FailoverAction.START], start_failover, (CHECK, START), _to_its_end),
        JobDefinition(ACTIONS[FailoverAction.DELETE], delete_failover, (CHECK, REMOVE, FORGET), _to_its_end),
    )


def _to_its_end(_request: Request) -> None:
    raise WrongState("This job cannot be cancelled once it has begun.", remedy="Wait for it: farshore job watch")


def _is_working(job: str) -> bool:
    status = DBOS.get_workflow_status(job) if job else None
    return status is not None and status.status in _WORKING
