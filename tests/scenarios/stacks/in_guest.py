"""Runs inside the guest, with the agent's own bundle: LVM and md on two disks, captured and replayed.

``python3 in_guest.py SITE``: SITE is the bundle's folder of modules. Prints one line of JSON at its end. The two disks
come partitioned: /dev/vdb with a GPT, /dev/vdc with an MBR; the first partitions are for LVM, the second for md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import numpy as np

from farshore.mobility.capture import Capture
from farshore.mobility.capture.disks import bottom_disks, disk_at, mounted_once
from farshore.mobility.capture.extents import file_ranges, hidden_swaps, join, swap_ranges
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.checks import Surroundings, look_around
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader
from farshore.mobility.points.freezing import Freeze, order_of_freezing
from farshore.mobility.settings import Settings

MIB = 1 << 20
VOLUME, MIRROR = Path("/srv/volume"), Path("/srv/mirror")
PRESSURE = (
    "import time; block = bytearray(112 << 20)\nfor at in range(0, len(block), 4096): block[at] = 1\ntime.sleep(1)"
)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def build() -> None:
    for module in ("dm_mod", "raid1"):
        run("modprobe", module)
    run("pvcreate", "-qq", "/dev/vdb1", "/dev/vdc1")
    run("vgcreate", "-qq", "-s", "4M", "vg", "/dev/vdb1", "/dev/vdc1")
    run("lvcreate", "-qq", "-y", "-n", "data", "-L", "72M", "vg")  # more than either partition has
    run("lvcreate", "-qq", "-y", "-n", "swap", "-L", "24M", "vg")
    create = ["mdadm", "--create", "/dev/md0", "--run", "--level=1", "--raid-devices=2", "--metadata=1.2"]
    run(*create, "/dev/vdb2", "/dev/vdc2")
    for device, folder in (("/dev/vg/data", VOLUME), ("/dev/md0", MIRROR)):
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        folder.mkdir(parents=True)
        run("mount", device, str(folder))
        run("fallocate", "-l", str(4 * MIB), str(folder / "machine.hrl"))
        run("dd", "if=/dev/zero", f"of={folder}/machine.hrl", "bs=1M", "count=4", "conv=notrunc,fsync")
    swap_file = VOLUME / "swap"
    swap_file.touch(0o600)
    run("dd", "if=/dev/zero", f"of={swap_file}", "bs=1M", "count=8", "conv=fsync")
    for area in ("/dev/vg/swap", str(swap_file)):
        run("mkswap", area)
        run("swapon", "-p", "100", area)


def wait_for_mirror() -> None:
    """md notes by itself, a while after the last write, that the mirror is clean: on its members, below a freeze."""
    mirror = Path("/sys/block/md0/md")
    while (mirror / "sync_action").read_text().strip() != "idle":
        time.sleep(0.1)
    while (mirror / "array_state").read_text().strip() != "clean":
        time.sleep(0.1)
    time.sleep(0.5)  # the note itself


def work(folder: Path) -> None:
    for number in range(60):
        (folder / f"small-{number}").write_bytes(os.urandom(1 + 149 * number))
    (folder / "big").write_bytes(os.urandom(6 * MIB))
    os.sync()
    for number in range(0, 60, 3):
        (folder / f"small-{number}").unlink()
    with (folder / "big").open("r+b") as file:
        for number in range(40):
            file.seek(number * 97 * 1024 % (5 * MIB))
            file.write(os.urandom(5000))
        file.truncate(4 * MIB)
    run("fstrim", str(folder))
    with (folder / "machine.hrl").open("r+b", buffering=0) as file:
        file.write(os.urandom(4 * MIB))
        os.fsync(file.fileno())


class Recorder(threading.Thread):
    def __init__(self, capture: Capture) -> None:
        super().__init__(daemon=True)
        self.capture = capture
        self.batches = []
        self.reached = 0

    def run(self) -> None:
        while True:
            batch = self.capture.drain(1 << 22)
            if batch is None:
                time.sleep(0.005)
                continue
            self.batches.append((batch.start, batch.records.copy()))
            self.reached = batch.end
            batch.release()

    def records(self, start: int, end: int) -> np.ndarray:
        while self.reached < end:
            time.sleep(0.01)
        found = [np.empty(0, RING_RECORD)]
        for at, records in self.batches:
            first, last = (max(0, (one - at) // RING_RECORD.itemsize) for one in (start, end))
            found.append(records[first:last])
        return np.concatenate(found)


def read(disk: CopiedDisk) -> np.ndarray:
    made = np.empty(disk.size, np.uint8)
    buffer = AlignedBuffer(4 * MIB)
    with DiskReader(disk) as reader:
        for at in range(0, disk.size, 4 * MIB):
            piece = buffer.view[: min(4 * MIB, disk.size - at)]
            reader.read(at, piece)
            made[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
    return made


def replay(image: np.ndarray, records: np.ndarray, number: int) -> None:
    for record in records[records["disk"] == number]:
        at, length = int(record["sector"]) * 512, int(record["length"])
        if record["kind"] == 1:
            image[at : at + length] = record["data"][:length]
        elif record["kind"] in (2, 3):
            image[at : at + length] = 0


def bitmap_only(disks: dict) -> list:
    """By disk, whether the program without data mode sees what is written to volume and mirror: the same again."""
    with Capture(disks, bitmap_only=True) as capture:
        capture.collect(timeout=60)
        before = [read(CopiedDisk(number, disk.path, disk.size)) for number, disk in disks.items()]
        for folder in (VOLUME, MIRROR):
            (folder / "again").write_bytes(os.urandom(3 * MIB))
            os.sync()
        points = order_of_freezing(mounted_once(), frozenset(disk.device for disk in disks.values()))
        with Freeze(points, 60) as freeze:
            wait_for_mirror()
            told = capture.collect(timeout=60)
            after = [read(CopiedDisk(number, disk.path, disk.size)) for number, disk in disks.items()]
            freeze.thaw()
    found = []
    for number in disks:
        changed = (before[number].reshape(-1, 4096) != after[number].reshape(-1, 4096)).any(axis=1)
        noted = np.zeros(len(changed), bool)
        for first, count in told[number].tolist():
            noted[first : first + count] = True
        found.append([int(changed.sum()), int((changed & ~noted).sum())])
    return found


def main() -> None:
    build()
    disks = {number: disk_at(Path(name)) for number, name in enumerate(("/dev/vdb", "/dev/vdc"))}
    copied = {number: CopiedDisk(number, disk.path, disk.size) for number, disk in disks.items()}
    devices = frozenset(disk.device for disk in disks.values())
    excluded = {}
    for places in (swap_ranges(), *(file_ranges(folder / "machine.hrl") for folder in (VOLUME, MIRROR))):
        for disk, ranges in places.items():
            excluded.setdefault(disk.device, []).extend(ranges)
    with Capture(disks, ring_bytes=64 * MIB, scratch=Path("/root")) as capture:
        for number, disk in disks.items():
            capture.exclude(number, join(excluded[disk.device]))
        recorder = Recorder(capture)
        recorder.start()
        capture.account()
        capture.begin_data_mode(timeout=60)
        points = order_of_freezing(mounted_once(), devices)
        with Freeze(points, 60) as freeze:
            wait_for_mirror()
            start = capture.position()
            images = {number: read(disk) for number, disk in copied.items()}
            freeze.thaw()
        before = capture.counters()
        for folder in (VOLUME, MIRROR):
            work(folder)
        pressure = ["systemd-run", "-q", "--wait", "-p", "MemoryMax=64M", "-p", "MemorySwapMax=infinity"]
        run(*pressure, "python3", "-c", PRESSURE)
        with Freeze(points, 60) as freeze:
            wait_for_mirror()
            end = capture.position()
            truths = {number: read(disk) for number, disk in copied.items()}
            freeze.thaw()
        records = recorder.records(start, end)
        differing = []
        for number, image in images.items():
            replay(image, records, number)
            blocks = np.flatnonzero((image.reshape(-1, 4096) != truths[number].reshape(-1, 4096)).any(axis=1))
            inside = {
                block
                for one in join(excluded[disks[number].device])
                for block in range(one.start // 8, -(-one.end // 8))
            }
            differing.append([len(blocks), len(set(blocks.tolist()) - inside)])
        after = capture.counters()
        verdicts = capture.account()
        while any(one.state.value == "unsettled" for one in verdicts.values()):
            time.sleep(0.2)
            verdicts = capture.account()
        answer = {
            "kernel": os.uname().release,
            "mode": capture.mode.value,
            "address_source": int(capture._program.control.address_source),
            "below": {
                name: len(bottom_disks(device_of(name))) for name in ("/dev/vg/data", "/dev/md0", "/dev/vg/swap")
            },
            "frozen": points,
            "records": len(records),
            "disks_in_stream": sorted(set(records["disk"].tolist())),
            "differing": differing,
            "excluded": [after[one].excluded - before[one].excluded for one in disks],
            "verdicts": sorted({one.state.value for one in verdicts.values()}),
            "hidden_swaps": [str(path) for path, _ in hidden_swaps()],
            "swapped": sum(int(line.split()[3]) for line in Path("/proc/swaps").read_text().splitlines()[1:]),
        }
        images.clear()  # the guest has little memory
        truths.clear()
        recorder.batches.clear()
        answer["bitmap_only"] = bitmap_only(disks)
        looked = look_around(Surroundings(Settings(state=VOLUME), list(disks.values())))
        answer["again"] = [sha256((folder / "again").read_bytes()).hexdigest() for folder in (VOLUME, MIRROR)]
        answer["findings"] = {one.subject: [one.severity.value, one.message] for one in looked}
        print(json.dumps(answer))


def device_of(name: str) -> str:
    device = Path(name).stat().st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


if __name__ == "__main__":
    main()
