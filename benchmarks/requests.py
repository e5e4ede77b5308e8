"""``requests``: what an idle machine asks of the object store, in an hour of its third day.

Machines that write nothing, each with the agent's marks, through the process server's own rules for when a segment is
due and what is in it, into a vault in memory whose requests are counted as providers bill them; and the configuration
server's rounds of upkeep (indexing, rebasing, thinning, collecting, scrubbing, the daily look-over) over that vault.
Time is simulated, so that hours pass in seconds; the catalog is as reports without any writes leave it. One and two
machines are run: the difference is what a machine costs, the rest is what the installation costs however many machines
it has. Each of the two servers asks who owns the vault as it does in an installation: before it writes, and the process
server every three seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.unit.protection.catalogs import add_machine, fresh_catalog

from benchmarks._synthetic import open_epoch
from benchmarks._table import result, show
from farshore.catalog import machines
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow
from farshore.formats.batch import Batch, Role
from farshore.formats.record import RECORD, RecordKind
from farshore.formats.spool import FrameHeader, FrameKind
from farshore.lab.cache import cache_folder
from farshore.mobility.stream.pump import POLL_SECONDS
from farshore.model.cadence import DEFAULT_RPO, cadence
from farshore.model.identifiers import Epoch, MachineId, Sequence, new_id
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.storing.segments import silent_segment
from farshore.process_server.streams.lane import Lane
from farshore.process_server.streams.silence import Silence, extended
from farshore.protection.tending import collect_all, compact_all, rebase_all, thin_all
from farshore.protection.turns import for_indexing, for_rebasing, for_thinning
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.machine import MachineVault
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.ownership import How, Owner, Ownership, claim
from farshore.vault.stores.counted import CountedStore, counted
from farshore.vault.stores.owned import LOOK_SECONDS, owned
from farshore.vault.upkeep.prices import read_prices
from farshore.vault.upkeep.scrub import scrub

TARGET = 370.0
HOUR, SECOND = 3600.0, 1_000_000_000
SCRUB_DAYS = 30
"""The default of the configuration server's setting."""
LOOKED_AFTER = (("indexing", 60.0), ("rebasing", HOUR), ("thinning", HOUR), ("collecting", 24 * HOUR), ("scrub", 300.0))


class Clock:
    """Simulated; ``begin`` is such that the run ends now, for the store and the leases go by the real time."""

    def __init__(self, hours: float) -> None:
        self.at = 0.0
        self._begin = time.time_ns() - int(hours * HOUR * SECOND)

    def now(self) -> int:
        return self._begin + int(self.at * SECOND)

    def monotonic(self) -> float:
        return self.at


class Idle:
    """A machine that writes nothing: its marks, its lane at the process server, its part of the vault."""

    def __init__(self, vault: MachineVault, clock: Clock) -> None:
        self.vault, self._clock = vault, clock
        self._lane = Lane(cadence=cadence(DEFAULT_RPO))
        self._silence: Silence | None = None
        self._waiting: list[Batch] = []
        self._next = 1
        self.due = 0.0

    def mark(self) -> None:
        """Send a mark, and store what is due."""
        lane, now = self._lane, self._clock.at
        records: Any = np.zeros(1, RECORD)
        records["kind"] = RecordKind.MARK
        batch = Batch(self.vault.id, Epoch(1), Role.JOURNAL, Sequence(self._next), self._clock.now(), records, b"")
        self._next += 1
        self._waiting.append(batch)
        header = FrameHeader(FrameKind.BATCH, self.vault.id, Epoch(1), Role.JOURNAL, batch.first_sequence,
                             batch.end_sequence, batch.base_time)  # fmt: skip
        lane.placed(FrameReference(header, None, 0, 100, 100), now, now, writes=False)  # type: ignore[arg-type]
        if lane.due_in(now) == 0:
            taken = lane.take(now)
            builder = SegmentBuilder(self.vault.key, self.vault.id, Epoch(1), Role.JOURNAL)
            self._silence = extended(self._silence, [builder.seal(one) for one in self._waiting])
            assert self._silence is not None
            self.vault.writing.put_segment(silent_segment(self.vault, self._silence))
            self._waiting.clear()
            lane.is_stored(taken, batch.base_time, now)
            lane.is_free()
        # The pump looks at the ring every POLL_SECONDS.
        self.due += np.ceil(lane.cadence.mark / POLL_SECONDS) * POLL_SECONDS


class Upkeep:
    """The configuration server's rounds."""

    def __init__(self, vault: Vault, catalog: Catalog, clock: Clock) -> None:
        indexing, thinning, rebasing = (make(catalog, clock) for make in (for_indexing, for_thinning, for_rebasing))
        self.rounds: dict[str, Callable[[], object]] = {
            "indexing": lambda: compact_all(vault, indexing),
            "rebasing": lambda: rebase_all(vault, rebasing),
            "thinning": lambda: thin_all(vault, catalog, thinning),
            "collecting": lambda: collect_all(vault, catalog, thinning),
            "scrub": lambda: scrub(vault, SCRUB_DAYS * 24 * 3600 * SECOND, clock.now, lambda _size: True),
        }
        self.due = {name: 0.0 for name, _ in LOOKED_AFTER}


