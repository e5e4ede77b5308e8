"""Uploads to page blobs: whole and equal whatever cuts them off, and what is zero does not travel. By Azurite."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.contract.conftest import Double
from tests.contract.doubles import azurite
from tests.contract.faulty_proxy import FaultyProxy
from tests.contract.page_blobs import IDENTITY, Blobs, upload, upload_and_die

from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.page_blob import MOST, PageBlob
from farshore.delivery.writing import write_disk
from farshore.export.raw_file import RawFileSource
from farshore.formats.vhd import footer, rounded
from farshore.model.errors import Forbidden, NotFound, Refused, TryLater

MIB = 1 << 20
SIZE = 24 * MIB + 1536
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.contract.page_blobs"])


@pytest.fixture(scope="module")
def proxy(double: Double) -> Iterator[FaultyProxy]:
    _, environment = double("azurite")
    upstream = urlsplit(environment["AZURE_STORAGE_ENDPOINT"]).port
    assert upstream
    with FaultyProxy(upstream, seed=11, share=0.0).running() as made:
        yield made


@pytest.fixture(scope="module")
def blobs(double: Double, proxy: FaultyProxy) -> Iterator[Blobs]:
    made = Blobs(double("azurite")[1], proxy.port)
    yield made
    made.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Half of it is holes; a step holds small runs, and one holds zeroes that no index knows of."""
    path = tmp_path / "disk.raw"
    write_image(path, SIZE, seed=3)
    return path


def write_image(path: Path, size: int, seed: int) -> None:
    """Random data in every second 4 MiB, sparse in between; the last sectors are data."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size - 4 * MIB, 8 * MIB):
            file.seek(start)
            file.write(chance.randbytes(4 * MIB))
        file.seek(4 * MIB + 512)
        file.write(chance.randbytes(512))
        file.seek(5 * MIB)
        file.write(bytes(MIB) + chance.randbytes(8192) + bytes(4096) + chance.randbytes(4096))
        file.seek(size - 512)
        file.write(chance.randbytes(512))


def blocks_of_data(path: Path) -> int:
    """Bytes of blocks that are not zero."""
    found = 0
    with path.open("rb") as file:
        while piece := file.read(4096):
            found += len(piece) if any(piece) else 0
    return found


def assert_arrived(blobs: Blobs, name: str, image: Path) -> None:
    size = image.stat().st_size
    found = blobs.direct(name).download_blob()
    expected = hashlib.sha256()
    with image.open("rb") as file:
        while piece := file.read(4 * MIB):
            expected.update(piece)
    expected.update(bytes(rounded(size) - size) + footer(rounded(size), IDENTITY))
    digest = hashlib.sha256()
    for piece in found.chunks():
        digest.update(piece)
    assert (found.size, digest.hexdigest()) == (rounded(size) + 512, expected.hexdigest())


def test_it_arrives_equal_and_zeroes_stay_at_home(
    blobs: Blobs, proxy: FaultyProxy, image: Path, tmp_path: Path
) -> None:
    name = blobs.make(SIZE)
    before = proxy.received
    upload(blobs.grant(name), image, tmp_path / "ledger")
    assert_arrived(blobs, name, image)
    data = blocks_of_data(image)
    assert data + 512 <= proxy.received - before <= data * 1.05 + 512
    again = proxy.received
    upload(blobs.grant(name), image, tmp_path / "ledger")
    assert proxy.received - again == 512, "the footer alone"


@pytest.mark.parametrize("share", [1 / 8, 2 / 8, 3 / 8, 7 / 8, 1])
def test_after_a_sigkill_it_goes_on(
    blobs: Blobs, proxy: FaultyProxy, image: Path, tmp_path: Path, share: float
) -> None:
    name, other = blobs.make(SIZE), blobs.make(SIZE)
    requests = len(puts(blobs, other, image, tmp_path / "other"))
    process = PROCESSES.Process(
        target=upload_and_die, args=(blobs.grant(name), image, tmp_path / "ledger", max(1, int(requests * share)))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = proxy.received
    upload(blobs.grant(name), image, tmp_path / "ledger")
    assert_arrived(blobs, name, image)
    if share == 1:
        assert proxy.received - before == 512, "what was noted does not travel again"


def puts(blobs: Blobs, name: str, image: Path, ledger: Path) -> list[int]:
    """The offsets of an upload's requests, in order."""
    found: list[int] = []

    class Noted(PageBlob):
        def _put(self, offset: int, pages: bytes) -> None:
            assert len(pages) <= MOST
            found.append(offset)
            super()._put(offset, pages)

    upload(blobs.grant(name), image, ledger, Noted)
    assert found[-1] == rounded(SIZE), "the footer is last"
    return found


def test_what_azure_lost_is_sent_again(blobs: Blobs, image: Path, tmp_path: Path) -> None:
    name = blobs.make(SIZE)
    upload(blobs.grant(name), image, tmp_path / "ledger")
    record = tmp_path / "ledger"
    record.write_bytes(record.read_bytes()[:4064] + bytes(32) + record.read_bytes()[4096:])  # as before its end
    blobs.direct(name).clear_page(8 * MIB, 4096)
    blobs.direct(name).upload_page(b"x" * 512, 12 * MIB, 512)  # and somebody wrote where nothing is
    upload(blobs.grant(name), image, record)
    assert_arrived(blobs, name, image)


