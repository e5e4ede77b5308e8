"""By which entries of its firmware a machine starts."""

from __future__ import annotations

from pathlib import Path

from tests.uefi import PARTITION, entry, hard_drive

from farshore.mobility.control.boot_entries import boot_entries

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
END = b"\x7f\xff\x04\x00"
ATTRIBUTES = b"\7\0\0\0"
DEBIAN, OLD = (entry(name, hard_drive(PARTITION) + END) for name in ("debian", "old"))
NETWORK = entry("network", b"\x03\x0b\x25\x00" + bytes(33) + END)


def test_the_entry_that_it_started_by_comes_first(tmp_path: Path) -> None:
    held = {"Boot0000": OLD, "Boot0003": NETWORK, "Boot000A": DEBIAN, "BootCurrent": b"\x0a\0"}
    held["BootOrder"] = b"\0\0\3\0\x0a\0\x0b\0"
    for name, data in held.items():
        (tmp_path / f"{name}-{GLOBAL}").write_bytes(ATTRIBUTES + data)
    assert boot_entries(tmp_path) == [DEBIAN.hex(), OLD.hex()]


def test_without_efi_there_are_none(tmp_path: Path) -> None:
    assert boot_entries(tmp_path / "missing") == []
    (tmp_path / f"BootOrder-{GLOBAL}").write_bytes(b"\7")
    assert boot_entries(tmp_path) == []
