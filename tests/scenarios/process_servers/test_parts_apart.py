"""Parts on hosts of their own, in network namespaces, the vault in an object store: a process server at the machine's
site, the configuration server elsewhere. Registration by token, draining, dying; then the configuration server's host
is lost, and an installation that had only the vault and the key takes the real agent over, without a token."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from tests.contract.doubles import azurite, ceph
from tests.crash.mobility.rig import Rig, churn, writing
from tests.loopdisks import loop_disk, require_data_mode
from tests.scenarios.hosts import Hosts
from tests.scenarios.process_servers.second import Operator, SecondServer
from tests.waiting import until

from farshore.lab.ports import free_ports
from farshore.vault.ownership import EPOCHS_APART

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.timeout(1500)]
MIB = 1 << 20
SITE = "at-the-site"


@pytest.mark.parametrize("double", [azurite, ceph])
def test_parts_apart_and_the_loss_of_one(double: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_data_mode()
    with contextlib.ExitStack() as undo:
        try:
            url, environment = undo.enter_context(double())  # type: ignore[operator]
        except FileNotFoundError as error:
            pytest.skip(str(error))
        for name, value in {**environment, "FARSHORE_GIVE_UP_PROCESS_SERVER_AFTER": "20"}.items():
            monkeypatch.setenv(name, value)
        hosts = undo.enter_context(Hosts("near", "site", "far"))
        hosts.store(url, environment)
        disk = undo.enter_context(loop_disk(192 * MIB, "ext4"))
        far_home = tmp_path / "far"
        ports = free_ports(2)
        near = Rig(
            tmp_path / "near",
            disk,
            address=hosts.address("near"),
            up_options=["--vault", url, "--standby", f"https://{hosts.address('far')}:{ports[0]}"],
            servers_in=hosts.command("near"),
            agent_in=hosts.command("site"),
            agent_state=tmp_path / "agent",
        )
        near.vault_url = url
        undo.callback(near.close)
        near.up()
        shutil.copy2(near.home / "vault.key", tmp_path / "safe.key")
        operator = Operator(near)
        site = SecondServer(operator, tmp_path / SITE, SITE, hosts.address("site"), hosts.command("site"))
        undo.callback(site.kill)
        site.enrol()
        site.start()
        near.enrol()
        churn(disk.folder, 48, "before")
        near.start_agent()
        near.wait_consistent()
        of_near = hosts.address("near")

        epoch = chosen(operator)
        drained(operator, of_near, epoch)
        near.check("drained")
        died(operator, site, of_near, disk.folder)
        near.check("died")

        near.down()
        shutil.rmtree(near.home.resolve())  # the home is a short way to it
        far = Rig(
            far_home,
            disk,
            address=hosts.address("far"),
            up_options=["--adopt-vault", url, "--key", str(tmp_path / "safe.key")],
            servers_in=hosts.command("far"),
            agent_state=near.state,
        )
        far._ports, far.machine, far.vault_url = ports, near.machine, url
        undo.callback(far.close)
        taken_over(far, disk.folder)
        at_the_site_again(Operator(far), site)
        far.check("again")


def chosen(operator: Operator) -> int:
    """The process server at the site takes the machine, within the epoch."""
    epoch = operator.machine().epoch
    operator.run("machine", "protect", operator.machine().name, "--process-server", SITE)
    assert operator.until_sent_to(SITE).epoch == epoch
    return epoch


def drained(operator: Operator, other: str, epoch: int) -> None:
    """Its machines go to the other one, and come back when they are told to."""
    with writing(operator.rig.disk.folder, megabytes_a_second=3):
        operator.run("process-server", "drain", SITE)
        assert operator.until_sent_to(other).epoch == epoch
        until(lambda: operator.server(SITE)["standing"] == "drained", "it is never drained")
    operator.run("process-server", "drain", SITE, "--cancel")
    chosen(operator)


def died(operator: Operator, site: SecondServer, other: str, folder: Path) -> None:
    """Killed with what it had not stored: the agent still has that, so the machine moves within its epoch."""
    epoch = operator.machine().epoch
    site.kill()
    shutil.rmtree(site.spool)
    churn(folder, 4, "meanwhile")
    assert operator.until_sent_to(other).epoch == epoch
    site.start()
    chosen(operator)


def taken_over(far: Rig, folder: Path) -> None:
    """An installation with the vault and the key: the agent comes by itself, and resyncs into the owner's epochs."""
    churn(folder, 8, "while nobody listens")
    far.up()
    epoch = far.wait_consistent(after_epoch=EPOCHS_APART)
    assert epoch > EPOCHS_APART
    far.check("taken over")
    assert not [one for one in Operator(far).json("token", "list") if one["used"]], "no token was needed"


def at_the_site_again(operator: Operator, site: SecondServer) -> None:
    """The process server finds in the vault who has taken over, and ends; systemd starts it again, and it is theirs."""
    until(site.ended, f"it does not turn to whoever has taken over: {site.log()}")
    site.start(operator)
    chosen(operator)
