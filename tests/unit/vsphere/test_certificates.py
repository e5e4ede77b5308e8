"""Fingerprints as people type them."""

from __future__ import annotations

import pytest

from farshore.model.errors import Malformed, TryLater
from farshore.vsphere.certificates import fingerprint_of, place_of, read_fingerprint

FINGERPRINT = fingerprint_of(b"a certificate")


def test_the_form_of_a_fingerprint() -> None:
    assert len(FINGERPRINT.split(":")) == 32
    for typed in (FINGERPRINT, FINGERPRINT.lower(), FINGERPRINT.replace(":", ""), f" sha256:{FINGERPRINT} "):
        assert read_fingerprint(typed) == FINGERPRINT


@pytest.mark.parametrize("typed", ["", "AB:CD", FINGERPRINT[:59], FINGERPRINT.replace("A", "G"), "É" * 64])
def test_what_is_none(typed: str) -> None:
    with pytest.raises(Malformed, match="fingerprint"):
        read_fingerprint(typed)


def test_where_a_file_is() -> None:
    assert place_of("https://*/guestFile?id=1", "vc") == ("*", 443, "/guestFile?id=1")
    assert place_of("https://esx1:8443/nfc/disk.vmdk", "vc") == ("esx1", 8443, "/nfc/disk.vmdk")
    assert place_of("https://esx1", "vc") == ("esx1", 443, "/")


@pytest.mark.parametrize(
    "url", ["https://[::1/x", "https://h:99999/", "https://h:x/", "https://h/\r\nX: y", "https://h/é"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(TryLater, match="vc returned an invalid URL"):
        place_of(url, "vc")
