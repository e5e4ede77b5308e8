"""The pages of docs/operate, typed through on one installation, in the order in which an operator needs them.

Each ``farshore`` line of the pages is either run here, with this installation's names in place of the examples', or
listed in ``ELSEWHERE`` with the reason.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.crash.mobility.rig import Rig
from tests.loopdisks import loop_disk, require_data_mode
from tests.unit.test_operate_pages import PAGES, typed

pytestmark = [pytest.mark.soak, pytest.mark.root]
MIB = 1 << 20
ORDER = (
    *("install", "protect", "monitor", "restore", "failover", "sites", "targets", "three-am", "keys", "upgrade"),
    *("uninstall", "network", "backup"),
)
TYPED_THERE = "test_commands_of_pages.py: at an installation of its own"
NOT_TYPED = {
    "site-lost": "tests/scenarios/control/test_site_lost.py types it, on two hosts",
    "failback": "tests/scenarios/recovery/test_reprotected_guest.py: a machine that boots; test_commands_of_pages.py",
    "master-target": "tests/scenarios/master_target and tests/crash/master_target",
    "vmware": "tests/scenarios/vsphere/test_page.py types it, at a vCenter",
    "appliance": "tests/scenarios/appliance boots it and answers",
    "automated": "tests/scenarios/push/test_automated.py: a guest that boots",
    "walkthrough": "steps 1, 6 and 7: make demo-azure; 2 and 5: tests/scenarios/vsphere; 4: test_commands_of_pages.py",
    "azure": "make demo-azure is to type its failover; tests/contract/test_azure_*.py: it needs a double of Azure",
}
ELSEWHERE = {
    "farshore up ": "the rig brings the servers up, on ports of its own",
    "farshore down": "the rig does",
    "farshore server restore /root/farshore.backup --key /root/vault.key --yes": "scenarios/control/test_backup_page",
    "farshore machine add": "tests/scenarios/push",
    "farshore machine upgrade": "tests/crash/mobility/test_upgrade.py",
    "farshore alert add ops": TYPED_THERE,
    "farshore alert test ops": TYPED_THERE,
    "farshore alert add chat": "tests/scenarios/control/test_alerting.py",
    **{
        f"farshore failover {verb}": "test_commands_of_pages.py, scenarios/recovery, the main job: a machine that boots"
        for verb in ("test", "show", "console", "cleanup", "report", "run", "commit")
    },
    "farshore site add cloud": "tests/contract/test_azure_site.py: it needs a double of Azure",
    "farshore site check cloud": "the same",
    "farshore site add dc1-home": "tests/contract/test_sites.py: it needs a vCenter",
    "farshore site check dc1-home": "the same",
    "farshore site add kvm": TYPED_THERE,
    "farshore site check kvm": TYPED_THERE,
    "farshore vault volumes": "tests/scenarios/vault/test_files.py: this disk has no file system of a machine",
    "farshore vault files": "the same",
    "farshore vault file ": "the same",
    "farshore vault restore --vault s3://dr-vault --key /root/vault.key --machine web1 --disk 0 --output": "a device",
    "farshore vault remove-key": "it would shut the rig out; tests/unit/cli",
    "farshore authority replace": TYPED_THERE,
    "farshore machine revoke": TYPED_THERE,
    "farshore machine delete web1 --uninstall --account": "tests/scenarios/push; there it is forgotten already",
}


class Beats(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(204)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hooks() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Beats)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_the_pages_do_what_they_say(tmp_path: Path, hooks: str) -> None:
    require_data_mode()
    desk = tmp_path / "desk"
    desk.mkdir()
    for name in ("hook-url", "heartbeat-url"):
        (desk / name).write_text(hooks)
    with loop_disk(64 * MIB, "ext4") as disk:
        rig = Rig(tmp_path / "home", disk)
        rig.home.mkdir(exist_ok=True)
        try:
            rig.up()
            rig.enrol()
            rig.start_agent()
            rig.wait_consistent()
            (desk / "vault.key").write_bytes((rig.home / "vault.key").read_bytes())
            (desk / "vault.key").chmod(0o600)
            said = [type_line(line, rig, desk) for page in ORDER for line in typed(page_of(page))]
        finally:
            rig.close()
    assert sum(one is not None for one in said) >= 30
    assert (desk / "web1.qcow2").exists()
    assert (desk / "support.tar.gz").exists()
    assert not rig.state.exists(), "the agent has taken itself off"


def page_of(name: str) -> Path:
    (found,) = [page for page in PAGES if page.stem == name]
    return found


def test_every_page_is_typed() -> None:
    assert {page.stem for page in PAGES} == {*ORDER, *NOT_TYPED, "README"}


def type_line(line: str, rig: Rig, desk: Path) -> str | None:
    """What a line of a page printed; None for what is not typed here."""
    if not line.startswith("farshore ") or any(line.startswith(known) for known in ELSEWHERE):
        return None
    machine = str(rig.machine)
    words = [
        word.replace("s3://dr-vault", f"file://{rig.home / 'vault'}")
        .replace("/root/", f"{desk}/")
        .replace("web1", machine if word == "web1" else "web1")
        .replace("db1", machine if word == "db1" else "db1")
        for word in shlex.split(line)[1:]
    ]
    for place, word in enumerate(words):
        if word.endswith("support.tar.gz"):
            Path(words[place]).unlink(missing_ok=True)  # two pages make one
        if word.endswith("web1.qcow2"):
            Path(words[place]).unlink(missing_ok=True)
    command = [sys.executable, "-c", "from farshore.cli.main import app; app()", *words]
    environment = {**os.environ, "FARSHORE_HOME": str(rig.home)}
    # What asks first is answered.
    done = subprocess.run(
        command, env=environment, cwd=desk, input="y\n", capture_output=True, text=True, check=False, timeout=600
    )
    # A machine without a boot disk is named by the check (1), and so is a host with less memory than it would take;
    # a server that is asked amid a failing channel is 4.
    judged = {"farshore machine check web1": (0, 1), "farshore site check lab": (0, 1), "farshore status": (0, 4)}
    allowed = judged.get(line, (0,))
    assert done.returncode in allowed, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
