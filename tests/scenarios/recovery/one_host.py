"""A master target of this host without a configuration server between: real errands by the real program."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.held_keys import held_keys

from farshore.delivery.in_place import HomeOrder
from farshore.delivery.port import Watch
from farshore.master_target.errand_process import ErrandProcess
from farshore.model.home_task import HomeTask
from farshore.vault import Vault, open_store


class OneHost:
    """farshore.delivery.in_place.MasterTargets."""

    def __init__(self, vault_url: str = "", key: Callable[[], str] = str, state: Path = Path("/nowhere")) -> None:
        self._url, self._key, self._state = vault_url, key, state

    def perform(self, order: HomeOrder, watch: Watch) -> None:
        vault = Vault.open_with_vault_key(open_store(self._url), bytes.fromhex(self._key()))
        task = HomeTask(
            order.errand,
            self._url,
            order.machine,
            str(self._state / order.failover),
            order.places,
            held_keys(vault, order.machine),
            order.position,
        )
        ErrandProcess(task, watch).run()

    def forget(self, failover: str) -> None:
        shutil.rmtree(self._state / failover, ignore_errors=True)
