"""A configuration server that starts while its vault is away serves, says so, and goes on when the vault is back."""

from __future__ import annotations

import subprocess

import pytest
from tests.crash.mobility.rig import CLI
from tests.scenarios.control.servers import SETUP, Server, register
from tests.short_paths import short_path
from tests.unit.vault.test_folder_away import Away
from tests.waiting import until

from farshore.api_types.servers import VaultStatus
from farshore.model.errors import TryLater


def test_it_serves_without_the_vault_and_opens_it_later(server: Server) -> None:
    admin = server.admin()
    vault = admin.transport.get("/v1/vault", VaultStatus)
    assert vault.reachable
    server.kill()
    away = Away(server.home / "vault", mount_point=True)
    away.go()
    again = subprocess.run([*SETUP, "--home", str(server.home)], check=True, capture_output=True, text=True)
    assert "cannot be opened yet" in again.stderr
    server.start()
    seen = server.admin().transport.get("/v1/vault", VaultStatus)
    assert (seen.reachable, seen.vault) == (False, vault.vault)
    assert "is not open yet" not in seen.trouble  # the cause itself
    assert seen.trouble
    with pytest.raises(TryLater, match="is not open yet"):
        register(server)
    away.come()
    admin = server.admin()
    until(lambda: admin.transport.get("/v1/vault", VaultStatus).reachable)
    register(server)


def test_up_comes_up_without_it_too(server: Server) -> None:
    server.kill()
    away = Away(server.home / "vault")
    away.go()
    home = ["--home", str(short_path(server.home))]
    try:
        up = subprocess.run([*CLI, "up", "--detach", *home], check=False, capture_output=True, text=True)
        assert up.returncode == 0, up.stderr
        assert "The vault cannot be reached" in up.stderr
    finally:
        subprocess.run([*CLI, "down", *home], check=False, capture_output=True)
    away.come()
