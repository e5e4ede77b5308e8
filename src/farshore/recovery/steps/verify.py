"""Run the checks that were chosen for a machine, once it has come up, and keep their results.

A check is retried until it passes or its time is over. Whatever the results, the machine stays up: people decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farshore.api_types.checks import Check, CheckKind, CheckResult, Evidence, Verdict
from farshore.api_types.events import Severity
from farshore.api_types.targets import Target
from farshore.catalog import failovers, machines
from farshore.catalog.tables import FailoverRow
from farshore.durable.jobs import Result
from farshore.durable.progress import report_progress
from farshore.model.errors import FarshoreError, NotFound
from farshore.model.states import FailoverState
from farshore.recovery import consoles
from farshore.recovery.checking.agent_scripts import AgentScripts
from farshore.recovery.checking.probes import Surroundings, attempt
from farshore.recovery.checking.reach import Reach
from farshore.recovery.checking.scripts import ScriptFolder
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.diagnosis import diagnose
from farshore.recovery.evidence import add_evidence, keep_screen
from farshore.recovery.ports import leads_nowhere
from farshore.recovery.standing import asked, is_test, rows, tell
from farshore.sites.port import Condition, RecoverySite

_GONE = frozenset({Condition.ABSENT, Condition.STOPPED, Condition.SHUT_DOWN})
_SECOND = 1e9


@dataclass
class _Pending:
    check: Check
    tries: int = 0
    result: CheckResult | None = None


def verify(context: RecoveryContext, failover: str) -> Result:
    """Return the verdict and the number of checks that passed. A check's result never makes this fail."""
    with context.catalog.reading() as tx:
        row = failovers.get(tx, failover)
        requested, site = row.requested, context.site(row.site)
        checks = Target.model_validate(row.target).checks or []
        around = _surroundings(context, row, machines.get(tx, row.machine).name, site, checks)
    pending = [_Pending(check) for check in checks]
    begun = context.clock.monotonic()
    while any(one.result is None for one in pending):
        gone = _gone(context, site, failover)
        for one in pending:
            if one.result is None:
                _try(context, one, around, gone, begun, requested)
        done = sum(one.result is not None for one in pending)
        report_progress(min(0.99, done / len(pending)), f"{done} of {len(pending)} checks have ended")
        if done < len(pending):
            context.sleep(context.patience.poll)
    keep_screen(context, failover, site, anew=True)
    return _note(context, failover, [one.result for one in pending if one.result is not None], site)


def _try(
    context: RecoveryContext, one: _Pending, around: Surroundings, gone: str, begun: float, requested: int
) -> None:
    one.tries += 1
    passed, detail = (False, gone) if gone else attempt(one.check, around)
    over = context.clock.monotonic() - begun >= one.check.within
    if passed or over or gone:
        seconds = (context.clock.now() - requested) / _SECOND
        one.result = CheckResult(check=one.check, passed=passed, seconds=seconds, tries=one.tries, detail=detail)
        if one.check.kind is CheckKind.AGENT:
            around.agent.withdraw(one.check)


def _gone(context: RecoveryContext, site: RecoverySite, failover: str) -> str:
    """Return why nothing more can be asked of the machine; empty while something can."""
    with context.catalog.reading() as tx:
        try:
            row = failovers.get(tx, failover)
        except NotFound:
            return "the failover was deleted"
        if FailoverState(row.state) is not FailoverState.RUNNING:
            return f"the failover is {row.state}"
        if row.stopped:
            return "the machine was stopped"
    try:
        condition = site.status(failover_id(failover)).condition
    except FarshoreError:
        return ""
    return f"the machine is {condition.value}" if condition in _GONE else ""


def _surroundings(
    context: RecoveryContext, row: FailoverRow, name: str, site: RecoverySite, checks: Sequence[Check]
) -> Surroundings:
    failover = row.id
    reach = Reach(
        site,
        failover_id(failover),
        row.address or "127.0.0.1",
        {int(guest): int(host) for host, guest in row.forward.items()},
        own_address(row),
    )
    facts = {
        "FARSHORE_FAILOVER": failover,
        "FARSHORE_KIND": row.kind,
        "FARSHORE_MACHINE": name,
        "FARSHORE_MACHINE_ID": row.machine,
    }

    def console() -> str:
        return consoles.text(context, failover, site)

    scripts, shared = ScriptFolder(context.scripts), is_test(row) and bool(asked(row).network)
    agent = AgentScripts(context.catalog, context.clock, site, reach.failover, row.machine, checks, scripts, shared)
    return Surroundings(reach, console, scripts, facts, agent)


def own_address(row: FailoverRow) -> str:
    """Return the address of a guest on a network of its site: its first card's chosen address."""
    networks = Target.model_validate(row.target).networks or []
    if not networks or leads_nowhere(networks[0].kind, test=is_test(row)):
        return ""
    return networks[0].addresses[0].partition("/")[0] if networks[0].addresses else ""


def _note(context: RecoveryContext, failover: str, results: list[CheckResult], site: RecoverySite) -> Result:
    wrong = diagnose(consoles.text(context, failover, site))
    with context.catalog.writing() as tx:
        try:
            row, machine = rows(tx, failover)
        except NotFound:
            return {"verdict": Verdict.NONE.value, "passed": 0, "checks": len(results)}
        passed = [one for one in results if one.passed]
        verdict = Evidence(checks=results).verdict
        found: dict[str, object] = {"checks": results, "checked": context.clock.now()}
        if verdict is Verdict.PASSED:
            found["rto_seconds"] = max(one.seconds for one in results)
        if verdict is Verdict.FAILED:
            found["rto_seconds"] = None
            found["diagnosis"] = wrong.message if wrong is not None else ""
        add_evidence(row, **found)
        if results:
            tell(
                context,
                tx,
                row,
                f"failover.checks-{verdict.value}",
                f"{len(passed)} of {len(results)} checks of {machine.name} passed.",
                severity=Severity.INFORMATION if verdict is Verdict.PASSED else Severity.ERROR,
                detail={"failed": [one.check.kind.value for one in results if not one.passed]},
            )
        return {"verdict": verdict.value, "passed": len(passed), "checks": len(results)}
