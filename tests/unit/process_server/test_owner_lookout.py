"""A process server looks whether the vault is still its installation's, whatever it has to store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from farshore.model.errors import Displaced, Unreachable
from farshore.process_server.storing import owner_lookout
from farshore.process_server.storing.owner_lookout import OwnerLookout
from farshore.process_server.streams.grants import Grants
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.ownership import How, Owner, claim


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.create(open_store(f"file://{tmp_path}/vault"), OwnerKey.generate_file(tmp_path / "owner.key"))


def lookout(
    vault: Vault,
    answers: list[object],
    monkeypatch: pytest.MonkeyPatch,
    turn_to: Callable[[str], bool] | None = None,
) -> tuple[OwnerLookout, list[int]]:
    asked: list[int] = []

    def ask() -> int:
        asked.append(1)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, int)
        return answer

    monkeypatch.setattr(owner_lookout, "LOOK_SECONDS", 0.01)
    return OwnerLookout(vault.store, vault.upkeep_key, 1, ask, turn_to), asked


def test_a_new_generation_of_its_own_server_makes_it_begin_anew(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(vault.store, vault.upkeep_key, None, Owner("a", 0, 1, How.MADE, "https://a"))
    one, asked = lookout(vault, [Unreachable("away", remedy="-"), 1, 2], monkeypatch)
    claim(vault.store, vault.upkeep_key, first, Owner("a", 0, 2, How.REBUILT, "https://a"))
    stopping = threading.Event()
    one.run(stopping)  # ends by itself
    assert stopping.is_set()
    assert len(asked) == 3


def test_it_takes_no_stream_once_it_is_displaced(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(vault.store, vault.upkeep_key, None, Owner("a", 0, 1, How.MADE, "https://a"))
    one, asked = lookout(vault, [1], monkeypatch)
    stopping = threading.Event()
    thread = threading.Thread(target=one.run, args=(stopping,))
    thread.start()
    one.refuse_if_displaced()
    claim(vault.store, vault.upkeep_key, first, Owner("b", 0, 2, How.ADOPTED, "https://b"))
    while not asked:
        assert thread.is_alive()
    stopping.set()
    thread.join()
    with pytest.raises(Displaced, match="https://b"):
        Grants(None, one.refuse_if_displaced).get("m", 1)  # type: ignore[arg-type]


def test_it_turns_to_whoever_has_taken_the_vault_over(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(vault.store, vault.upkeep_key, None, Owner("a", 0, 1, How.MADE, "https://a"))
    turned: list[str] = []

    def turn_to(url: str) -> bool:
        turned.append(url)
        if len(turned) == 1:
            raise Unreachable("It is starting.", remedy="-")
        return len(turned) == 3

    one, asked = lookout(vault, [Unreachable("burnt", remedy="-")], monkeypatch, turn_to)
    claim(vault.store, vault.upkeep_key, first, Owner("b", 0, 2, How.ADOPTED, "https://b"))
    stopping = threading.Event()
    one.run(stopping)  # ends by itself
    assert stopping.is_set()
    assert (turned, len(asked)) == (["https://b"] * 3, 3)
