"""``truth``: what it costs to prove all the time that the copy equals the disk, beside 20 MB/s of random 4 KiB writes.

The real agent, process server and a local vault, as in ``rpo``. ``value`` is the processor time that agent and process
server say went into proofs, in % of one processor, over whole cycles at the default pace (2 MB/s): from the end of one
round of proofs to the end of a later one, with the rests that the process server asks for. In the agent that is the
prover's thread and the watch over what is drained, in the process server the comparing and all threads that read the
vault for it. It is read off thread clocks: the difference of two whole stretches, with proofs and without, is below
their noise. Not in it: the HTTP request of each round, and what the interpreters' locks cost others. ``both %`` is all
that the two programs used meanwhile, for whatever purpose.

A round's end is known from heartbeats, 2 s apart. Where no whole cycle ended in time, ``cycles`` is 0 and the stretch
is all that was seen, from its first heartbeat to its last; the table says so.

What is written to without a pause cannot be proven. So the writes go to a hot region; of the rest, which is at rest, a
half was written at random before, so that it is rebuilt from the journal, and the other half is compared by the base
map. A run that proved nothing says so and ends with 1: it has no figure.

The full run also puts 1 GiB in doubt by a heal (``gib_seconds``: from the heal's end until all of it is proven), and
three times heals, alters one block of what was healed behind the kernel's back, and waits until the proof finds it:
``found_seconds`` is the median. ``vault_bytes_per_audited_byte`` is what the process server read from the vault for a
byte that was compared. Needs root.
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
from typing import NamedTuple

from benchmarks._installation import Installation, installation
from benchmarks._table import result, show
from farshore.api_types.machines import ProofStanding
from farshore.model.identifiers import BLOCK, CHUNK

TARGET = 1.5
FOUND_TARGET = 60.0
HOT, AT_REST = 32 << 20, 1120 << 20
QUICK_HOT, QUICK_AT_REST = 1 << 20, 4 << 20
"""So small that a round and the rest after it pass in a quarter of a minute."""
PACE = 2_000_000
RATE = 20e6
QUICK_SECONDS, QUICK_MOST = 8.0, 30.0
PATIENCE = 900.0
"""Seconds that whole cycles may take at most: a rest may last ten minutes."""
HEALED = 160 << 20
IN_DOUBT = 1 << 30


class Cost(NamedTuple):
    """Of a stretch: whole cycles, seconds, bytes proven, vault bytes read for it, processor seconds for proofs of agent
    and process server, processor seconds of both programs for all that they do."""

    cycles: int
    seconds: float
    proven: int
    read: int
    agent: float
    server: float
    both: float

    @property
    def percent(self) -> float:
        """Of one processor."""
        return 100 * (self.agent + self.server) / self.seconds


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are, 1 if there are none."""
    parser = argparse.ArgumentParser(prog="benchmarks/run truth")
    parser.add_argument("--quick", action="store_true", help="a cycle or more on a small disk, within 50 s in all")
    parser.add_argument("--seconds", type=int, default=180, help="that the whole cycles are to last at least")
    options = parser.parse_args(argv)
    hot, at_rest = (QUICK_HOT, QUICK_AT_REST) if options.quick else (HOT, AT_REST)
    more: dict[str, float] = {}
    with installation(hot + at_rest) as made:
        _settle(made)
        least, most = (QUICK_SECONDS, QUICK_MOST) if options.quick else (options.seconds, options.seconds + PATIENCE)
        cost = _cost(made, hot, at_rest, least, most)
        if cost.proven and not options.quick:
            more = {"gib_seconds": round(_doubted(made), 1)}
            more["found_seconds"] = round(statistics.median(_found(made) for _ in range(3)), 1)
        why = _standing(made).paused
    if not cost.proven:
        sys.stderr.write(f"Nothing was proven in {cost.seconds:.0f} s, so there is no figure. {why}\n")
        return 1
    show(
        f"Proofs at {PACE / 1e6:.0f} MB/s beside {RATE / 1e6:.0f} MB/s of 4 KiB writes, {os.cpu_count()} processors",
        ["", "whole cycles", "seconds", "proven MB", "vault bytes a byte", "agent %", "process server %", "both %"],
        [
            [
                "proofs",
                str(cost.cycles) if cost.cycles else "0: rests are left out",
                f"{cost.seconds:.0f}",
                f"{cost.proven / 1e6:.0f}",
                f"{cost.read / cost.proven:.2f}",
                f"{100 * cost.agent / cost.seconds:.2f}",
                f"{100 * cost.server / cost.seconds:.2f}",
                f"{100 * cost.both / cost.seconds:.0f}",
            ]
        ],
    )
    result(
        "truth",
        cost.percent,
        "% of a core",
        TARGET,
        {},
        cycles=cost.cycles,
        seconds=round(cost.seconds, 1),
        proven_mb=round(cost.proven / 1e6, 1),
        proven_mb_per_second=round(cost.proven / cost.seconds / 1e6, 2),
        vault_bytes_per_audited_byte=round(cost.read / cost.proven, 3),
        **more,
    )
    return 0


