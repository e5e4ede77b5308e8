"""Passphrase files: one passphrase whatever it is encoded as; what is none is refused with its own reason."""

from __future__ import annotations

import pytest
from tests.unit.vault.synthetic import memory_vault

from farshore.model.errors import Malformed, NotFound, WrongKey
from farshore.vault import OwnerKey, Vault, open_store

COMPOSED, DECOMPOSED = "gr\u00f6\u00dfer", "gro\u0308\u00dfer"


def from_file(folder, data, *, new=False):
    path = folder / "word"
    path.write_bytes(data)
    return OwnerKey.from_passphrase_file(path, new=new)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b" \r\n", "is empty"),
        ("gr\u00f6\u00dfer".encode("latin-1"), "Latin-1"),
        ("geheim".encode("utf-16"), "UTF-16"),
        ("geheim".encode("utf-16-be"), "UTF-16"),
        (b"\xef\xbb\xbfgeheim", "byte order mark"),
    ],
)
def test_what_is_no_passphrase_is_refused_with_its_reason(tmp_path, data, reason):
    with pytest.raises(Malformed, match=reason):
        from_file(tmp_path, data, new=True)
    with pytest.raises(NotFound):
        OwnerKey.from_passphrase_file(tmp_path / "none")


@pytest.mark.parametrize("made", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("given", [COMPOSED, DECOMPOSED])
def test_the_same_letters_open_the_same_vault(tmp_path, made, given):
    store = open_store("memory:///")
    vault = Vault.create(store, from_file(tmp_path, made.encode(), new=True))
    assert Vault.open(store, from_file(tmp_path, f"{given}\n".encode())).key_hex == vault.key_hex
    with pytest.raises(WrongKey):
        Vault.open(store, from_file(tmp_path, b"grosser"))


@pytest.mark.parametrize("before", [DECOMPOSED.encode(), b"\xef\xbb\xbfword", b"word\r"])
def test_a_vault_that_an_earlier_release_made_opens_still(tmp_path, before):
    """They took the file's bytes as they were, less the line feed at the end."""
    vault = memory_vault()
    vault.add_owner(OwnerKey(before, "passphrase"))
    assert Vault.open(vault.store, from_file(tmp_path, before + b"\n")).key_hex == vault.key_hex
