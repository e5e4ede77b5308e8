"""Fingerprints as people type them."""

from __future__ import annotations

import pytest

from farshore.model.errors import Malformed
from farshore.vsphere.certificates import fingerprint_of, read_fingerprint

FINGERPRINT = fingerprint_of(b"a certificate")


def test_the_form_of_a_fingerprint() -> None:
    assert len(FINGERPRINT.split(":")) == 32
    for typed in (FINGERPRINT, FINGERPRINT.lower(), FINGERPRINT.replace(":", ""), f" sha256:{FINGERPRINT} "):
        assert read_fingerprint(typed) == FINGERPRINT


@pytest.mark.parametrize("typed", ["", "AB:CD", FINGERPRINT[:59], FINGERPRINT.replace("A", "G"), "É" * 64])
def test_what_is_none(typed: str) -> None:
    with pytest.raises(Malformed, match="fingerprint"):
        read_fingerprint(typed)
