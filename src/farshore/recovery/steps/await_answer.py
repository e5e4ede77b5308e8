"""Waits until the recovered machine answers: that moment is the end of the RTO."""

from __future__ import annotations

import socket

from farshore.catalog import failovers
from farshore.model.errors import TryLater
from farshore.protection.durable import report_progress
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.sites.port import Answering, Condition, RecoverySite

_CONNECT_SECONDS = 2.0


def await_answer(context: RecoveryContext, failover: str) -> int:
    """When it answered (ns), 0 if it did not in time: it goes on running then, its console tells more.

    Raises TryLater if the machine stops while it is waited for.
    """
    with context.catalog.reading() as tx:
        row = failovers.get(tx, failover)
        site, ports = context.site(row.site), sorted(int(port) for port in row.forward)
    begun = context.clock.monotonic()
    while True:
        found = site.status(failover_id(failover))
        if found.condition in (Condition.STOPPED, Condition.ABSENT):
            raise TryLater(
                f"The recovered machine has stopped ({found.detail or found.condition.value}).",
                remedy="Look at its console, then fail over again, to another point perhaps.",
            )
        waited = context.clock.monotonic() - begun
        if ports:
            if _answers(site, failover, found.address, ports[0]):
                return context.clock.now()
        elif waited >= context.patience.settle:
            return context.clock.now()
        if waited > context.patience.answer:
            return 0
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
