"""Assemble the parts of a process server over a vault and a configuration server.

``main`` creates it from settings; tests and benchmarks create it over doubles of the configuration server.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from farshore.api_types.servers import ProcessServerSettings, ReportAnswer
from farshore.api_types.vmware import DiscoveryOrder
from farshore.clock import SystemClock
from farshore.model.bandwidth import Bandwidth
from farshore.model.identifiers import Epoch, MachineId
from farshore.process_server.copying.copies import Copies
from farshore.process_server.copying.told import ToldLimits
from farshore.process_server.data_plane.routes import Routes
from farshore.process_server.listening.listener import CONNECTIONS, WORKERS, Listener
from farshore.process_server.proving.proofs import Proofs
from farshore.process_server.reporting import Reporter, ReportSink
from farshore.process_server.spool.disk import SpoolDisk
from farshore.process_server.spool.log import FILE_BYTES, SpoolLog
from farshore.process_server.storing.aside import Aside
from farshore.process_server.storing.uploader import THREADS, Uploader
from farshore.process_server.streams.grants import Grants, GrantSource
from farshore.process_server.streams.registry import Streams
from farshore.process_server.streams.resuming import Resuming
from farshore.process_server.streams.stream import Stream
from farshore.vault.stores.counted import CountedStore
from farshore.vault.vault import Vault

_log = logging.getLogger(__name__)


class ControlPlane(GrantSource, ReportSink, Protocol):
    """What the server needs from the configuration server once it runs."""


@dataclass(frozen=True)
class Endpoint:
    """Where agents reach the server, at ``url``, and how many of them at once."""

    context: ssl.SSLContext
    host: str
    port: int
    url: str = ""
    workers: int = WORKERS
    connections: int = CONNECTIONS


@dataclass(frozen=True)
class StoreUse:
    """How the vault's store is used, and what the known of
    requests to it."""

    bandwidth: Bandwidth = field(default_factory=lambda: Bandwidth(SystemClock()))
    """Keeps the limit on writes to the store, which the configuration server sets."""
    trouble: Callable[[], str] = lambda: ""
    requests: CountedStore | None = None
    check_owner: Callable[[], None] = lambda: None
    """Raises Displaced where the vault is known to be another installation's."""
    uploads: int = THREADS


@dataclass(frozen=True)
class OrderHandlers:
    """Called with the configuration server's orders: the ids of pushes, and the VMware servers to follow."""

    pushes: Callable[[Sequence[str]], None] = lambda _pushes: None
    discoveries: Callable[[Sequence[DiscoveryOrder]], None] = lambda _orders: None


class ProcessServer:
    """Made, started, stopped once. ``settings`` are those that the configuration server gave."""

    def __init__(
        self,
        control: ControlPlane,
        vault: Vault,
        settings: ProcessServerSettings,
        disk: SpoolDisk,
        endpoint: Endpoint,
        version: str,
        *,
        store: StoreUse | None = None,
        orders: OrderHandlers | None = None,
        spool_file_bytes: int = FILE_BYTES,
    ) -> None:
        store = store or StoreUse()
        self.log = SpoolLog(disk, settings.spool_limit, spool_file_bytes)
        self.bandwidth = store.bandwidth
        self.proofs = Proofs(vault)
        self._orders = orders or OrderHandlers()
        self.reporter = Reporter(
            control,
            endpoint.url,
            version,
            self.log,
            self._tidy,
            self._answered,
            store.trouble,
            self.proofs,
            store.requests,
        )
        aside = Aside(disk.directory.parent / "aside")
        self.uploader = Uploader(self.log, self.reporter.stored, settings.seal_every, store.uploads, aside)
        self.streams = Streams(
            vault,
            self.log,
            Grants(control, store.check_owner),
            opened=self._opened,
            closed=self._closed,
            wake=self.uploader.wake,
            aside=aside,
        )
        self.resuming = Resuming(self.streams)
        told = ToldLimits(each=settings.spool_limit // 8, together=settings.spool_limit // 2)
        self.copies = Copies(self.streams, disk.directory.parent / "copies", told)
        copying = max(1, endpoint.workers // 2)
        routes = Routes(self.streams, self.copies, self.reporter.visible, self.proofs, copying, self.bandwidth)
        self.listener = Listener(
            endpoint.host,
            endpoint.port,
            endpoint.context,
            routes,
            workers=endpoint.workers,
            connections=endpoint.connections,
        )

    def start(self) -> None:
        """Take over the content of the spool, and accept requests; the vault's store may be unreachable meanwhile."""
        frames = self.log.recover()
        self.streams.recovered(frames)
        self.log.start()
        self.uploader.start()
        if frames:
            _log.info("The spool holds %d batches from before; they are stored first.", len(frames))
        self.reporter.start(self.streams, self.uploader)
        self.resuming.start()
        self.listener.start()

    def stop(self) -> None:
        """Answer the requests in progress, finish the running uploads, and leave the rest to the next start."""
        self.listener.stop()
        self.resuming.stop()
        self.uploader.stop()
        self.log.stop()
        self.reporter.stop()

    def _opened(self, stream: Stream) -> None:
        self.uploader.add(stream)
        self.reporter.visible(stream)

    def _closed(self, stream: Stream) -> None:
        self.uploader.remove(stream)
        self.copies.drop(stream)

    def _answered(self, answer: ReportAnswer) -> None:
        self.streams.close([(MachineId(one.machine), Epoch(one.epoch)) for one in answer.closed])
        self.streams.release([(MachineId(one.machine), Epoch(one.epoch)) for one in answer.release])
        self.streams.certificates(answer.certificates)
        self.streams.ask_rpo(answer.asked_rpo)
        self.bandwidth.stretches = tuple((rate.since, rate.limit) for rate in answer.bandwidth)
        self._orders.pushes(answer.pushes)
        self._orders.discoveries(answer.vmware)

    def _tidy(self) -> None:
        self.streams.close_unused()
        for stream in self.streams.all():
            if stream.fenced:
                self.copies.drop(stream)  # it can no longer be completed, and uses memory for every chunk
