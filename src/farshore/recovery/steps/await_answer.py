"""Waits until the recovered machine answers: that moment is the end of the RTO."""

from __future__ import annotations

import socket

from farshore.catalog import failovers
from farshore.durable.jobs import Result
from farshore.durable.progress import report_progress
from farshore.model.errors import Refused
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import refuse_if_cancelled
from farshore.sites.port import Answering, Condition, RecoverySite

_CONNECT_SECONDS = 2.0
_DOWN = frozenset({Condition.STOPPED, Condition.SHUT_DOWN, Condition.ABSENT})


def await_answer(context: RecoveryContext, failover: str) -> Result:
    """``answered``: when (ns), 0 if it did not in time, or nobody could ask; ``checked``: what was seen working.

    A machine that does not answer goes on running, and its console tells more. Raises Refused if it stops meanwhile,
    Cancelled.
    """
    with context.catalog.reading() as tx:
        row = failovers.get(tx, failover)
        site, ports = context.site(row.site), sorted((int(host), guest) for host, guest in row.forward.items())
    begun = context.clock.monotonic()
    while True:
        refuse_if_cancelled(context, failover)
        found = site.status(failover_id(failover))
        if found.condition in _DOWN:
            raise Refused(
                f"The recovered machine has stopped ({found.detail or found.condition.value}).",
                remedy=f"See why: farshore failover console {failover}; then fail over to another point perhaps.",
            )
        waited = context.clock.monotonic() - begun
        if ports:
            if _answers(site, failover, found.address, ports[0][0]):
                return {"answered": context.clock.now(), "checked": f"its port {ports[0][1]} answered"}
        elif waited >= context.patience.settle:
            return {"answered": 0, "checked": "only that it was started: without --forward nothing can be asked of it"}
        if waited > context.patience.answer:
            return {"answered": 0, "checked": f"its port {ports[0][1]} did not answer within {waited:.0f} s"}
        report_progress(min(0.95, waited / 60), "the machine starts")
        context.sleep(context.patience.poll)


def _answers(site: RecoverySite, failover: str, address: str, port: int) -> bool:
    if isinstance(site, Answering):
        return site.answers(failover_id(failover), port)
    try:
        with socket.create_connection((address, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
