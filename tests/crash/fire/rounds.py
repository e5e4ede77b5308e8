"""Rounds of fire: faults strike while the writers write; then all is healed, and points are judged.

What counts as a violation: a point that does not hold what it claims; a machine that is not protected again, or has no
new point, when no copy has got on for five minutes after the last fault; a program that ended by itself or logged an
exception nobody expected; an upgrade that is not told to have ended, or left the machine between two releases.

What a seed replays exactly: which faults strike at which moments of the round and what they choose (the bytes that
spoil a tail, how far a clock jumps, which pieces of a connection are cut), and where fio and the writer of blocks
write, one after the other. What it does not: how far the writers and the programs have got at each moment, so which
frame is the newest, which request is under way and which piece is whose; and what earlier rounds have left behind, for
a round that is replayed is the first of a new installation. A violation that hangs on a race may need its seed more
than once, one that hangs on the rounds before needs the run's first seed and all rounds up to it.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.fire import postgres
from tests.crash.fire.blocks import BlockWriter
from tests.crash.fire.direct import NAME, DirectWriter
from tests.crash.fire.faults import Planned, plan
from tests.crash.fire.fio import Fio
from tests.crash.fire.judge import Judge, Verdict, has
from tests.crash.fire.ledger import Ledger
from tests.crash.fire.plant import Layout, Plant, Protected
from tests.crash.fire.small_disks import small_disk
from tests.crash.fire.spare_disk import SpareDisk
from tests.crash.fire.upgrades import settle
from tests.loopdisks import loop_disk, numbered_loop, run

from farshore.model.errors import FarshoreError, NotFound
from farshore.model.point import RecoveryPoint
from farshore.model.states import JobState
from farshore.vault import AtTime, Named

_MIB = 1 << 20
SECONDS = 20.0
FAULTS_A_ROUND = 6
OLDER = 2
FOUND = 20
"""Listed points a round that are looked for by their times."""
HEALED_SECONDS, MOST_SECONDS = 300.0, 900.0
"""Without any progress of a copy, and in all: how long a copy takes is a matter of the machine."""


@dataclass
class Result:
    """Of one round."""

    seed: int
    layout: Layout
    faults: list[str] = field(default_factory=list)
    points: list[Verdict] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    healed: float = 0.0
    """Seconds from the last fault's end to a new point."""


Say = Callable[[str], None]


