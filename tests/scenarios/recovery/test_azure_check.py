"""``farshore azure check`` by an administrator: a configuration server, its command line, the double of Azure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.azure.running import Served, azure
from tests.contract import doubles
from tests.scenarios.control.servers import Server
from typer.testing import CliRunner, Result

from farshore.cli.main import commands


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    try:
        with doubles.azurite() as (_, environment), azure(tmp_path_factory.mktemp("azure"), environment) as made:
            yield made
    except FileNotFoundError as missing:
        pytest.skip(f"Azurite cannot be started here: {missing}")


def test_a_site_is_looked_at_and_a_file_mends_it(served: Served, tmp_path: Path) -> None:
    server = Server(tmp_path / "home")
    server.start()
    try:
        environment = {"FARSHORE_CREDENTIALS": str(server.home / "admin.json"), "COLUMNS": "200"}

        def run(*words: str) -> Result:
            return CliRunner().invoke(commands, list(words), env=environment)

        secret = tmp_path / "secret"
        secret.write_bytes(served.secret)
        settings = [word for name, value in served.settings.items() for word in ("--setting", f"{name}={value}")]
        added = run("site", "add", "cloud", "--kind", "azure", "--secret-file", str(secret), *settings)
        assert added.exit_code == 0, added.output

        good = run("azure", "check", "cloud", "--json")
        assert good.exit_code == 0, good.output
        assert [one["subject"] for one in json.loads(good.stdout)["findings"]][:3] == [
            "identity", "subscription", "resource group",
        ]  # fmt: skip

        served.double.actions = ["Microsoft.Compute/*"]
        file = tmp_path / "farshore.bicep"
        bad = run("azure", "check", "cloud", "--bicep", str(file))
        assert bad.exit_code == 1, bad.output
        assert "missing" in bad.stdout
        assert "az role assignment create" in bad.stdout
        assert "Microsoft.Network/networkInterfaces/join/action" in file.read_text()
        assert served.secret.decode() not in bad.stdout + good.stdout

        other = run("azure", "check", "qemu")
        assert other.exit_code != 0
        assert "needs nothing of a provider" in str(other.exception)
    finally:
        server.kill()
