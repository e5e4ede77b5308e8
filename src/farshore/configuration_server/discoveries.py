"""Run discovery at every VMware server of the catalog: a thread for each, which stores what it finds.

Its library is an extra, and takes a third of a second to load: it is imported when there is a server to follow.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farshore.api_types.events import Severity
from farshore.api_types.vmware import VmwareMachine, VmwarePlace, VmwareServerRequest, VmwareState
from farshore.catalog import vmware
from farshore.catalog.database import Catalog
from farshore.catalog.tables import VmwareServerRow
from farshore.configuration_server.sealing import SecretSealer
from farshore.model.errors import FarshoreError, Refused, Unsupported
from farshore.model.ports import Clock
from farshore.protection.watch import AlertCondition
from farshore.vsphere.certificates import ShownCertificate, pinned

if TYPE_CHECKING:
    from farshore.vsphere.following import Follower
    from farshore.vsphere.session import Login
    from farshore.vsphere.sources import VmwareSources

log = logging.getLogger(__name__)

FAILING = "vmware-discovery"
"""Kind of the alert."""
DEFECT_SECONDS = 60.0
"""After an unexpected error it begins again."""
FAILING_SINCE = 30_000_000_000
"""In ns: for a process server's report that it fails."""
PATIENCE = 3
"""Consecutive failures that cause no alert: a vCenter restarts now and then."""


def sealed_as(name: str) -> str:
    """Return the name that a server's password is sealed under."""
    return f"vmware/{name}"


def login_of(row: VmwareServerRow, sealer: SecretSealer) -> Login:
    """Return the address and login of a server. Raises Unsupported, and WrongKey for a password that was sealed with
    another key; for a server that a process server follows, Unreachable if it cannot be reached from here."""
    with sdk():
        from farshore.vsphere.session import Login
    password = sealer.open(sealed_as(row.name), row.secret).decode()
    certificate = row.certificate or pinned(row.host, row.port, row.fingerprint).pem
    return Login(row.host, row.port, row.user, certificate, password)


@dataclass(frozen=True)
class OpenSourceServers:
    """A farshore.recovery.source_servers.SourceServers: the servers that the catalog knows."""

    catalog: Catalog
    sealer: SecretSealer

    def __call__(self, name: str) -> AbstractContextManager[VmwareSources]:
        """Log in. Raises NotFound, and as ``login_of``."""
        with sdk():
            from farshore.vsphere.sources import sources_at
        return sources_at(login_at(self.catalog, self.sealer, name))


def login_at(catalog: Catalog, sealer: SecretSealer, name: str) -> Login:
    """Return the address and login of the server of this name. Raises NotFound, and as ``login_of``."""
    with catalog.reading() as tx:
        row = vmware.server(tx, name)
    return login_of(row, sealer)


class CatalogSink:
    """A farshore.vsphere.following.Sink that writes rows. ``failures``: consecutive, up to now."""

    def __init__(self, catalog: Catalog, clock: Clock, name: str) -> None:
        self._catalog, self._clock, self._name = catalog, clock, name
        self.failures = 0
        self.error: FarshoreError | None = None

    def connected(self, product: str) -> None:
        """Note that the login has succeeded."""
        self._note(VmwareState.CONNECTING, product=product)

    def keep(self, machines: Collection[VmwareMachine], places: Collection[VmwarePlace], gone: Collection[str]) -> None:
        """Store changed machines."""
        found = [vmware.Found(one.id, one.name, one.model_dump(mode="json"), uuid=one.uuid.lower()) for one in machines]
        where = [vmware.Found(one.id, one.name, one.model_dump(mode="json"), kind=one.kind.value) for one in places]
        now = self._clock.now()
        self._catalog.write(lambda tx: vmware.keep(tx, self._name, found, where, gone, now))

    def whole(self, known: Collection[str]) -> None:
        """Note that all machines have been reported."""
        self._catalog.write(lambda tx: vmware.keep_only(tx, self._name, known))
        self._note(VmwareState.FOLLOWING, trouble="", remedy="")
        self.failures, self.error = 0, None

    def failed(self, error: FarshoreError) -> None:
        """Note that discovery fails now."""
        self.failures, self.error = self.failures + 1, error
        self._note(VmwareState.FAILING, trouble=error.message, remedy=error.remedy)

    def _note(self, state: VmwareState, **values: str) -> None:
        now = self._clock.now()
        self._catalog.write(lambda tx: vmware.note_state(tx, self._name, state.value, now, **values))


@dataclass
class _Running:
    """A follower in its thread. ``made_of``: the address and login in the row when it started."""

    made_of: tuple[Any, ...]
    follower: Follower
    sink: CatalogSink
    thread: threading.Thread