def test_of_another_point_nothing_is_left(blobs: Blobs, image: Path, tmp_path: Path) -> None:
    name, other = blobs.make(SIZE), tmp_path / "other.raw"
    with other.open("wb") as file:
        file.truncate(SIZE)
        file.seek(13 * MIB)
        file.write(b"z" * 8192)
    upload(blobs.grant(name), other, tmp_path / "first")
    upload(blobs.grant(name), image, tmp_path / "second")
    assert_arrived(blobs, name, image)


def test_while_the_network_and_the_store_fail(blobs: Blobs, proxy: FaultyProxy, image: Path, tmp_path: Path) -> None:
    name = blobs.make(SIZE)
    proxy.share = 0.3
    try:
        for _ in range(50):
            with contextlib.suppress(TryLater):
                upload(blobs.grant(name), image, tmp_path / "ledger", Hasty)
                break
    finally:
        proxy.share = 0.0
    assert_arrived(blobs, name, image)


class Hasty(PageBlob):
    """Waits for nothing."""

    def __init__(self, grant: Callable[[], str], size: int, identity: object) -> None:
        super().__init__(grant, size, IDENTITY, sleep=lambda _: None)


def test_a_grant_that_ends_is_asked_for_anew(blobs: Blobs, image: Path, tmp_path: Path) -> None:
    name = blobs.make(SIZE)
    ends = [3600.0, -60.0, 3600.0]
    source = RawFileSource(image)
    blob = PageBlob(lambda: blobs.grant(name, ends.pop(0)), SIZE, IDENTITY)
    blob._renew(blob._client)  # it has come to its end meanwhile
    record = Ledger(tmp_path / "ledger", Lading("a", blob.identity, SIZE, 4 * MIB))
    write_disk(source, blob, record, lambda *_: None)
    blob.finish()
    assert not ends
    for one in (record, blob, source):
        one.close()
    assert_arrived(blobs, name, image)


def test_a_grant_that_does_not_help_is_a_refusal_that_keeps_the_secret(blobs: Blobs) -> None:
    name = blobs.make(SIZE)
    with pytest.raises(Forbidden, match="cannot be looked at: 403") as raised:
        PageBlob(lambda: blobs.grant(name, -60), SIZE, IDENTITY)
    assert "sig=" not in str(raised.value)
    assert "farshore site check" in raised.value.remedy
    reading = PageBlob(lambda: blobs.grant(name, rights="r"), SIZE, IDENTITY)
    with pytest.raises(Forbidden):
        reading.finish()
    reading.close()


def test_it_waits_as_long_as_azure_says(blobs: Blobs, proxy: FaultyProxy) -> None:
    waits: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    name = blobs.make(SIZE)
    blob = PageBlob(lambda: blobs.grant(name), SIZE, IDENTITY, patience=30.0, sleep=sleep, clock=lambda: now[0])
    busy = (503, [("Retry-After", "7"), ("x-ms-error-code", "ServerBusy")], b"")
    proxy.instead = [busy, (429, [("Retry-After", "9")], b"")]
    blob.finish()
    assert waits == [7.0, 9.0]
    proxy.instead = [busy] * 9
    with pytest.raises(TryLater, match="503 ServerBusy") as raised:
        blob.finish()
    assert raised.value.after == 7.0
    assert len(proxy.instead) == 4, "seven seconds go into thirty four times"
    proxy.instead = []
    blob.close()


def test_bytes_that_change_on_the_way_are_sent_again(
    blobs: Blobs, proxy: FaultyProxy, image: Path, tmp_path: Path
) -> None:
    name = blobs.make(SIZE)
    proxy.garbled = 3
    upload(blobs.grant(name), image, tmp_path / "ledger", Hasty)
    assert proxy.garbled == 0
    assert_arrived(blobs, name, image)
    blob = PageBlob(lambda: blobs.grant(name), SIZE, IDENTITY, patience=0.0)
    proxy.garbled = 1
    with pytest.raises(TryLater, match="400 Md5Mismatch"):
        blob.finish()
    blob.close()


def test_what_is_not_the_disk_is_refused(blobs: Blobs) -> None:
    smaller = blobs.make(24 * MIB)
    with pytest.raises(Refused, match="has 25166336 bytes, but 26214912 are"):
        PageBlob(lambda: blobs.grant(smaller), SIZE, IDENTITY)
    with pytest.raises(NotFound):
        PageBlob(lambda: blobs.grant("gone"), SIZE, IDENTITY)
    with pytest.raises(Refused, match="did not return an address"):
        PageBlob(lambda: "nonsense", SIZE, IDENTITY)


@pytest.mark.soak
def test_four_gib_half_empty(tmp_path: Path) -> None:
    size, image = 4096 * MIB, tmp_path / "big.raw"
    write_image(image, size, seed=9)
    (folder := tmp_path / "azurite").mkdir()
    with azurite(folder=folder) as (_, environment):
        upstream = urlsplit(environment["AZURE_STORAGE_ENDPOINT"]).port
        assert upstream
        with FaultyProxy(upstream, seed=11, share=0.0).running() as proxy:
            blobs = Blobs(environment, proxy.port)
            name = blobs.make(size)
            for at in (40, 200):
                process = PROCESSES.Process(
                    target=upload_and_die, args=(blobs.grant(name), image, tmp_path / "ledger", at)
                )
                process.start()
                process.join()
                assert process.exitcode == -signal.SIGKILL
            proxy.share = 0.1
            while True:
                with contextlib.suppress(TryLater):
                    upload(blobs.grant(name), image, tmp_path / "ledger", Hasty)
                    break
            proxy.share = 0.0
            data = image.stat().st_blocks * 512
            assert proxy.received <= 1.3 * data, "what was cut off alone travels again"
            assert_arrived(blobs, name, image)
            blobs.close()
