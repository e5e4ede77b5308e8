"""The read cache gives what the source has, fetches it once, and stays within its bound."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.export.memory_source import MemorySource

from farshore.export.read_cache import ReadCache
from farshore.model.errors import Damaged
from farshore.model.identifiers import CHUNK

SIZE = 20 * CHUNK + 4608
CONTENT = b"".join(bytes(CHUNK) if number % 3 == 1 else random.Random(number).randbytes(CHUNK) for number in range(21))[
    :SIZE
]


def read(cache: ReadCache, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    cache.read_into(offset, memoryview(buffer))
    return bytes(buffer)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 6 * CHUNK)), max_size=12), st.integers(1, 4 * CHUNK))
def test_reads_equal_the_source(reads: list[tuple[int, int]], limit: int) -> None:
    cache = ReadCache(MemorySource(CONTENT), limit)
    for offset, length in reads:
        length = min(length, SIZE - offset)
        assert read(cache, offset, length) == CONTENT[offset : offset + length]
        assert len(cache._held) <= max(1, limit // CHUNK)
    cache.close()


def test_a_chunk_is_fetched_once_and_zeroes_never() -> None:
    source = MemorySource(CONTENT)
    cache = ReadCache(source)
    for at in range(9 * CHUNK, 10 * CHUNK, 4096):
        read(cache, at, 4096)
    assert source.reads == 1
    assert cache.resident(9 * CHUNK, CHUNK)
    assert not cache.resident(9 * CHUNK, 4 * CHUNK)
    assert read(cache, 7 * CHUNK, 512) == bytes(512)
    assert source.reads == 1
    assert cache.resident(10 * CHUNK, CHUNK)
    cache.close()
    assert source.closed


class _Chunks(MemorySource):
    """Hands out even chunks whole; the last of the disk as it was before the disk grew."""

    handed = 0

    def whole_chunk(self, number: int) -> bytes | None:
        self.handed += 1
        data = CONTENT[number * CHUNK : (number + 1) * CHUNK]
        return None if number % 2 else data[:CHUNK] if len(data) == CHUNK else data[:-512]


def test_chunks_that_the_source_hands_out_are_not_read() -> None:
    source = _Chunks(CONTENT)
    cache = ReadCache(source)
    for chunk in (2, 9, 20, 2):
        assert read(cache, chunk * CHUNK + 512, 1024) == CONTENT[chunk * CHUNK + 512 : chunk * CHUNK + 1536]
    assert source.handed == 3
    assert source.reads == 2, "one that has to be put together, and one that is too short"
    cache.close()


def test_a_stream_is_read_ahead() -> None:
    source = MemorySource(CONTENT)
    cache = ReadCache(source)
    read(cache, 2 * CHUNK, 4096)
    read(cache, 3 * CHUNK, 4096)
    cache._threads.shutdown(wait=True)
    assert cache.resident(5 * CHUNK, 5 * CHUNK)
    cache.close()


def test_errors_reach_the_reader_and_are_not_kept() -> None:
    source = MemorySource(CONTENT)
    cache = ReadCache(source)
    source.errors.append(Damaged("a pack is damaged", remedy=""))
    with pytest.raises(Damaged):
        read(cache, 0, 10)
    assert read(cache, 0, 10) == CONTENT[:10]
    cache.close()


def test_many_readers_of_one_chunk_fetch_it_once() -> None:
    source = MemorySource(CONTENT)
    gate = threading.Event()
    plain = source.read_into

    def slow(offset: int, buffer: memoryview) -> None:
        gate.wait(60)
        plain(offset, buffer)

    source.read_into = slow  # type: ignore[method-assign]
    cache = ReadCache(source)
    with ThreadPoolExecutor(8) as readers:
        found = [readers.submit(read, cache, 12 * CHUNK + 7 * n, 100) for n in range(8)]
        gate.set()
        assert [f.result() for f in found] == [CONTENT[12 * CHUNK + 7 * n :][:100] for n in range(8)]
    assert source.reads == 1
    cache.close()
