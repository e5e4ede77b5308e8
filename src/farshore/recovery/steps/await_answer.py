"""Wait until the recovered machine answers: that moment is the end of the RTO."""

from __future__ import annotations

import socket

from farshore.api_types.targets import Target
from farshore.catalog import failovers
from farshore.catalog.tables import FailoverRow
from farshore.durable.jobs import Result
from farshore.durable.progress import report_progress
from farshore.model.errors import Refused
from farshore.recovery import consoles
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.diagnosis import diagnose
from farshore.recovery.standing import asked, refuse_if_cancelled
from farshore.sites.port import Answering, Condition, RecoverySite, Resumable

_CONNECT_SECONDS = 2.0
_NEWEST = 16384
_DOWN = frozenset({Condition.STOPPED, Condition.SHUT_DOWN, Condition.ABSENT})


def await_answer(context: RecoveryContext, failover: str) -> Result:
    """Return ``answered``: the time (ns), 0 if it did not answer in time or could not be asked; ``checked``: what was
    seen working.

    A machine that does not answer keeps running, and its console shows more. Raises Refused if it stops meanwhile, or
    if its console shows that its start failed; Cancelled."""
    with context.catalog.reading() as tx:
        row = failovers.get(tx, failover)
        site, ports, patience = context.site(row.site), _ports(row), _patience(context, row)
    begun = context.clock.monotonic()
    hung = _Hung(context, failover, site)
    while True:
        refuse_if_cancelled(context, failover)
        found = site.status(failover_id(failover))
        if found.condition in _DOWN:
            raise Refused(
                f"The recovered machine has stopped ({found.detail or found.condition.value}).",
                remedy=f"Find the cause in its console output (farshore failover console {failover}), or "
                "fail over to another point.",
            )
        if found.condition is Condition.PAUSED and isinstance(site, Resumable):
            # Its disk did not answer in time: nothing is lost, and nobody else resumes the machine before it has come
            # up.
            site.resume(failover_id(failover))
        hung.look()
        waited = context.clock.monotonic() - begun
        if ports:
            for host, guest in ports:
                if _answers(site, failover, found.address, host):
                    return {"answered": context.clock.now(), "checked": f"its port {guest} answered"}
        elif waited >= context.patience.settle:
            return {"answered": 0, "checked": "only that it was started: without --forward its ports cannot be checked"}
        if waited > patience:
            guests = " or ".join(str(guest) for _, guest in ports)
            return {"answered": 0, "checked": f"its port {guests} did not answer within {waited:.0f} s"}
        report_progress(min(0.95, waited / 60), "the machine starts")
        context.sleep(context.patience.poll)


def _ports(row: FailoverRow) -> list[tuple[int, int]]:
    """Return the ports at which it may answer, of the host and of the guest: the first port that a user forwarded, or,
    if only checks need ports, any of those."""
    every = sorted((int(host), guest) for host, guest in row.forward.items())
    wanted = asked(row).forward
    if wanted is None:
        return every[:1]
    return [one for one in every if one[0] in wanted][:1] or every


def _patience(context: RecoveryContext, row: FailoverRow) -> float:
    """Return the seconds to wait; if only its checks need ports, not longer than they would wait."""
    within = [check.within for check in Target.model_validate(row.target).checks or [] if check.port is not None]
    if asked(row).forward or not within:
        return context.patience.answer
    return min(context.patience.answer, max(within))


class _Hung:
    """Finds a guest that has panicked, or has no root disk: its console says so, and then nothing more."""

    def __init__(self, context: RecoveryContext, failover: str, site: RecoverySite) -> None:
        self._context, self._failover, self._site = context, failover, site
        self._text, self._since = "", context.clock.monotonic()

    def look(self) -> None:
        """Raise Refused if that state has lasted long enough: a guest may restart by itself."""
        text = consoles.text(self._context, self._failover, self._site, _NEWEST)
        now = self._context.clock.monotonic()
        if text != self._text:
            self._text, self._since = text, now
        elif now - self._since >= self._context.patience.hung:
            wrong = diagnose(text)
            if wrong is not None:
                raise Refused(f"The recovered machine does not come up. {wrong.message}", remedy=wrong.remedy)


def _answers(site: RecoverySite, failover: str, address: str, port: int) -> bool:
    if isinstance(site, Answering):
        return site.answers(failover_id(failover), port)
    try:
        with socket.create_connection((address, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
