"""Follow the VMware servers that the configuration server names in its answers to reports, and report what is there.

It uses the same follower as the configuration server, with the API as its sink. The password is fetched for each login,
sealed to a key that is made for it, and is not stored. If the configuration server was unreachable, discovery begins
again to report what was found meanwhile: the server compares, so little is written.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from farshore.api_types.commands import CommandFailure
from farshore.api_types.vmware import (
    DISCOVERY_PORTION,
    DiscoveryClaim,
    DiscoveryOrder,
    DiscoveryReport,
    DiscoveryStanding,
    SealedDiscovery,
    VmwareMachine,
    VmwarePlace,
)
from farshore.model.errors import FarshoreError, Malformed, NotFound, Unsupported
from farshore.protection.push.sealed_target import Opener
from farshore.vsphere.certificates import pinned

if TYPE_CHECKING:
    from farshore.vsphere.following import Follower
    from farshore.vsphere.session import Login

_log = logging.getLogger(__name__)
_END_SECONDS = 3.0
_AGAIN_SECONDS = 60.0


class DiscoverySource(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def begin_discovery(self, name: str, claim: DiscoveryClaim) -> SealedDiscovery:
        """Fetch a login. Raises NotFound, TryLater."""
        ...

    def note_discovery(self, name: str, report: DiscoveryReport) -> DiscoveryStanding:
        """Report what was found. Raises NotFound, TryLater."""
        ...


class Discoveries:
    """The reporter's thread passes orders to it. Created and stopped once."""

    def __init__(self, source: DiscoverySource) -> None:
        self._source = source
        self._running: dict[str, _Discovery] = {}

    def ordered(self, orders: Sequence[DiscoveryOrder]) -> None:
        """Follow exactly these servers."""
        wanted = {order.name: order for order in orders}
        for name, running in list(self._running.items()):
            if wanted.get(name) != running.order:
                del self._running[name]
                running.stop()
        for name, order in wanted.items():
            if name not in self._running:
                self._running[name] = _Discovery(self._source, order)
                self._running[name].start()

    def stop(self) -> None:
        """End all of them, and log out."""
        running, self._running = list(self._running.values()), {}
        for one in running:
            one.stop()
        for one in running:
            one.thread.join(_END_SECONDS)


class _Discovery:
    """One server, in its own thread."""

    def __init__(self, source: DiscoverySource, order: DiscoveryOrder) -> None:
        self.order = order
        self._source = source
        self._sink = ApiSink(source, order)
        self._ended = threading.Event()
        self._follower: Follower | None = None
        self.thread = threading.Thread(target=self._run, name=f"vmware {order.name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._follower is not None:
            self._follower.stop()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                follower = _follower(self._login, self._sink)
                self._follower = self._sink.follower = follower
                if self._ended.is_set():
                    return
                follower.run()
            except Unsupported as error:
                _log.warning("Discovery at VMware server %s cannot begin: %s", self.order.name, error)
                self._sink.failed_quietly(error)
            except Exception:  # noqa: BLE001 - the thread continues: the next attempt may succeed
                _log.exception("Discovery at VMware server %s met a defect.", self.order.name)
            if self._sink.unwanted:
                return  # the next answer to a report says what to do
            self._ended.wait(_AGAIN_SECONDS)

    def _login(self) -> Login:
        from farshore.vsphere.session import Login

        opener = Opener(_sealed_as(self.order.name))
        claim = DiscoveryClaim(key=opener.public.hex())
        sealed = self._source.begin_discovery(self.order.name, claim).sealed
        try:
            fields: dict[str, Any] = json.loads(opener.open_text(bytes.fromhex(sealed)))
            host, port, fingerprint = str(fields["host"]), int(fields["port"]), str(fields["fingerprint"])
            user, password = str(fields["user"]), str(fields["password"])
        except (ValueError, KeyError, TypeError):
            raise Malformed(
                "The login of a VMware server is in an unknown format.", remedy="Upgrade the process server."
            ) from None
        return Login(host, port, user, pinned(host, port, fingerprint).pem, password)


def _follower(login: Any, sink: ApiSink) -> Follower:
    try:
        from farshore.vsphere.following import Follower
    except ModuleNotFoundError as error:
        if error.name != "pyVmomi":
            raise
        raise Unsupported(
            "The library pyVmomi is not installed on the process server.", remedy="pip install 'farshore[vsphere]'"
        ) from error
    return Follower(login, sink)


def _sealed_as(name: str) -> str:
    return f"vmware/{name}"


@dataclass
class ApiSink:
    """A farshore.vsphere.following.Sink that reports to the configuration server. ``unwanted``: the server's answer
    said so."""

    source: DiscoverySource
    order: DiscoveryOrder
    follower: Follower | None = None
    unwanted: bool = False

    def connected(self, product: str) -> None:
        """Note that the login has succeeded."""
        self._tell(DiscoveryReport(mark=self.order.mark, product=product))

    def keep(self, machines: Collection[VmwareMachine], places: Collection[VmwarePlace], gone: Collection[str]) -> None:
        """Report changed machines; an empty list shows that the VMware server still answers."""
        waiting, rest, left = list(machines), list(places), list(gone)
        while True:
            some, waiting = waiting[:DISCOVERY_PORTION], waiting[DISCOVERY_PORTION:]
            more, rest = rest[:DISCOVERY_PORTION], rest[DISCOVERY_PORTION:]
            ended, left = left[:DISCOVERY_PORTION], left[DISCOVERY_PORTION:]
            self._tell(DiscoveryReport(mark=self.order.mark, machines=some, places=more, gone=ended, answered=True))
            if not (waiting or rest or left):
                return

    def whole(self, known: Collection[str]) -> None:
        """Note that all machines have been reported."""
        self._tell(DiscoveryReport(mark=self.order.mark, known=sorted(known), answered=True))

    def failed(self, error: FarshoreError) -> None:
        """Note that discovery fails now."""
        failure = CommandFailure(code=error.code, message=error.message, remedy=error.remedy)
        self._tell(DiscoveryReport(mark=self.order.mark, failure=failure))

    def failed_quietly(self, error: FarshoreError) -> None:
        """Note a failure, and ignore it if that cannot be reported."""
        try:
            self.failed(error)
        except FarshoreError as second:
            _log.info("The failure of discovery is reported later: %s", second)

    def _tell(self, report: DiscoveryReport) -> None:
        try:
            wanted = self.source.note_discovery(self.order.name, report).wanted
        except NotFound:
            wanted = False
        if not wanted:
            self.unwanted = True
            if self.follower is not None:
                self.follower.stop()
