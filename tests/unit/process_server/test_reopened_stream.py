"""A process server that starts again goes on where the stream was, whatever upkeep has made of its first segments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.batch import Role
from farshore.model.identifiers import Epoch
from farshore.model.policy import ReplicationPolicy
from farshore.process_server.spool.disk import SpoolDisk
from farshore.process_server.spool.log import SpoolLog
from farshore.process_server.streams.grants import Grants
from farshore.process_server.streams.registry import Streams
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention

HOUR = 3600 * 10**9
POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=2, keep_daily=0, keep_weekly=0)


class Open:
    """A GrantSource by whom every epoch is open."""

    def stream(self, _machine: str, _epoch: int) -> Any:
        return SimpleNamespace(certificates=None, asked_rpo=5.0)


def test_where_retention_has_merged_and_deleted_the_first_segments(tmp_path) -> None:
    machine = Machine(memory_vault(), 7, {0: 1 << 20})
    machine.step = HOUR // 10
    machine.fill()
    machine.begin_epoch(None)
    for _ in range(2):
        machine.journal(segments=60, batches=1, count=4)
        compact(machine.in_vault, Tiers(segments=4, fan=3))
        apply_retention(machine.in_vault, POLICY)
        for _ in range(2):
            collect(machine.vault, lambda _: POLICY, grace=0)
    epoch = Epoch(machine.epoch)
    left = machine.in_vault.stored.timeline().run(epoch, Role.JOURNAL)
    assert not left.chain, "the first segments are still there: this would show nothing"

    log = SpoolLog(SpoolDisk(tmp_path / "spool"), 64 << 20)
    log.start()
    try:
        streams = Streams(
            machine.vault, log, Grants(Open()), opened=lambda _: None, closed=lambda _: None, wake=lambda _: None
        )
        stream, _ = streams.granted(machine.id, epoch, "")
        assert stream.next_sequence(Role.JOURNAL) == machine.next[Role.JOURNAL]
        assert stream.stored_sequence(Role.JOURNAL) == machine.next[Role.JOURNAL]
    finally:
        log.stop()
