"""The release key: made once, signs what the bundle is, contents and all."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from farshore.formats.release_statement import statement
from farshore.mobility.upgrade.trust import check_release, pin
from farshore.model.errors import Damaged, NotFound
from farshore.protection.push.bundle import Bundle
from farshore.protection.push.signing import ReleaseKey

RELEASE = "0.1.0-python3.11-abc"


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    made = ReleaseKey(tmp_path / "release", tmp_path / "release" / "release.key")
    made.ensure()
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    path = tmp_path / f"mobility-{RELEASE}.tar.gz"
    path.write_bytes(b"what is in it")
    return Bundle(RELEASE, path)


def test_what_the_server_signs_the_agent_accepts(tmp_path: Path, key: ReleaseKey, bundle: Bundle) -> None:
    pin(tmp_path / "pinned", key.public)
    signature = key.sign(bundle)
    check_release(tmp_path / "pinned", RELEASE, bundle.digest(), signature)
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public)).verify(
        bytes.fromhex(signature), statement(RELEASE, bundle.digest())
    )
    for path in (tmp_path / "release").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_the_private_half_is_needed_once_for_each_release(tmp_path: Path, key: ReleaseKey, bundle: Bundle) -> None:
    signature, public = key.sign(bundle), key.public
    (tmp_path / "release" / "release.key").rename(tmp_path / "on-a-medium-of-its-own")
    key.ensure()
    assert (key.sign(bundle), key.public) == (signature, public)
    with pytest.raises(NotFound, match="release key"):
        key.sign(Bundle("another", bundle.path))


def test_a_bundle_that_was_changed_is_not_given_out_under_its_name(key: ReleaseKey, bundle: Bundle) -> None:
    key.sign(bundle)
    bundle.path.write_bytes(b"something else")
    with pytest.raises(Damaged, match="changed after it was signed"):
        key.sign(bundle)