def _settle(made: Installation) -> None:
    """Until the first copy is proven: what is in doubt is proven faster."""
    made.wait(lambda one: one.proof is not None and all(not disk.doubtful for disk in one.proof.disks), "in doubt", 120)


class _Seen(NamedTuple):
    """What a heartbeat told, and the processor seconds of both programs by then."""

    at: int
    proof: ProofStanding
    both: float


def _cost(made: Installation, hot: int, at_rest: int, least: float, most: float) -> Cost:
    """Of whole cycles that last ``least`` seconds together, or of what was seen within ``most``."""
    _written_before(made.disk, hot, at_rest // 2)
    with _writing(made.disk, hot):
        time.sleep(2)  # what is written at first is new to both programs
        began, seen = time.monotonic(), [_seen(made)]
        while not _lasts(_ends(seen), least) and time.monotonic() - began < most:
            time.sleep(0.5)
            now = _seen(made)
            if now.at > seen[-1].at:
                seen.append(now)
    ends = _ends(seen)
    first, last = (ends[0], ends[-1]) if len(ends) > 1 else (seen[0], seen[-1])
    return Cost(
        max(0, len(ends) - 1),
        max(1, last.at - first.at) / 1e9,
        (last.proof.compared - first.proof.compared) * CHUNK,
        last.proof.vault_bytes - first.proof.vault_bytes,
        last.proof.cpu_seconds - first.proof.cpu_seconds,
        last.proof.server_cpu_seconds - first.proof.server_cpu_seconds,
        last.both - first.both,
    )


def _seen(made: Installation) -> _Seen:
    machine = made.state()
    assert machine.proof is not None
    return _Seen(machine.last_seen, machine.proof, made.cpu_seconds(made.agent) + made.cpu_seconds(made.process_server))


def _ends(seen: list[_Seen]) -> list[_Seen]:
    """The first heartbeat after each round: something was compared before it, and nothing more until the next one."""
    return [
        two
        for one, two, three in zip(seen, seen[1:], seen[2:], strict=False)
        if one.proof.compared < two.proof.compared == three.proof.compared
    ]


def _lasts(ends: list[_Seen], seconds: float) -> bool:
    return len(ends) > 1 and ends[-1].at - ends[0].at >= seconds * 1e9


def _standing(made: Installation) -> ProofStanding:
    proof = made.state().proof
    assert proof is not None
    return proof


def _written_before(disk: Path, start: int, size: int) -> None:
    """Each block of this region once, at random: the vault's journal has them then."""
    command = (
        f"fio --name=before --filename={disk} --offset={start} --size={size} --rw=randwrite --bs={BLOCK}"
        f" --ioengine=libaio --iodepth=8 --direct=1 --rate={RATE:.0f} --refill_buffers --output=/dev/null"
    )
    subprocess.run(command.split(), check=True, capture_output=True)


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


def _doubted(made: Installation) -> float:
    """Seconds from the end of a heal that put IN_DOUBT bytes in doubt until none of them is."""
    epoch = made.state().epoch
    began = _heal(made, IN_DOUBT)
    made.wait(
        lambda one: one.epoch > epoch and one.proof is not None and all(not disk.doubtful for disk in one.proof.disks),
        "in doubt",
        600,
    )
    return time.monotonic() - began


def _found(made: Installation) -> float:
    """Seconds from the end of a heal, in which one block was wrong, until it was found."""
    known = _standing(made).differences
    began = _heal(made, HEALED)
    image = made.folder / "disk.raw"
    descriptor = os.open(image, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, BLOCK) as memory:
        memory[:] = os.urandom(BLOCK)
        os.pwrite(
            descriptor, memory, random.randrange(HEALED // 2, HEALED, BLOCK)
        )  # not proven yet: that begins at the front
    os.close(descriptor)
    made.wait(lambda one: one.proof is not None and one.proof.differences > known, "not found", 300)
    return time.monotonic() - began


def _heal(made: Installation, size: int) -> float:
    """Overflow the ring with ``size`` bytes of writes. Return when (monotonic) the epoch that heals them is whole."""
    epoch = made.state().epoch + 1
    os.kill(made.agent, signal.SIGSTOP)
    command = (
        f"fio --name=burst --filename={made.disk} --rw=write --bs=1m --size={size} --ioengine=libaio --iodepth=4"
        " --direct=1 --refill_buffers --output=/dev/null"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    os.kill(made.agent, signal.SIGCONT)
    log = made.folder / "agent.log"
    sign, deadline = f"Epoch is consistent. epoch={epoch}", time.monotonic() + 300
    while sign not in log.read_text():
        if time.monotonic() > deadline:
            raise RuntimeError("not healed")
        time.sleep(0.05)
    return time.monotonic()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