@contextlib.contextmanager
def installation(
    folder: Path, seed: int, layout: Layout = Layout.SINGLE, *, vault_mib: int = 6144, agent_fault: str = ""
) -> Iterator[Rounds]:
    """A protected machine with an ext4, an xfs and a raw disk, and all writers on them.

    The file systems have blocks of 4 KiB at multiples of it, so that a writer's block is one record of the stream. A
    larger write, or one that straddles, may be cut in two by a point as it may be by a power cut.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    folder.chmod(0o711)  # PostgreSQL's own user goes through it
    with contextlib.ExitStack() as undo:
        # The file systems that images lie on can be frozen: disks are stuck then.
        shelves = [folder / f"shelf-{number}" for number in range(2)]
        for shelf in shelves:
            undo.enter_context(small_disk(shelf, 1024 * _MIB))
        disks = [
            undo.enter_context(loop_disk(192 * _MIB, "ext4", mkfs_options="-b 4096", scratch=shelves[0])),
            undo.enter_context(loop_disk(320 * _MIB, "xfs", mkfs_options="-m crc=1")),
        ]
        raw = undo.enter_context(loop_disk(32 * _MIB, scratch=shelves[1]))
        spare = SpareDisk(undo.enter_context(numbered_loop()), folder / "spare.img")
        folders = [disk.folder for disk in disks]
        for each in folders:
            each.parent.chmod(0o711)
        fio = Fio(folders, seed)
        blocks = BlockWriter(folders, seed)
        direct = DirectWriter(raw, seed)
        postgres.make(folders[1])
        socket = undo.enter_context(postgres.running(folders[1]))
        postgres.prepare(socket)
        ledger = Ledger(folders[0], socket)
        protected = Protected(disks, raw, spare, shelves, agent_fault)
        plant = undo.enter_context(Plant(home, protected, layout, vault_mib=vault_mib))
        undo.callback(ledger.stop)
        undo.callback(direct.stop)
        undo.callback(blocks.stop)
        undo.callback(fio.stop)
        plant.start()
        ledger.start()
        blocks.start()
        direct.start()
        fio.start(seed)
        yield Rounds(plant, blocks, direct, ledger, fio, Judge(plant, blocks, direct, ledger, folder))


class Rounds:
    """Made by ``installation``."""

    def __init__(
        self, plant: Plant, blocks: BlockWriter, direct: DirectWriter, ledger: Ledger, fio: Fio, judge: Judge
    ) -> None:
        self._plant, self._blocks, self._direct, self._ledger = plant, blocks, direct, ledger
        self._fio, self._judge = fio, judge
        self._alarms: set[str] = set()

    def run(self, seed: int, say: Say, *, only: str = "", faults: int = FAULTS_A_ROUND) -> Result:
        """One round. The seed decides which faults strike when, what is written where, and which older points are
        looked at."""
        result = Result(seed, self._plant.layout)
        planned = plan(seed, SECONDS, faults, only, self._plant.layout)
        say(f"round --layout {self._plant.layout.value} --seed {seed}: {', '.join(map(str, planned))}")
        result.faults = [one.fault.name for one in planned]
        self._blocks.reseed(seed)
        self._direct.reseed(seed)
        self._fio.start(seed)
        self._plant.prove()
        self._burn(planned, seed)
        settle(self._plant)
        ended = time.monotonic()
        for line in self._plant.said:
            say(f"  {line}")
        self._plant.said.clear()
        named, at_least = self._new_point(f"fire-{seed}", result)
        result.healed = time.monotonic() - ended
        self._pause()
        try:
            for point, numbers in self._chosen(random.Random(seed), named, at_least, result):
                verdict = self._judge.check(self._plant.vault(), point, numbers)
                say(f"  {verdict}")
                result.points.append(verdict)
                result.violations += [f"point {point.position}: {wrong}" for wrong in verdict.wrong]
        finally:
            self._go_on()
        result.violations += self._false_alarms()
        result.violations += self._plant.violations
        self._plant.violations.clear()
        for program in self._plant.programs:
            result.violations += [*program.deaths, *program.new_tracebacks()]
            program.deaths.clear()
        if self._ledger.failure is not None:
            result.violations.append(f"the ledger stopped: {self._ledger.failure!r}")
        if self._direct.failure is not None:
            result.violations.append(f"the direct writer stopped: {self._direct.failure!r}")
        for violation in result.violations:
            say(f"  VIOLATION {violation}")
        say(f"  healed in {result.healed:.1f} s; {len(result.violations)} violations")
        return result

    def _false_alarms(self) -> list[str]:
        """What proofs found to differ. Nothing is wrong here, but on the raw disk: of direct writes that overlap in
        flight the disk keeps which it likes (docs/limits.md), and that a proof may find."""
        vault = self._plant.vault()
        name = self._plant.raw.device.name
        others = {one.number for one in vault.stored.description().disks if one.name != name}
        told = [one for one in vault.proofs.differences() if one.disk in others and str(one) not in self._alarms]
        self._alarms.update(map(str, told))
        return [f"a proof found a difference: {one}; {one.cause}" for one in told]

    def _burn(self, planned: list[Planned], seed: int) -> None:
        """Strike and heal on time; all is healed at the end."""
        began = time.monotonic()
        acts = [(one.begin, one.fault.strike, one.seed) for one in planned]
        acts += [(one.end, one.fault.heal, one.seed) for one in planned]
        chance = random.Random(seed + 1)
        acts.append((chance.uniform(0, SECONDS), _trim, seed))
        for when, act, its_seed in sorted(acts, key=lambda one: one[0]):
            while (left := began + when - time.monotonic()) > 0:
                self._plant.look_after()
                time.sleep(min(left, 0.2))
            act(self._plant, random.Random(its_seed))

    def _new_point(self, name: str, result: Result) -> tuple[RecoveryPoint | None, dict[str, int]]:
        """A point that is asked for when all faults are over, and what it has to hold at least."""
        began = moved = time.monotonic()
        trouble, before, taken = "", None, 0
        while time.monotonic() < min(moved + HEALED_SECONDS, began + MOST_SECONDS):
            self._plant.look_after()
            shown = self._plant.shown()
            if shown is not None and (there := (shown.epoch, shown.progress and shown.progress.done)) != before:
                moved, before = time.monotonic(), there
            job = None
            if self._plant.is_protected():
                with self._direct.at_rest() as content:
                    records = (self._blocks.record, self._ledger.sqlite, self._ledger.postgresql)
                    numbers = {record.name: len(record) for record in records}
                    numbers[NAME] = self._direct.log.events
                    asked = f"{name}-{taken}"  # a name is taken once, also where the point is of no use here
                    job = self._plant.point(asked)
            if job is not None and job.state is JobState.SUCCEEDED:
                taken += 1
                try:
                    vault = self._plant.vault()
                    point = vault.points.resolve(Named(asked))
                    if has(vault, point, self._plant.raw.device.name):
                        self._judge.at_rest[str(point.position)] = content
                        return point, numbers
                    trouble = "the raw disk is not in it yet"
                except FarshoreError as error:
                    trouble = str(error)
            elif job is not None:
                trouble = job.error
            time.sleep(0.5)
        shown = self._plant.shown()
        said = "\n".join(f"{one.name}: {one.last_words()}" for one in self._plant.programs)
        state = f"no answer: {self._plant.trouble}" if shown is None else f"{shown.state.value}, {shown.mode}"
        waited = time.monotonic() - began
        result.violations.append(f"no point within {waited:.0f} s ({state}; {trouble})\n{said}")
        return None, {}

    def _chosen(
        self, chance: random.Random, named: RecoveryPoint | None, at_least: dict[str, int], result: Result
    ) -> Iterator[tuple[RecoveryPoint, dict[str, int]]]:
        """The new point; then older ones that were not looked at before, and one by its time."""
        if named is not None:
            yield named, at_least
        vault = self._plant.vault()
        listed = vault.points.listed()
        fresh = [point for point in listed if str(point.position) not in self._judge.checked]
        for point in chance.sample(fresh, min(OLDER, len(fresh))):
            yield point, {}
        if listed:
            times = sorted(point.time for point in listed)
            asked = chance.randint(times[0], times[-1])
            try:
                point = vault.points.resolve(AtTime(asked))
            except NotFound:
                # Where the clock was set back, the newest point may be older by its own time than one before it.
                if all(clock.always_true for clock in self._plant.clocks):
                    raise
                return
            for one in chance.sample(listed, min(FOUND, len(listed))):
                again = vault.points.resolve(AtTime(one.time))
                if (again.position, again.time) != (one.position, one.time) and again.time != one.time:
                    result.violations.append(f"{one.position} is listed with {one.time}, by which {again} is found")
            if point.time > asked:
                result.violations.append(f"asked for {asked}, the vault gives {point.position} of {point.time}")
            yield point, {}

    def _pause(self) -> None:
        """The writers rest, so that judging gets the processors."""
        self._blocks.running.clear()
        self._direct.running.clear()
        self._ledger.running.clear()
        self._fio.signal(signal.SIGSTOP)

    def _go_on(self) -> None:
        self._fio.signal(signal.SIGCONT)
        self._ledger.running.set()
        self._direct.running.set()
        self._blocks.running.set()


def _trim(plant: Plant, chance: random.Random) -> None:
    """Discards, in the middle of it all."""
    for disk in plant.disks:
        run(f"fstrim {disk.folder}")


def table(results: list[Result]) -> str:
    """What was done and found, as lines."""
    faults = Counter(name for result in results for name in result.faults)
    lines = [f"{'fault':32} struck"]
    lines += [f"{name:32} {count:6}" for name, count in sorted(faults.items())]
    points = sum(len(result.points) for result in results)
    violations = sum(len(result.violations) for result in results)
    lines.append(f"{len(results)} rounds, {sum(faults.values())} faults, {points} points opened and checked")
    lines.append(f"slowest healing {max((result.healed for result in results), default=0):.1f} s")
    lines.append(f"{violations} violations")
    lines += [
        f"--layout {result.layout.value} --seed {result.seed}: {each}"
        for result in results
        for each in result.violations
    ]
    return "\n".join(lines)
