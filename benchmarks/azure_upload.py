"""azure_upload: a disk of which half is zero, brought to a page blob; its pace by the bare SDK's, and the bytes sent.

A disk of 4 GiB (512 MiB with --quick): 4 MiB of data, 4 MiB of nothing, in turn; one step in eight is scattered data,
in runs of 64 KiB. The peer is the SDK of Azure's storage in a pool of threads: the same runs of the same file, with as
many at once, checksums as well. Both take turns, each to a blob of its own in Azurite on disk; the medians count.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from azure.storage.blob import BlobClient
from tests.contract.doubles import azurite
from tests.contract.page_blobs import IDENTITY, Blobs

from benchmarks._table import result, show
from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.page_blob import PARALLEL, PageBlob
from farshore.delivery.writing import STEP, write_disk
from farshore.export.raw_file import RawFileSource
from farshore.formats.vhd import FOOTER_BYTES, footer

TARGET = 0.9
_RUN = 64 << 10


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    options = parser.parse_args(argv)
    size, rounds = ((512 if options.quick else 4096) << 20), (3 if options.quick else 5)
    with tempfile.TemporaryDirectory(prefix="farshore-upload-") as name, _disks(Path(name)) as blobs:
        folder = Path(name)
        runs, data = _make_disk(folder / "disk.raw", size)
        ours: list[float] = []
        bare: list[float] = []
        bytes_sent = 0
        _bare(blobs, folder, size, runs[:8])  # the first requests to a fresh Azurite take longer
        for _ in range(rounds):
            bare.append(data / _bare(blobs, folder, size, runs) / (1 << 20))
            seconds, bytes_sent = _ours(blobs, folder, size)
            ours.append(data / seconds / (1 << 20))
    value, ratio = statistics.median(ours) / statistics.median(bare), bytes_sent / data
    show(
        f"azure_upload: {size >> 20} MiB disk, {data >> 20} MiB of them data, {PARALLEL} requests at once",
        ["", "MiB/s of data, median", "least", "most"],
        [
            ["farshore", *_figures(ours)],
            ["the bare SDK", *_figures(bare)],
        ],
        f"ours ÷ bare {value:.3f}; bytes sent ÷ bytes of data {ratio:.4f}. Most of the time is Azurite's.",
    )
    result(
        "azure_upload",
        value,
        "ratio",
        TARGET,
        {"azure-storage-blob MiB/s": round(statistics.median(bare), 1)},
        mib_per_second=round(statistics.median(ours), 1),
        sent_ratio=round(ratio, 4),
    )
    return 0


@contextlib.contextmanager
def _disks(folder: Path) -> Iterator[Blobs]:
    (folder / "azurite").mkdir()
    with azurite(folder=folder / "azurite") as (_, environment):
        blobs = Blobs(environment)
        try:
            yield blobs
        finally:
            blobs.close()


def _make_disk(path: Path, size: int) -> tuple[list[tuple[int, int]], int]:
    """Write the disk; its runs of data, as they are sent, and their bytes."""
    random = np.random.default_rng(5)
    runs: list[tuple[int, int]] = []
    with path.open("wb") as file:
        file.truncate(size)
        for place, start in enumerate(range(0, size, 2 * STEP)):
            scattered = place % 8 == 7
            for at in range(start, start + STEP, 4 * _RUN) if scattered else [start]:
                file.seek(at)
                file.write(random.bytes(_RUN if scattered else STEP))
                runs.append((at, _RUN if scattered else STEP))
    return runs, sum(length for _, length in runs)


def _bare(blobs: Blobs, folder: Path, size: int, runs: list[tuple[int, int]]) -> float:
    """Seconds that the SDK takes for these runs, and the footer."""
    name = blobs.make(size)
    file = os.open(folder / "disk.raw", os.O_RDONLY)
    with BlobClient.from_blob_url(blobs.grant(name)) as blob:

        def put(run: tuple[int, int]) -> None:
            offset, length = run
            blob.upload_page(os.pread(file, length, offset), offset, length, validate_content="md5")

        began = time.monotonic()
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(put, runs))
        blob.upload_page(footer(size, IDENTITY), size, FOOTER_BYTES)
        seconds = time.monotonic() - began
    os.close(file)
    blobs.direct(name).delete_blob()
    return seconds


class _Counted(PageBlob):
    sent = 0

    def _put(self, offset: int, pages: bytes) -> None:
        super()._put(offset, pages)
        with self._lock:
            self.sent += len(pages)


def _ours(blobs: Blobs, folder: Path, size: int) -> tuple[float, int]:
    """Seconds of an upload with its ledger, and the bytes sent."""
    name = blobs.make(size)
    source, path = RawFileSource(folder / "disk.raw"), folder / "ledger"
    began = time.monotonic()
    blob = _Counted(lambda: blobs.grant(name), size, IDENTITY)
    ledger = Ledger(path, Lading("benchmark", blob.identity, size, STEP))
    write_disk(source, blob, ledger, lambda *_: None)
    blob.finish()
    seconds = time.monotonic() - began
    for one in (ledger, blob, source):
        one.close()
    path.unlink()
    blobs.direct(name).delete_blob()
    return seconds, blob.sent


def _figures(rates: list[float]) -> list[str]:
    return [f"{one:.0f}" for one in (statistics.median(rates), min(rates), max(rates))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
