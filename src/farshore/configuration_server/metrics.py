"""Figures of the installation: every machine, process server and master target, in Prometheus' text format.

Built from the catalog at each scrape, so a series ends with its machine. Names and labels are the words of GLOSSARY.md;
times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farshore.api_types.machines import Machine
from farshore.api_types.master_targets import MasterTarget, MasterTargetStanding
from farshore.api_types.servers import ProcessServer, ServerStanding
from farshore.model.identifiers import CHUNK
from farshore.model.states import CaptureMode, MachineState

OWN = "configuration-server"
"""Label for requests to the store that are not a process server's."""


class OwnRequests(NamedTuple):
    """The configuration server's own requests to the store, by kind, and how many that is a day."""

    requests: Mapping[str, int] = {}
    a_day: Mapping[str, float] = {}


def exposition(
    machines: Sequence[Machine],
    servers: Sequence[ProcessServer],
    alerts: int,
    own: OwnRequests | None = None,
    targets: Sequence[MasterTarget] = (),
) -> bytes:
    """Return the text for one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Now(
            [
                *_of_machines(machines),
                *_of_servers(servers, own or OwnRequests()),
                *_of_master_targets(targets),
                _gauge("alerts_open", "Open alerts", alerts),
            ]
        )
    )
    return generate_latest(registry)


class _Now(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_machines(machines: Sequence[Machine]) -> Iterator[Metric]:
    rpo = _family("machine_rpo_seconds", "Age of the newest recovery point in the vault", "machine")
    lag = _family("machine_lag_seconds", "How long records wait at each stage", "machine", "stage")
    state = _family("machine_state", "1 for the machine's present state", "machine", "state")
    mode = _family("machine_capture_mode", "1 for the capture's present mode", "machine", "mode", "cause")
    since = _family("machine_capture_mode_since_seconds", "When the capture entered its mode (Unix time)", "machine")
    every = _family("machine_points_every_seconds", "Between two points, without data mode; 0: a stream", "machine")
    seen = _family("machine_last_seen_seconds", "When the mobility service reported last (Unix time)", "machine")
    copied = _family("machine_copy_done_ratio", "Share of the copy in progress that is done", "machine")
    sends = _family("machine_process_server", "1 for the process server that the machine sends to", "machine", "server")
    proven = _family("machine_proven_ratio", "Proven equal to its copy within 7 days", "machine", "disk")
    oldest = _family("machine_proof_oldest_seconds", "The oldest proof of a chunk (Unix time)", "machine", "disk")
    newest = _family("machine_proof_newest_seconds", "The newest proof of a chunk (Unix time)", "machine", "disk")
    doubtful = _family("machine_doubtful_bytes", "Copied recently and not proven since", "machine", "disk")
    differing = _family("machine_differing_chunks", "Found to differ from the copy and not proven since", "machine")
    differences = _family("machine_differences", "Chunks that were ever found to differ from the copy", "machine")
    excused = _family("machine_excused_chunks", "Differed for a reason that is not a fault of the copy", "machine")
    unjudged = _family(
        "machine_unjudged_chunks", "Differed, and were copied again before the reason was known", "machine"
    )
    cpu = _family("machine_proof_cpu_seconds", "Processor time for proofs since the agent started", "machine", "where")
    compared = _family("machine_proof_compared_bytes", "Compared for proofs since the agent started", "machine")
    read = _family("machine_proof_vault_bytes", "Read from the vault for proofs since the agent started", "machine")
    asked = _family("machine_proof_vault_requests", "Requests to the vault for proofs since then", "machine")
    for one in machines:
        if one.proof is not None:
            compared.add_metric([one.name], one.proof.compared * CHUNK)
            read.add_metric([one.name], one.proof.vault_bytes)
            asked.add_metric([one.name], one.proof.vault_requests)
            cpu.add_metric([one.name, "machine"], one.proof.cpu_seconds)
            cpu.add_metric([one.name, "process-server"], one.proof.server_cpu_seconds)
            for disk in one.proof.disks:
                labels = [one.name, str(disk.disk)]
                proven.add_metric(labels, disk.lately / max(1, disk.chunks))
                oldest.add_metric(labels, disk.oldest / 1e9)
                newest.add_metric(labels, disk.newest / 1e9)
                doubtful.add_metric(labels, disk.doubtful * CHUNK)
            differing.add_metric([one.name], one.proof.differing)
            differences.add_metric([one.name], one.proof.differences)
            excused.add_metric([one.name], one.proof.excused)
            unjudged.add_metric([one.name], one.proof.unjudged)
        if one.rpo_seconds is not None:
            rpo.add_metric([one.name], one.rpo_seconds)
        for stage, seconds in one.lag.items():
            lag.add_metric([one.name, stage], seconds)
        for wanted in MachineState:
            state.add_metric([one.name, wanted.value], float(one.state is wanted))
        if one.mode is not None:
            for kind in CaptureMode:
                here = one.mode is kind
                mode.add_metric([one.name, kind.value, one.mode_cause if here else ""], float(here))
            since.add_metric([one.name], one.mode_since / 1e9)
        every.add_metric([one.name], one.points_every)
        seen.add_metric([one.name], one.last_seen / 1e9)
        if one.progress is not None and one.progress.total:
            copied.add_metric([one.name], one.progress.done / one.progress.total)
        if one.process_server:
            sends.add_metric([one.name, one.process_server], 1)
    yield from (rpo, lag, state, mode, since, every, seen, copied, sends)
    yield from (proven, oldest, newest, doubtful, differing, differences, excused, unjudged, cpu)
    yield from (compared, read, asked)


def _of_servers(servers: Sequence[ProcessServer], own: OwnRequests) -> Iterator[Metric]:
    spool = _family("process_server_spool_bytes", "Bytes that wait in the spool", "server")
    limit = _family("process_server_spool_limit_bytes", "Maximum size of the spool", "server")
    machines = _family("process_server_machines", "Machines that send to this server", "server")
    standing = _family("process_server_standing", "1 for the server's present state", "server", "standing")
    store = _family(
        "process_server_store_trouble", "1 while the store does not work; the cause is a label", "server", "cause"
    )
    disk = _family("process_server_spool_trouble", "1 while the spool's disk accepts nothing", "server", "cause")
    rate = _family("process_server_upload_limit_bytes", "Bytes a second that it may store now; 0: no limit", "server")
    asked = _requests()
    daily = _family(
        "store_requests_per_day", "Requests to the store a day, by the average since the start", "server", "kind"
    )
    for one in servers:
        spool.add_metric([one.name], one.spool_bytes)
        limit.add_metric([one.name], one.spool_limit)
        machines.add_metric([one.name], one.machines)
        for wanted in ServerStanding:
            standing.add_metric([one.name, wanted.value], float(one.standing is wanted))
        store.add_metric([one.name, one.store_trouble], float(bool(one.store_trouble)))
        disk.add_metric([one.name, one.spool_trouble], float(bool(one.spool_trouble)))
        rate.add_metric([one.name], one.rate)
        for kind, number in one.requests.items():
            asked.add_metric([one.name, kind], number)
            daily.add_metric([one.name, kind], one.requests_a_day.get(kind, 0))
    for kind, number in own.requests.items():
        asked.add_metric([OWN, kind], number)
        daily.add_metric([OWN, kind], own.a_day.get(kind, 0))
    yield from (spool, limit, machines, standing, store, disk, rate, asked, daily)


def _of_master_targets(targets: Sequence[MasterTarget]) -> Iterator[Metric]:
    standing = _family("master_target_standing", "1 for the master target's present state", "master_target", "standing")
    seen = _family("master_target_last_seen_seconds", "When it reported last, since 1970", "master_target")
    errands = _family("master_target_errands", "Errands of failbacks that it has now", "master_target")
    for one in targets:
        for wanted in MasterTargetStanding:
            standing.add_metric([one.name, wanted.value], float(one.standing is wanted))
        seen.add_metric([one.name], one.last_seen / 1e9)
        errands.add_metric([one.name], one.errands)
    yield from (standing, seen, errands)


def _requests() -> CounterMetricFamily:
    text = "Requests to the store since the server started"
    return CounterMetricFamily("farshore_store_requests", text, labels=("server", "kind"))


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"farshore_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"farshore_{name}", text, value=value)
