"""Opens a recovery point with the product's own restore, and holds it against what the writers were told.

A point claims to be the machine's state at its time: whatever was acknowledged before is in it, nothing that began
later is, both file systems are clean once their journals have been replayed, and all writers' files agree with each
other over both disks.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.crash.fire import blocks, direct, fio, ledger, postgres
from tests.crash.fire.blocks import BlockWriter
from tests.crash.fire.direct import DirectWriter
from tests.crash.fire.ledger import Ledger
from tests.crash.fire.plant import Plant
from tests.crash.fire.processes import Clock
from tests.crash.fire.record import Record
from tests.crash.fire.spare_disk import digest
from tests.loopdisks import run, unmount

from farshore.model.errors import FarshoreError
from farshore.model.point import RecoveryPoint
from farshore.vault import MachineVault, restore_to_raw

_NEVER = 1 << 62
_WAY = 15 * 10**9
"""ns: by which a server that was held or starved may take what arrived for younger than it is."""
_CLOCKS = 2_000_000
"""ns: a batch's offset between the two clocks is read by two calls, and its times are whole microseconds."""


@dataclass
class Verdict:
    """What was found at one point."""

    point: RecoveryPoint
    wrong: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What is worth knowing, and not wrong."""

    def __str__(self) -> str:
        told = "; ".join(self.wrong) or ", ".join(("well", *self.said))
        return f"{self.point.position} ({self.point.kind.value}): {told}"


class Judge:
    """``scratch`` takes the images; ``since``: numbers that every point must have at least, by the record's name."""

    def __init__(self, plant: Plant, writer: BlockWriter, direct: DirectWriter, rows: Ledger, scratch: Path) -> None:
        self._plant, self._writer, self._direct, self._rows, self._scratch = plant, writer, direct, rows, scratch
        self.checked: set[str] = set()
        self.at_rest: dict[str, npt.NDArray[np.uint8]] = {}
        """What the raw disk held at points that were made while nothing was written to it."""

    def check(self, vault: MachineVault, point: RecoveryPoint, at_least: dict[str, int] | None = None) -> Verdict:
        """Restore all disks at a point and look at everything on them."""
        verdict = Verdict(point)
        self.checked.add(str(point.position))
        try:
            with self._mounted(vault, point) as folders:
                self._look(folders, verdict, at_least or {})
            self._look_at_raw(vault, verdict, at_least or {})
            self._look_at_spare(vault, verdict)
        except (AssertionError, FarshoreError, subprocess.CalledProcessError, OSError) as error:
            verdict.wrong.append(f"{type(error).__name__}: {error}"[:1500])
        return verdict

    def _look(self, folders: list[Path], verdict: Verdict, at_least: dict[str, int]) -> None:
        found = [blocks.read_blocks(folder / blocks.NAME, disk) for disk, folder in enumerate(folders)]
        verdict.wrong += self._writer.judge(found)
        newest = {self._writer.record: self._writer.newest(found)}
        for folder in folders:
            verdict.wrong += fio.judge(folder)
        lite = ledger.recovered_rows(folders[0])
        verdict.wrong += ledger.judge_rows(lite, "SQLite")
        newest[self._rows.sqlite] = len(lite)
        server = postgres.recovered_rows(folders[1])
        verdict.wrong += ledger.judge_rows(server, "PostgreSQL")
        newest[self._rows.postgresql] = len(server)
        agent, servers = self._plant.agent.clock, self._plant.clocks[1:]
        for record, number in newest.items():
            verdict.wrong += judge_age(record, number, agent, verdict.point.time, at_least.get(record.name, 0), servers)
        if not len(lite) - 1 <= len(server) <= len(lite):
            verdict.wrong.append(f"{len(lite)} rows in SQLite and {len(server)} in PostgreSQL: the order is lost")

    def _look_at_raw(self, vault: MachineVault, verdict: Verdict, at_least: dict[str, int]) -> None:
        """The writes to the raw disk, and the whole of it where nothing was in flight."""
        point, log = verdict.point, self._direct.log
        if not has(vault, point, self._plant.raw.device.name):
            if not self._plant.left_out:
                verdict.wrong.append("the raw disk is not there")
            return
        with self._restored(vault, point, self._plant.raw.device.name) as image:
            content = np.fromfile(image, np.uint8)
        found, wrong = direct.read_sectors(content)
        verdict.wrong += wrong
        if wrong:
            return
        earliest, latest = window(self._plant.agent.clock, point.time, self._plant.clocks[1:])
        due = max(log.before(earliest), at_least.get(direct.NAME, 0))
        verdict.wrong += log.judge(found, due, log.until(latest + _CLOCKS))
        disk = self.at_rest.pop(str(point.position), None)
        if disk is not None:
            excused, wrong = log.contested(found, direct.read_sectors(disk)[0])
            verdict.wrong += wrong
            verdict.said.append(f"{excused} sectors undecided")

    def _look_at_spare(self, vault: MachineVault, verdict: Verdict) -> None:
        spare = self._plant.spare
        if not has(vault, verdict.point, spare.device.name):
            return
        with self._restored(vault, verdict.point, spare.device.name) as image:
            if digest(image.read_bytes()) not in spare.contents:
                verdict.wrong.append("the spare disk holds what it never held")

    @contextlib.contextmanager
    def _restored(self, vault: MachineVault, point: RecoveryPoint, name: str) -> Iterator[Path]:
        """The image of a disk at a point."""
        numbers = {disk.name: disk.number for disk in vault.stored.description(point.position).disks}
        image = self._scratch / f"point-{name}.img"
        try:
            with contextlib.closing(vault.disks.open(point.position, numbers[name])) as source:
                restore_to_raw(source, image, replace=True)
            yield image
        finally:
            image.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _mounted(self, vault: MachineVault, point: RecoveryPoint) -> Iterator[list[Path]]:
        """The disks' recovered file systems in the order of the plant's disks, replayed and checked."""
        with contextlib.ExitStack() as undo:
            folders = []
            for place, disk in enumerate(self._plant.disks):
                image = undo.enter_context(self._restored(vault, point, disk.device.name))
                folder = self._scratch / f"point-{place}"
                folder.mkdir(exist_ok=True)
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                undo.enter_context(_mounted_image(image, folder))
                folders.append(folder)
            yield folders


