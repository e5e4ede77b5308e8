"""The user data of a temporary process server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from farshore.recovery.first_boot import Invitation, unit, user_data
from farshore.sites.port import ServerSoftware

ROOT = Path(__file__).parents[3]
INVITATION = Invitation("https://dr.example.com", "AB:CD", "https://10.20.0.5:9443", "the-token")


def told(package: str = "farshore[server]", **environment: str) -> Any:
    text = user_data(ServerSoftware(package, environment), INVITATION)
    assert text.startswith("#cloud-config\n")
    assert text.count("the-token") == 1
    return json.loads(text.removeprefix("#cloud-config\n"))


def test_its_one_secret_is_a_file_that_only_root_reads() -> None:
    assert "the-token" not in repr(INVITATION)
    files = {one["path"]: one for one in told()["write_files"]}
    assert files["/run/farshore-token"]["content"] == "the-token\n"
    assert files["/run/farshore-token"]["permissions"] == "0600"
    assert "/etc/farshore/store.env" not in files, "what an image brings of its own stays"
    assert 'url = "https://10.20.0.5:9443"' in files["/etc/farshore/process-server.toml"]["content"]


def test_what_opens_the_store_is_in_the_units_environment() -> None:
    files = {one["path"]: one for one in told(AZURE_STORAGE_ACCOUNT_NAME="vault")["write_files"]}
    assert files["/etc/farshore/store.env"]["content"] == "AZURE_STORAGE_ACCOUNT_NAME=vault\n"
    assert (
        "EnvironmentFile=-/etc/farshore/store.env"
        in files["/etc/systemd/system/farshore-process-server.service"]["content"].splitlines()
    )


def test_a_package_is_one_word_of_the_script() -> None:
    ((*shell, script),) = told("farshore[server] @ https://x/f.whl#sha256=aa; reboot")["runcmd"]
    assert shell == ["sh", "-euc"]
    assert "'farshore[server] @ https://x/f.whl#sha256=aa; reboot'" in script
    assert "trap 'rm -f /run/farshore-token' EXIT" in script


def test_the_unit_is_that_of_every_process_server() -> None:
    assert unit() == (ROOT / "deploy/servers/farshore-process-server.service").read_text()
