"""Each way in which an S3 store refuses has its own cause and remedy; none that stays says "try again"."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.crash.process_server.faulty_s3 import FaultyStore

from farshore.model.errors import FarshoreError, Forbidden, NoSpace, Refused, TryLater, Unsupported
from farshore.vault import OwnerKey, Vault
from farshore.vault.stores.registry import open_store


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    with FaultyStore() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


CALLS = {
    "get": lambda store: store.get("a"),
    "put": lambda store: store.put("a", [b"1"]),
    "create": lambda store: store.put_if_absent("a", [b"1"]),
    "list": lambda store: list(store.list("x/")),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "RequestTimeTooSkewed", Forbidden, "clock"),
        (403, "ExpiredToken", Forbidden, "expired"),
        (400, "ExpiredToken", Forbidden, "expired"),
        (403, "QuotaExceeded", NoSpace, "is full"),
        (507, "StorageFull", NoSpace, "is full"),
        (403, "InvalidObjectState", Refused, "archived"),
        (404, "NoSuchBucket", Refused, "no such bucket"),
        (301, "PermanentRedirect", Refused, "another region"),
        (400, "AuthorizationHeaderMalformed", Refused, "another region"),
        (501, "NotImplemented", Unsupported, "does not support this"),
        (403, "AccessDenied", Forbidden, "refuses these credentials"),
    ],
)
def test_a_refusal_has_its_cause(
    double: FaultyStore, call: str, status: int, code: str, kind: type[FarshoreError], words: str
) -> None:
    store = open_store(f"{double.url}/vault")
    double.refusal = (status, code)
    with pytest.raises(kind, match=words) as told:
        CALLS[call](store)
    assert kind is NoSpace or not isinstance(told.value, TryLater)
    assert "ry again" not in told.value.remedy


def test_a_store_that_ignores_conditions_gets_no_vault(double: FaultyStore) -> None:
    double.ignores_conditions = True
    owner = OwnerKey(bytes(32), "key-file")
    for _ in range(2):
        with pytest.raises(Unsupported, match="overwrites objects"):
            Vault.create(open_store(f"{double.url}/vault"), owner)
    assert list(double.objects) == ["vault/probe/created-only"]


@pytest.mark.parametrize("prefix", ["a b", "a%20b", "größe", "a+b"])
def test_a_prefix_is_used_as_it_is_given(double: FaultyStore, prefix: str) -> None:
    store = open_store(f"{double.url}/{prefix}")
    store.put("x/1", [b"1"])
    assert list(double.objects) == [f"{prefix}/x/1"]
    assert bytes(store.get("x/1")) == b"1"
