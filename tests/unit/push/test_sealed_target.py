"""What a process server logs in with opens for its key and its push alone. The layout is pinned by a sealed example."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from farshore.model.errors import Malformed
from farshore.protection.installation import JumpHost, PushTarget
from farshore.protection.push import sealed_target
from farshore.protection.push.sealed_target import Opener, seal

TARGET = PushTarget(
    host="10.0.0.5",
    port=22,
    user="admin",
    private_key="very secret",
    host_key_fingerprint="SHA256:x",
    jump=JumpHost("gate", 2222, "admin", "SHA256:y"),
    token="one-time",
    server_url="https://dr.example.com",
    authority_fingerprint="ab" * 32,
    release_key="cd" * 32,
    disks=("/dev/vda",),
)
PUSH = "11111111-1111-4111-8111-111111111111"
# By the private keys 00…00 01 (sender) and 00…00 02 (recipient).
SEALED_BEGINS = "fd3384e132ad02a56c78f45547ee40038dc79002b90d29ed90e08eee762ae715"
SEALED_TEXT = "1cd9dff73b108ea5622b1052f508b7be383dbe4ef7b131cb1e5cfbd17f7db448"


def test_it_opens_as_it_was() -> None:
    opener = Opener(PUSH)
    sealed = seal(TARGET, PUSH, opener.public)
    assert opener.open(sealed) == TARGET
    assert b"secret" not in sealed
    assert b"one-time" not in sealed


def test_a_target_without_a_jump_host() -> None:
    plain = PushTarget(**{**vars(TARGET), "jump": None, "private_key": "", "password": "horse"})
    opener = Opener(PUSH)
    assert opener.open(seal(plain, PUSH, opener.public)) == plain


@pytest.mark.parametrize("change", ["another push", "another key", "a changed byte", "cut", "empty"])
def test_nothing_else_opens(change: str) -> None:
    opener = Opener(PUSH)
    sealed = seal(TARGET, PUSH, opener.public)
    if change == "another push":
        sealed = seal(TARGET, "other", opener.public)
    elif change == "another key":
        opener = Opener(PUSH)
    elif change == "a changed byte":
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    else:
        sealed = sealed[:20] if change == "cut" else b""
    with pytest.raises(Malformed) as caught:
        opener.open(sealed)
    assert "secret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32)])
def test_a_key_that_is_none_is_refused(key: bytes) -> None:
    """32 zeros: a point with which every secret would be the same."""
    with pytest.raises(Malformed):
        seal(TARGET, PUSH, key)


def test_the_layout_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [X25519PrivateKey.from_private_bytes(bytes(31) + bytes([number])) for number in (2, 1)]

    class Fixed:
        @staticmethod
        def generate() -> Any:
            return keys.pop(0)

    monkeypatch.setattr(sealed_target, "X25519PrivateKey", Fixed)
    opener = Opener(PUSH)
    sealed = seal(TARGET, PUSH, opener.public)
    assert sealed[:32].hex() == SEALED_BEGINS
    assert sealed[32:64].hex() == SEALED_TEXT
    assert opener.open(sealed) == TARGET