def judge_age(
    record: Record, newest: int, clock: Clock, time: int, at_least: int, servers: Sequence[Clock] = ()
) -> list[str]:
    """What is wrong with a point's newest write, where the agent's clock called the point's moment ``time``, or the
    clock of one of ``servers`` did, because the agent's was off."""
    wrong = []
    earliest, latest = window(clock, time, servers)
    due = max(record.acknowledged_by(earliest), at_least)
    if newest < due:
        wrong.append(f"{record.name}: {newest} is the newest, {due} had been acknowledged before the point")
    begun = record.issued_by(latest + _CLOCKS)
    if newest > begun:
        wrong.append(f"{record.name}: {newest} is there, but only {begun} had begun at the point's time")
    return wrong


def window(clock: Clock, time: int, servers: Sequence[Clock]) -> tuple[int, int]:
    """The earliest and the latest true time that one of the clocks may have called ``time``."""
    if clock.always_true and all(server.always_true for server in servers):
        servers = ()
    told = [clock.earliest(time), *(max(0, server.earliest(time) - _WAY) for server in servers)]
    earliest = min(filter(None, told), default=0)  # 0: this clock never showed it
    latest = max([_known(clock.latest(time)), *(_known(server.latest(time)) for server in servers)]) or _NEVER
    return earliest, latest


def has(vault: MachineVault, point: RecoveryPoint, name: str) -> bool:
    """Whether a disk is part of a point."""
    there = vault.disks.sizes(point.position)
    return any(disk.name == name and disk.number in there for disk in vault.stored.description(point.position).disks)


def _known(moment: int) -> int:
    return 0 if moment == _NEVER else moment


@contextlib.contextmanager
def _mounted_image(image: Path, folder: Path) -> Iterator[None]:
    device = run(f"losetup -f --show {image}").strip()
    try:
        is_xfs = "xfs" in run(f"blkid -p -o value -s TYPE {device}")
        options = "nouuid" if is_xfs else "defaults"
        check = f"xfs_repair -n {device}" if is_xfs else f"e2fsck -fn {device}"
        for checked in (False, True):  # the first mount replays the journal
            run(f"mount -o {options} {device} {folder}")
            if checked:
                try:
                    yield
                finally:
                    unmount(folder)
            else:
                unmount(folder)
                run(check)
    finally:
        run(f"losetup -d {device}")
