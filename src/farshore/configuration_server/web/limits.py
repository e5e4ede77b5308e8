"""Limit how often a caller may call, and which refused requests enter the audit log.

Machines and process servers have a limit on each route, strangers a limit on invalid tokens. Refused requests enter the
audit log, but only up to a limit: the rest is counted, and the next entry contains the count.
"""

from __future__ import annotations

import ipaddress
import logging
import threading

from farshore.catalog import audit
from farshore.catalog.database import Catalog, Transaction
from farshore.configuration_server.web.quotas import Quota
from farshore.model.errors import Busy, FarshoreError
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

BY_ROUTE = {
    # burst, per second
    "/v1/machines/self/heartbeat": (120, 2.0),
    "/v1/machines/self/commands": (120, 1.0),
    "/v1/machines/self/commands/{command}/result": (240, 4.0),
    "/v1/machines/self/guest-scripts": (120, 2.0),
    "/v1/machines/self/guest-scripts/{script}/result": (60, 1.0),
    "/v1/machines/self/epochs": (120, 1 / 15),
    "/v1/machines/self/certificate": (20, 1 / 600),
    "/v1/machines/self/bundles/{release}": (20, 1 / 60),
    "/v1/machines/self/bundles/{release}/signature": (20, 1 / 60),
    "/v1/process-servers/self": (60, 1 / 5),
    "/v1/process-servers/self/report": (240, 10.0),
    "/v1/process-servers/self/certificate": (20, 1 / 600),
    "/v1/process-servers/self/streams/{machine}/{epoch}": (5000, 200.0),
    "/v1/process-servers/self/machines/{machine}/keys": (5000, 200.0),
    "/v1/process-servers/self/pushes/{push}": (60, 1.0),
    "/v1/process-servers/self/pushes/{push}/progress": (240, 10.0),
    "/v1/process-servers/self/pushes/{push}/result": (60, 1.0),
    "/v1/process-servers/self/agents/{python}": (60, 1 / 5),
    "/v1/process-servers/self/bundles/{release}": (20, 1 / 60),
    "/v1/master-targets/self": (60, 1 / 5),
    "/v1/master-targets/self/report": (240, 10.0),
    "/v1/master-targets/self/certificate": (20, 1 / 600),
    "/v1/master-targets/self/errands/{errand}": (60, 1.0),
    "/v1/master-targets/self/errands/{errand}/progress": (240, 10.0),
    "/v1/master-targets/self/errands/{errand}/result": (60, 1.0),
}
"""An agent reports every 2 seconds, opens its stream of commands each half an hour and answers each command once. A
process server reports every second, and as often about each of four pushes, as a master target does about each of four
errands. An epoch leaves a row in the catalog, as a
certificate does."""
WRONG_TOKENS = (10, 1 / 60)
"""By address. A token has 256 random bits: they protect the door; this limit protects from load and log entries."""
TOLD, TOLD_BY_ONE = (300, 1 / 10), (30, 1 / 60)
"""Limit of refused requests in the audit log: of all, and of one address. Under a flood that is 4 MB a day."""


class RequestLimits:
    """Of one installation. Safe to use from several threads."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._by_route = {path: Quota(clock, *limits) for path, limits in BY_ROUTE.items()}
        self._wrong_tokens = Quota(clock, *WRONG_TOKENS)
        self._told, self._told_by_one = Quota(clock, *TOLD), Quota(clock, *TOLD_BY_ONE)
        self._lock = threading.Lock()
        self._untold = 0

    def check(self, path: str, caller: str) -> None:
        """Raise Busy if ``caller`` has called the route at ``path`` too often."""
        quota = self._by_route.get(path)
        wait = quota.take(caller) if quota is not None else 0.0
        if wait:
            raise Busy(f"{caller} calls {path} too often.", remedy="Wait, then repeat the call.", after=wait)

    def check_tokens(self, address: str) -> None:
        """Raise Busy if too many invalid tokens came from there."""
        wait = self._wrong_tokens.wait(_network(address))
        if wait:
            raise Busy(
                f"Too many invalid tokens came from {address}.",
                remedy="Wait, then use a token exactly as `farshore token create` printed it.",
                after=wait,
            )

    def refused(self, error: FarshoreError, actor: str, source: str, subject: str, *, token: bool) -> None:
        """Record a refused request; ``token``: it had an invalid token."""
        if token:
            self._wrong_tokens.take(_network(source))
        with self._lock:
            if self._told_by_one.take(_network(source)) or self._told.take(""):
                self._untold += 1
                return
            untold, self._untold = self._untold, 0

        def note(tx: Transaction) -> None:
            audit.append(
                tx,
                time=self._clock.now(),
                kind="refused",
                actor=actor,
                source=source,
                subject=subject,
                message=error.message,
                detail={"code": error.code, **({"not_listed_before": untold} if untold else {})},
            )

        try:
            self._catalog.write(note)
        except FarshoreError as failure:
            log.error("A refused request is not in the audit log (%s %s): %s", actor, subject, failure)


def _network(address: str) -> str:
    """Return an IPv4 address, or the /64 of an IPv6 address, all of which one host may have."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))
