"""The Python twins of the program's structures have the sizes that the built program has."""

from __future__ import annotations

import ctypes

import pytest

from farshore.mobility.capture.layout import (
    CHANGES,
    COUNTERS,
    FLIGHT,
    MAX_EXCLUSIONS,
    MAX_FLYING,
    MAX_PLACES,
    PLACE,
    RING_RECORD,
    Control,
    DiskEntry,
    ExclusionEntry,
)
from farshore.mobility.capture.libbpf import Library, ProgramInfo
from farshore.mobility.capture.program import OBJECT


def test_sizes_agree_with_the_built_program():
    if not OBJECT.exists():
        pytest.skip("the capture program is not built: make -C bpf")
    library = Library()
    library.bpf_map__value_size.argtypes = (ctypes.c_void_p,)
    library.bpf_map__max_entries.argtypes = (ctypes.c_void_p,)
    program = library.bpf_object__open_file(str(OBJECT).encode(), None)
    try:
        for name, size in (
            ("control", ctypes.sizeof(Control)),
            ("disks", ctypes.sizeof(DiskEntry)),
            ("excluded", ctypes.sizeof(ExclusionEntry)),
            ("counters", COUNTERS.itemsize),
            ("flying", FLIGHT.itemsize),
            ("places", PLACE.itemsize),
            ("changed", CHANGES.itemsize),
        ):
            found = library.bpf_object__find_map_by_name(program, name.encode())
            assert library.bpf_map__value_size(found) == size, name
        for name, entries in (("places", MAX_PLACES), ("flying", MAX_FLYING), ("excluded", MAX_EXCLUSIONS)):
            found = library.bpf_object__find_map_by_name(program, name.encode())
            assert library.bpf_map__max_entries(found) == entries, name
    finally:
        library.bpf_object__close(program)


def test_records_are_a_header_and_a_block():
    assert RING_RECORD.itemsize == 8 + 24 + 4096
    assert RING_RECORD.itemsize % 8 == 0
    assert ctypes.sizeof(ProgramInfo) == 216
