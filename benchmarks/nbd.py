"""nbd: a recovery point as a block device, beside qemu-nbd over a zstd qcow2 of the same image.

Both serve read-only over a Unix socket; fio's nbd engine reads 4 KiB at random from 16 in flight, and 1 MiB in
sequence from 4 in flight. Cold: the server has just started and the page cache of its files was dropped. Warm: the
same reads of a small region again. Ours decrypts (AES-256-GCM) as well as it decompresses; qemu-nbd decompresses.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from blake3 import blake3
from pydantic import SecretStr

from benchmarks._image import image
from benchmarks._table import result, show
from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportedDisk, ExportSettings, VaultDisk
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks, Comparison, Verdict
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId, Sequence, new_id
from farshore.vault import EpochRecord, OwnerKey, Vault, open_store

MIB = 1 << 20
WARM_BYTES = 32 * MIB
_BATCH = 64


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    options = parser.parse_args(argv)
    size, seconds = (256 * MIB, 3) if options.quick else (2048 * MIB, 10)
    raw = image(size)
    folder = Path(tempfile.mkdtemp(prefix="farshore-nbd-"))
    try:
        qcow2 = folder / "peer.qcow2"
        convert = ("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", str(raw), str(qcow2))
        subprocess.run(convert, check=True)
        machine, key = _make_vault(folder, raw)
        ours = _measure(lambda: _ours(folder, machine, key), folder, size, seconds)
        peer = _measure(lambda: _peer(folder, qcow2), folder, size, seconds)
    finally:
        shutil.rmtree(folder)
    ratios = {name: ours[name] / peer[name] for name in ours}
    show(
        f"nbd: {size >> 20} MiB image (half zero, a quarter text, a quarter random)",
        ["", "Farshore (zstd, AES-256-GCM)", "qemu-nbd (zstd qcow2)", "ratio"],
        [[name, f"{ours[name]:,.0f}", f"{peer[name]:,.0f}", f"{ratios[name]:.2f}"] for name in ours],
        f"Each figure from {seconds} s of fio over the nbd engine, read-only, 2 cores shared with fio.",
    )
    result("nbd", min(ratios.values()), "ratio to qemu-nbd, smallest", 1.0, {"qemu-nbd": 1.0},
           ours=ours, peer=peer, ratios=ratios)  # fmt: skip
    return 0


def _measure(
    serve: Callable[[], contextlib.AbstractContextManager[str]], folder: Path, size: int, seconds: int
) -> dict[str, float]:
    found = {}
    with serve() as uri:
        _drop_caches()
        found["random 4 KiB, cold, IOPS"] = _fio(folder, uri, "randread", "4k", 16, size, seconds)["iops"]
    with serve() as uri:
        _drop_caches()
        found["sequential, cold, MB/s"] = _fio(folder, uri, "read", "1m", 4, size, 0)["bw_bytes"] / 1e6
    with serve() as uri:
        _fio(folder, uri, "read", "1m", 4, WARM_BYTES, 0)
        found["random 4 KiB, warm, IOPS"] = _fio(folder, uri, "randread", "4k", 16, WARM_BYTES, seconds)["iops"]
        found["one at a time, warm, IOPS"] = _fio(folder, uri, "randread", "4k", 1, WARM_BYTES, seconds)["iops"]
        found["sequential, warm, MB/s"] = _fio(folder, uri, "read", "1m", 4, WARM_BYTES, seconds)["bw_bytes"] / 1e6
    return found


def _fio(folder: Path, uri: str, pattern: str, block: str, depth: int, size: int, seconds: int) -> dict[str, float]:
    command = ["fio", "--name=nbd", "--ioengine=nbd", f"--uri={uri}", f"--rw={pattern}", f"--bs={block}"]
    command += [f"--iodepth={depth}", f"--size={size}", "--output-format=json", "--randrepeat=1"]
    if seconds:
        command += ["--time_based", f"--runtime={seconds}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    found: dict[str, float] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
    return found


@contextlib.contextmanager
def _ours(folder: Path, machine: str, key: str) -> Iterator[str]:
    launcher = ExportLauncher()
    settings = ExportSettings(
        socket=folder / "run" / "nbd.sock",
        disks=(ExportedDisk(name="0", source=VaultDisk(machine=machine, position="1:0", disk=0)),),
        vault_url=f"file://{folder / 'vault'}",
        vault_key=SecretStr(key),
    )
    launcher.start(settings)
    try:
        yield f"nbd+unix:///0?socket={settings.socket}"
    finally:
        launcher.stop(folder / "run")


@contextlib.contextmanager
def _peer(folder: Path, qcow2: Path) -> Iterator[str]:
    socket = folder / "peer.sock"
    command = ["qemu-nbd", "--read-only", "--persistent", "--shared=8", "-f", "qcow2", "-k", str(socket), str(qcow2)]
    process = subprocess.Popen(command)
    try:
        while not socket.exists():
            time.sleep(0.02)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.terminate()
        process.wait()


def _make_vault(folder: Path, raw: Path) -> tuple[str, str]:
    """A vault with the image as the base of one machine: its id, and the vault's key."""
    vault = Vault.create(open_store(f"file://{folder / 'vault'}"), OwnerKey.generate_file(folder / "owner.key"))
    machine = vault.machine(MachineId(new_id()), create=True)
    data = np.memmap(raw, np.uint8, "r")
    copy = machine.bases.begin_copy(Epoch(1), [(DiskNumber(0), len(data))], None)
    key = vault.chunk_hash_key
    count = len(data) // CHUNK
    for first in range(0, count, _BATCH):
        numbers = range(first, min(first + _BATCH, count))
        chunks = [data[number * CHUNK : (number + 1) * CHUNK].tobytes() for number in numbers]
        digests = b"".join(blake3(chunk, key=key).digest() if any(chunk) else bytes(32) for chunk in chunks)
        hashes = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        verdicts = copy.compare(Comparison(DiskNumber(0), first, hashes))
        send = np.flatnonzero(verdicts == Verdict.SEND).tolist()
        rows = np.zeros(len(send), CHUNK_ROW)
        for place, at in enumerate(send):
            rows[place] = (first + at, CHUNK, 0, hashes[at].tobytes())
        copy.put(Chunks(DiskNumber(0), rows, b"".join(chunks[at] for at in send)))
    disks = copy.finish()
    copy.close()
    machine.writing.put_epoch(
        EpochRecord(Epoch(1), "initial", None, Sequence(0), time.time_ns(), Sequence(1), disks, 1)
    )
    return str(machine.id), vault.key_hex


def _drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