def run(folder: Path, count: int, hours: float) -> tuple[dict[str, dict[str, int]], int]:
    """Run ``count`` machines; answer the requests of the last 24 hours by source and kind, and the bytes stored."""
    clock = Clock(hours)
    folder.mkdir()
    OwnerKey.generate_file(folder / "owner.key")
    made = Vault.create(open_store("memory:///"), OwnerKey.from_file(folder / "owner.key"))
    secret = bytes.fromhex(made.key_hex)
    owner = claim(made.store, made.upkeep_key, None, Owner("benchmark", 0, clock.now(), How.MADE, "https://benchmark"))

    def opened(store: CountedStore) -> tuple[Vault, Ownership]:
        ownership = Ownership(store, made.upkeep_key, owner.generation, monotonic=clock.monotonic)
        guarded = owned(store)
        guarded.guard = ownership
        return Vault.open_with_vault_key(guarded, secret), ownership

    storing, keeping = counted(made.store), counted(made.store)
    catalog = fresh_catalog(folder)
    vault, ownership = opened(storing)
    idle = [_protect(vault, catalog, clock) for _ in range(count)]
    upkeep = Upkeep(opened(keeping)[0], catalog, clock)
    look = 0.0
    found: dict[str, dict[str, int]] = {}
    begin = (hours - 24) * HOUR
    before: dict[str, int] | None = None
    for name in upkeep.rounds:
        found[name] = {}
    while True:
        machine = min(idle, key=lambda one: one.due)
        name = min(upkeep.due, key=upkeep.due.__getitem__)
        clock.at = min(machine.due, upkeep.due[name], look)
        if clock.at >= hours * HOUR:
            break
        if before is None and clock.at >= begin:
            before = storing.requests
        if clock.at == look:
            ownership.check()
            look += LOOK_SECONDS
            continue
        if machine.due <= upkeep.due[name]:
            machine.mark()
            continue
        asked = keeping.requests
        upkeep.rounds[name]()
        upkeep.due[name] += dict(LOOKED_AFTER)[name]
        if clock.at >= begin:
            _add(found[name], _since(keeping, asked))
    assert before is not None
    found["storing"] = _since(storing, before)
    catalog.close()
    return found, sum(item.size for item in made.store.list(""))


def _protect(vault: Vault, catalog: Catalog, clock: Clock) -> Idle:
    machine = MachineId(new_id())
    with catalog.writing() as tx:
        add_machine(tx, id=machine, name=machine, state="protected", epoch=1)
        tx.add(EpochRow(machine=machine, epoch=1, kind="initial", run="r", process_server="ps", description={},
                        granted=clock.now(), consistent=True))  # fmt: skip
        machines.get(tx, machine)
    made = vault.machine(machine, create=True)
    open_epoch(made, 1 << 30)
    return Idle(made, clock)


def _since(store: CountedStore, before: dict[str, int]) -> dict[str, int]:
    return {kind: number - before[kind] for kind, number in store.requests.items()}


def _add(to: dict[str, int], more: dict[str, int]) -> None:
    for kind, number in more.items():
        to[kind] = to.get(kind, 0) + number


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run requests")
    parser.add_argument("--quick", action="store_true", help="a day less: the hot window is not full yet")
    parser.add_argument("--hours", type=float, default=54, help="simulated; the last 24 count")
    options = parser.parse_args(argv)
    hours = 25.0 if options.quick else options.hours
    with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
        (one, stored_by_one), (two, stored_by_two) = (run(Path(name) / str(n), n, hours) for n in (1, 2))
    kinds = ("put", "get", "list")
    rows, machine_day, installation_day = [], dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0.0)
    for who in ("storing", *(name for name, _ in LOOKED_AFTER)):
        mine = {kind: two[who].get(kind, 0) - one[who].get(kind, 0) for kind in kinds}
        for kind in kinds:
            machine_day[kind] += mine[kind]
            installation_day[kind] += one[who].get(kind, 0) - mine[kind]
        rows.append([who, *(f"{mine[kind] / 24:.2f}" for kind in kinds)])
    rows.append(["in all", *(f"{machine_day[kind] / 24:.2f}" for kind in kinds)])
    rows.append(["the installation's own", *(f"{installation_day[kind] / 24:.2f}" for kind in kinds)])
    prices = read_prices("", table="s3")
    assert prices is not None
    dollars = prices.month({kind: 200 * machine_day[kind] + installation_day[kind] for kind in kinds})
    value = sum(machine_day.values()) / 24
    show(
        "Requests an hour of an idle machine",
        ["", *kinds],
        rows,
        f"200 such machines cost {dollars:.0f} $ a month in requests by the price table of S3; "
        f"each keeps {(stored_by_two - stored_by_one) / 1e6:.1f} MB.",
    )
    result(
        "requests",
        value,
        "requests per idle machine and hour",
        TARGET,
        {},
        dollars_month_200=round(dollars, 1),
        puts_a_minute=round(machine_day["put"] / 24 / 60, 3),
        lists_an_hour=round(machine_day["list"] / 24, 3),
        gets_an_hour=round(machine_day["get"] / 24, 3),
        installation_an_hour=round(sum(installation_day.values()) / 24, 1),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
