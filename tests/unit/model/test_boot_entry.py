"""Which boot entries of a machine's firmware hold at another place."""

from __future__ import annotations

import struct

import pytest
from tests.uefi import PARTITION, entry, hard_drive

from farshore.model.boot_entry import MOST_BYTES, leads_to_partition

FILE = b"\x04\x04\x08\x00\\\0\0\0"
END = b"\x7f\xff\x04\x00"


def test_a_file_on_a_partition_that_is_known_by_its_id_holds() -> None:
    assert leads_to_partition(entry("debian", hard_drive(PARTITION) + FILE + END))
    assert leads_to_partition(entry("", hard_drive(PARTITION) + END, more=b"console=ttyS0"))


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\1\0\0\0",
        entry("off", hard_drive(PARTITION) + END, attributes=0),
        entry("network", b"\x03\x0b\x25\x00" + bytes(33) + END),
        entry("this board's slot", b"\x02\x01\x0c\x00" + bytes(8) + hard_drive(PARTITION) + END),
        entry("MBR", hard_drive(PARTITION, signature=1) + END),
        entry("cut", hard_drive(PARTITION) + END)[:-8],
        struct.pack("<IH", 1, 46) + "without an end".encode("utf-16-le"),
        entry("long", hard_drive(PARTITION) + END, more=bytes(MOST_BYTES)),
    ],
)
def test_nothing_else_does(odd: bytes) -> None:
    assert not leads_to_partition(odd)
