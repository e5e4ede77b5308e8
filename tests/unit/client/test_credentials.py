from __future__ import annotations

import re
from pathlib import Path

import pytest

from farshore.client import credentials
from farshore.client.credentials import Credentials, client_context, fingerprint, same_fingerprint
from farshore.model.errors import Malformed, NotFound, Refused

SOME = Credentials("https://server", "authority", "certificate", "the-secret-key")


def test_saved_credentials_load_again_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    SOME.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Credentials.load(path) == SOME
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "credentials.json"
    SOME.save(path)
    path.chmod(mode)
    with pytest.raises(Refused, match="chmod 600"):
        Credentials.load(path)


def test_absent_and_spoiled_files_have_their_own_errors(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    with pytest.raises(NotFound):
        Credentials.load(path)
    SOME.save(path)
    path.write_text('{"url": 1}')
    with pytest.raises(Malformed):
        Credentials.load(path)


def test_the_key_is_never_shown() -> None:
    assert "the-secret-key" not in repr(SOME)


def test_bad_pem_is_malformed() -> None:
    with pytest.raises(Malformed):
        client_context("not a certificate")
    with pytest.raises(Malformed):
        fingerprint("not a certificate")


def test_fingerprints_compare_however_they_are_written() -> None:
    assert same_fingerprint("AB:CD", "abcd")
    assert not same_fingerprint("", "")


def test_no_program_connects_without_saying_to_what() -> None:
    """``client_context`` without a role believes any server of the authority: that is for tests."""
    source = Path(credentials.__file__).parents[1]
    for path in source.rglob("*.py"):
        for call in re.findall(r"(?<!def )client_context\(([^)]*)\)", path.read_text()):
            assert "role=" in call, f"{path}: client_context({call})"
