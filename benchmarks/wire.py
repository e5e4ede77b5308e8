"""``wire``: bytes on the wire for each incompressible byte changed, and what the agent uses for it.

fio writes random 4 KiB blocks of random bytes, each block once, at a steady rate to a protected loop device of a real
installation. Counted are the bytes that the agent's TCP connections to the process server have sent (TLS, HTTP and
everything else included; ``ss`` reads the kernel's own count), from before the first write until the vault has the
last one. ``value``: those ÷ bytes written.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time

from benchmarks._installation import Installation, installation
from benchmarks._table import result, show

TARGET = 1.02
DISK = 1 << 30


def main(argv: list[str]) -> int:
    """Run it; exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks/run wire")
    parser.add_argument("--quick", action="store_true", help="100 MB instead of 400")
    parser.add_argument("--rate", type=int, default=20, help="MB/s")
    options = parser.parse_args(argv)
    size = (100 if options.quick else 400) * 1_000_000 // 4096 * 4096
    with installation(DISK) as made:
        sent, cpu = _sent(made), made.cpu_seconds(made.agent)
        written = _write(made, size, options.rate)
        made.wait_stored(time.time_ns())
        sent, cpu = _sent(made) - sent, made.cpu_seconds(made.agent) - cpu
        memory = made.memory_bytes(made.agent)
        machine = made.state()
    ratio = sent / written
    show(
        f"{written / 1e6:.0f} MB of random 4 KiB writes of random bytes at {options.rate} MB/s",
        ["", "written MB", "sent MB", "ratio", "agent CPU ms/MB", "agent MiB"],
        [
            [
                "farshore",
                f"{written / 1e6:.1f}",
                f"{sent / 1e6:.1f}",
                f"{ratio:.4f}",
                f"{cpu * 1e9 / written:.1f}",
                f"{memory >> 20}",
            ]
        ],
    )
    result(
        "wire",
        ratio,
        "bytes sent / bytes changed",
        TARGET,
        {},
        agent_cpu_ms_per_mb=round(cpu * 1e9 / written, 2),
        agent_memory_mib=memory >> 20,
        epochs=machine.epoch,
    )
    return 0


def _write(made: Installation, size: int, rate: int) -> int:
    command = (
        f"fio --name=wire --filename={made.disk} --rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 --direct=1"
        f" --io_size={size} --rate={rate * 1000000} --refill_buffers --randrepeat=0 --output-format=json"
    )
    done = subprocess.run(command.split(), capture_output=True, check=True)
    written: int = json.loads(done.stdout)["jobs"][0]["write"]["io_bytes"]
    return written


def _sent(made: Installation) -> int:
    """Bytes that the agent's connections to the process server have sent so far."""
    port = made.process_server_port
    done = subprocess.run(["ss", "-tinpH", "dst", f"127.0.0.1:{port}"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    total = 0
    for head, details in zip(lines[::2], lines[1::2], strict=False):
        found = re.search(r"bytes_sent:(\d+)", details)
        if f"pid={made.agent}," in head and found is not None:
            total += int(found[1])
    return total


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
