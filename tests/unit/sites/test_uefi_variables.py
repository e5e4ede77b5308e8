"""Boot entries in the file of a firmware's variables."""

from __future__ import annotations

import pytest
from tests.uefi import PARTITION, empty_store, entry, file_path, hard_drive, variables

from farshore.model.errors import Damaged, NoSpace
from farshore.sites.uefi_variables import with_boot_entries

ENTRY = entry("debian", hard_drive(PARTITION) + file_path("\\EFI\\debian\\shimx64.efi") + b"\x7f\xff\x04\x00")


def test_entries_are_there_in_their_order() -> None:
    made = with_boot_entries(empty_store(), [ENTRY, ENTRY[:-1]])
    assert variables(made) == {"Boot0000": ENTRY, "Boot0001": ENTRY[:-1], "BootOrder": b"\0\0\1\0"}
    assert len(made) == len(empty_store())


def test_what_the_template_holds_stays() -> None:
    first = with_boot_entries(empty_store(), [ENTRY])
    renamed = first.replace("Boot0000".encode("utf-16-le"), "SetupVar".encode("utf-16-le"))
    made = with_boot_entries(renamed, [ENTRY[:-1]])
    assert variables(made)["SetupVar"] == ENTRY
    assert variables(made)["Boot0000"] == ENTRY[:-1]
    assert variables(made)["BootOrder"] == b"\0\0", "of what the template says of booting nothing stays"
    assert list(variables(made)) == ["SetupVar", "Boot0000", "BootOrder"]
    assert with_boot_entries(b"whatever it is", []) == b"whatever it is"


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        bytes(4096),
        empty_store()[:90],
        empty_store()[:2000],
        empty_store().replace(b"_FVH", b"_FVX"),
        empty_store().replace(b"\x5a\xfe", b"\x5b\xfe"),
    ],
)
def test_a_file_that_is_no_store_is_told(odd: bytes) -> None:
    with pytest.raises(Damaged) as raised:
        with_boot_entries(odd, [ENTRY])
    assert raised.value.remedy


def test_a_variable_that_leads_out_of_the_store_is_told() -> None:
    made = bytearray(with_boot_entries(empty_store(), [ENTRY]))
    made[72 + 28 + 40 : 72 + 28 + 44] = b"\xff\xff\xff\x7f"
    with pytest.raises(Damaged):
        with_boot_entries(bytes(made), [ENTRY])


def test_a_store_that_is_full_is_told() -> None:
    with pytest.raises(NoSpace):
        with_boot_entries(empty_store(), [ENTRY.ljust(4096, b"\0")])
    with pytest.raises(NoSpace):
        with_boot_entries(empty_store().replace(b"\xff\xff", b"\xff\0"), [ENTRY])