class Discoveries:
    """``look`` starts and stops followers as the catalog says; one thread calls it."""

    def __init__(self, catalog: Catalog, clock: Clock, sealer: SecretSealer) -> None:
        self._catalog, self._clock, self._sealer = catalog, clock, sealer
        self._running: dict[str, _Running] = {}
        self._refused: dict[str, tuple[Any, ...]] = {}

    def look(self) -> None:
        """Follow every server in the catalog. If a follower cannot even begin, this is noted in its row, and not
        retried until the row changes."""
        with self._catalog.reading() as tx:
            rows = {row.name: row for row in vmware.servers(tx) if not row.through}
        for name, running in list(self._running.items()):
            if name not in rows or _made_of(rows[name]) != running.made_of:
                del self._running[name]
                running.follower.stop()
        for name, row in rows.items():
            if name in self._running or self._refused.get(name) == _made_of(row):
                continue
            try:
                self._running[name] = self._start(row)
            except FarshoreError as error:  # no library, or a password that was sealed with another key
                log.warning("Discovery at VMware server %s cannot begin: %s", name, error)
                CatalogSink(self._catalog, self._clock, name).failed(error)
                self._refused[name] = _made_of(row)

    def conditions(self) -> list[AlertCondition]:
        """Return conditions for the watch: servers where discovery has failed for a while."""
        with self._catalog.reading() as tx:
            elsewhere = [(row.name, row.trouble, row.remedy) for row in vmware.servers(tx) if self._fails(row)]
        return [*self._own(), *(_failing(*one) for one in elsewhere)]

    def _fails(self, row: VmwareServerRow) -> bool:
        """Return whether the process server that follows it has reported failures for a while."""
        since = self._clock.now() - (row.since or 0)
        return bool(row.through) and row.state == VmwareState.FAILING.value and since > FAILING_SINCE

    def _own(self) -> list[AlertCondition]:
        return [
            _failing(name, running.sink.error.message, running.sink.error.remedy)
            for name, running in list(self._running.items())
            if running.sink.error is not None and running.sink.failures >= PATIENCE
        ]

    def stop(self) -> None:
        """End all of them, and log out."""
        running, self._running = list(self._running.values()), {}
        for one in running:
            one.follower.stop()
        for one in running:
            one.thread.join(3.0)

    def _start(self, row: VmwareServerRow) -> _Running:
        with sdk():
            from farshore.vsphere.following import Follower
        login = login_of(row, self._sealer)
        sink = CatalogSink(self._catalog, self._clock, row.name)
        follower = Follower(lambda: login, sink)
        thread = threading.Thread(target=_run, args=[row.name, follower, sink], name=f"vmware {row.name}", daemon=True)
        thread.start()
        return _Running(_made_of(row), follower, sink, thread)


def _run(name: str, follower: Follower, sink: CatalogSink) -> None:
    """The body of a thread. A defect is logged and noted, and everything begins again after a while."""
    while not follower.stopped:
        try:
            follower.run()
        except Exception as error:
            log.exception("Discovery at VMware server %s met a defect.", name)
            with contextlib.suppress(FarshoreError):
                sink.failed(
                    Refused(
                        f"A defect: {type(error).__name__}: {error}",
                        remedy="Report this with the server's log: farshore support-bundle",
                    )
                )
            follower.rest(DEFECT_SECONDS)


def _failing(name: str, message: str, remedy: str) -> AlertCondition:
    said = f"Discovery at VMware server {name} fails: {message}"[:1000]
    return AlertCondition(FAILING, f"vmware/{name}", Severity.WARNING, said, remedy)


def _made_of(row: VmwareServerRow) -> tuple[Any, ...]:
    return row.host, row.port, row.user, row.certificate, row.secret


@contextmanager
def sdk() -> Iterator[None]:
    """Import what needs pyVmomi inside. Raises Unsupported if it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "pyVmomi":
            raise
        raise Unsupported("The library pyVmomi is not installed.", remedy="pip install 'farshore[vsphere]'") from error


def try_login(request: VmwareServerRequest) -> tuple[ShownCertificate, str]:
    """Log in once, as for a new server's row; return its certificate and its product. Raises WrongKey, Forbidden for a
    wrong password or missing privileges, Unreachable, Unsupported."""
    with sdk():
        from farshore.vsphere.following import lacking
        from farshore.vsphere.session import Login, session
    shown = pinned(request.host, request.port, request.fingerprint)
    login = Login(request.host, request.port, request.user, shown.pem, request.password.get_secret_value())
    with session(login) as opened:
        missing = opened.missing()
        if missing:
            raise lacking(request.host, missing)
        return shown, opened.product
