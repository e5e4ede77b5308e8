"""``truth``: what it costs to prove all the time that the copy equals the disk, beside 20 MB/s of random 4 KiB writes.

The real agent, process server and a local vault, as in ``rpo``. Stretches with proofs at the default pace (2 MB/s) and
without take turns; ``value`` is what agent and process server together use more with them, in % of one processor: the
median of neighbouring pairs. ``proven`` is how much was proven meanwhile: without it there is no figure.

A round of proofs reads for 30 s, or as long as reading the whole disk takes. So ``--quick`` has a disk of 8 MiB, half
of which is written to, for rounds of some seconds, and its stretch goes on until something was proven, some seconds at
most. Its figure is of one pair: it shows that proofs are made.

The full run also heals the machine, alters one block of what was healed behind the kernel's back, and waits until the
proof finds it: ``found_seconds`` is the median of three times. ``vault_bytes_per_audited_byte`` is what the process
server read from the vault for a byte that was compared. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks._installation import Installation, installation
from benchmarks._table import result, show
from farshore.api_types.machines import Machine, ProtectionRequest
from farshore.model.identifiers import BLOCK, CHUNK

TARGET = 1.5
FOUND_TARGET = 60.0
DISK = 512 << 20
QUICK_DISK = 8 << 20
PACE = 2_000_000
RATE = 20e6
PATIENCE = 12.0
"""Seconds that a quick stretch may take longer until something was proven."""
HEALED = 160 << 20


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run truth")
    parser.add_argument("--quick", action="store_true", help="one pair of 9 s on a small disk, within 50 s in all")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=32, help="of each stretch: a round of proofs takes 30")
    options = parser.parse_args(argv)
    pairs, seconds = (1, 9) if options.quick else (options.pairs, options.seconds)
    disk = QUICK_DISK if options.quick else DISK
    found: list[float] = []
    with installation(disk) as made:
        _settle(made)
        rows = _pairs(made, pairs, seconds, quick=options.quick)
        if not options.quick:
            found = [_found(made) for _ in range(3)]
    more = [with_proofs - without for with_proofs, without, _, _ in rows]
    proven = sum(one[2] for one in rows)
    read = sum(one[3] for one in rows)
    show(
        f"Proofs at {PACE / 1e6:.0f} MB/s beside {RATE / 1e6:.0f} MB/s of 4 KiB writes, {os.cpu_count()} processors",
        ["", "% of a core with", "without", "more", "proven MB", "vault bytes a byte"],
        [
            [
                f"pair {number}",
                f"{one[0]:.1f}",
                f"{one[1]:.1f}",
                f"{one[0] - one[1]:.1f}",
                f"{one[2] / 1e6:.0f}",
                f"{one[3] / max(1, one[2]):.2f}",
            ]
            for number, one in enumerate(rows, 1)
        ],
        "" if proven else "Nothing was proven: the machine has no processor time to spare. The figure means nothing.",
    )
    extra = {"found_seconds": round(statistics.median(found), 1)} if found else {}
    result(
        "truth",
        statistics.median(more),
        "% of a core",
        TARGET,
        {},
        proven_mb_per_second=round(proven / (pairs * seconds) / 1e6, 2),
        vault_bytes_per_audited_byte=round(read / max(1, proven), 3),
        **extra,
    )
    return 0


def _settle(made: Installation) -> None:
    """Until the first copy is proven: what is in doubt is proven faster."""
    _pace(made, PACE)
    made.wait(lambda one: one.proof is not None and all(not disk.doubtful for disk in one.proof.disks), "in doubt", 120)


def _pace(made: Installation, pace: int) -> None:
    made.api.transport.put(f"/v1/machines/{made.machine}/protection", ProtectionRequest(proof_pace=pace), Machine)


def _pairs(made: Installation, pairs: int, seconds: int, *, quick: bool) -> list[tuple[float, float, int, int]]:
    """(% with proofs, % without, bytes proven, bytes read from the vault) of each pair."""
    rows = []
    with _writing(made.disk, QUICK_DISK // 2 if quick else DISK):
        for _ in range(pairs):
            _pace(made, 0)
            time.sleep(3)
            without = _used(made, seconds)[0]
            _pace(made, PACE)
            time.sleep(3)
            before = _compared(made)
            share, read = _used(made, seconds, PATIENCE if quick else 0.0)
            rows.append((share, without, (_compared(made) - before) * CHUNK, read))
    return rows


def _used(made: Installation, seconds: int, patience: float = 0.0) -> tuple[float, int]:
    """% of one processor over ``seconds``, and bytes read from the vault; up to ``patience`` seconds longer, while
    nothing was proven."""
    programs = (made.agent, made.process_server)
    (compared, read), began, before = _proof(made), time.monotonic(), sum(map(made.cpu_seconds, programs))
    time.sleep(seconds)
    while _compared(made) == compared and time.monotonic() < began + seconds + patience:
        time.sleep(0.5)
    used = sum(map(made.cpu_seconds, programs)) - before
    return 100 * used / (time.monotonic() - began), _proof(made)[1] - read


def _proof(made: Installation) -> tuple[int, int]:
    """Chunks compared, and bytes read from the vault for it, so far."""
    proof = made.state().proof
    assert proof is not None
    return proof.compared, proof.vault_bytes


def _compared(made: Installation) -> int:
    return _proof(made)[0]


@contextlib.contextmanager
def _writing(disk: Path, size: int) -> Iterator[None]:
    command = (
        f"fio --name=truth --filename={disk} --size={size} --rw=randwrite --bs={BLOCK} --ioengine=libaio"
        f" --iodepth=8 --direct=1 --time_based --runtime=3600 --rate={RATE:.0f} --randrepeat=0 --refill_buffers"
        " --norandommap --output=/dev/null"
    )
    process = subprocess.Popen(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _found(made: Installation) -> float:
    """Seconds from the end of a heal, in which one block was wrong, until it was found."""
    before = made.state()
    assert before.proof is not None
    os.kill(made.agent, signal.SIGSTOP)  # so that the ring overflows
    command = (
        f"fio --name=burst --filename={made.disk} --rw=write --bs=1m --size={HEALED} --ioengine=libaio --iodepth=4"
        " --direct=1 --refill_buffers --output=/dev/null"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    os.kill(made.agent, signal.SIGCONT)
    log, epoch = made.folder / "agent.log", before.epoch + 1
    sign, deadline = f"Epoch is consistent. epoch={epoch}", time.monotonic() + 120
    while sign not in log.read_text():
        if time.monotonic() > deadline:
            raise RuntimeError("not healed")
        time.sleep(0.05)
    began = time.monotonic()
    image = made.folder / "disk.raw"
    descriptor = os.open(image, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, BLOCK) as memory:
        memory[:] = os.urandom(BLOCK)
        os.pwrite(
            descriptor, memory, random.randrange(HEALED // 2, HEALED, BLOCK)
        )  # not proven yet: that begins at the front
    os.close(descriptor)
    known = before.proof.differences
    made.wait(lambda one: one.proof is not None and one.proof.differences > known, "not found", 300)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
