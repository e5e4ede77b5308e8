"""``churn``: how much random writing the whole chain keeps up with in data mode, on one machine's processors.

fio writes 64 KiB at random, incompressible, O_DIRECT, at a set rate to a protected loop device; the real agent
captures it, the real process server compresses, encrypts and spools it and stores it in a local vault; fio, agent,
servers and vault share the processors. ``value``: MB/s written while the capture never left data mode and the vault
had everything; the time that the vault took after the last write counts as writing time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from benchmarks._installation import Installation, installation
from benchmarks._table import result, show
from farshore.model.states import CaptureMode

TARGET = 120.0
DISK = 2 << 30
GIVE_UP_SECONDS = 60.0


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run churn")
    parser.add_argument("--quick", action="store_true", help="15 s of writing")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=130, help="MB/s that fio tries")
    options = parser.parse_args(argv)
    seconds = 15 if options.quick else options.seconds
    with installation(DISK, ring_mib=256) as made:
        before = _cpu(made)
        epoch = made.state().epoch
        began = time.time_ns()
        written = _write(made, options.rate, seconds)
        ended = time.time_ns()
        mode = made.state().mode
        try:
            behind = made.wait_stored(ended, GIVE_UP_SECONDS)
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
            behind = GIVE_UP_SECONDS
        used = {name: now - before[name] for name, now in _cpu(made).items()}
        memory = {name: made.memory_bytes(process) >> 20 for name, process in _programs(made).items()}
        machine = made.state()
    data_mode = mode is machine.mode is CaptureMode.DATA and machine.epoch == epoch and machine.mode_since < began
    wall = (ended - began) / 1e9
    rate = written / wall / 1e6
    value = written / (wall + behind) / 1e6 if data_mode else 0.0
    show(
        f"{seconds} s of random 64 KiB writes at {options.rate} MB/s, all on the same {os.cpu_count()} processors",
        ["", "MB/s", "data mode", "seconds behind", *(f"{name} CPU s" for name in used), *(f"{n} MiB" for n in memory)],
        [
            [
                "farshore",
                f"{rate:.0f}",
                "throughout" if data_mode else "left",
                f"{behind:.1f}",
                *(f"{one:.1f}" for one in used.values()),
                *(str(one) for one in memory.values()),
            ]
        ],
        "" if data_mode else f"The capture fell back: {machine.mode_cause or 'a new epoch was begun'}.",
    )
    result(
        "churn",
        value,
        "MB/s",
        TARGET,
        {"Azure Site Recovery's cap per machine": 54.0},
        written_mb_per_second=round(rate, 1),
        data_mode=data_mode,
        seconds_behind=round(behind, 2),
        cpu_seconds={name: round(one, 2) for name, one in used.items()},
        memory_mib=memory,
    )
    return 0


def _write(made: Installation, rate: int, seconds: int) -> int:
    command = (
        f"fio --name=churn --filename={made.disk} --rw=randwrite --bs=64k --ioengine=libaio --iodepth=8 --direct=1"
        f" --time_based --runtime={seconds} --rate={rate * 1000000} --randrepeat=0 --refill_buffers --norandommap"
        " --output-format=json"
    )
    done = subprocess.run(command.split(), capture_output=True, check=True)
    written: int = json.loads(done.stdout)["jobs"][0]["write"]["io_bytes"]
    return written


def _programs(made: Installation) -> dict[str, int]:
    return {"agent": made.agent, "process server": made.process_server}


def _cpu(made: Installation) -> dict[str, float]:
    return {name: made.cpu_seconds(process) for name, process in _programs(made).items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
