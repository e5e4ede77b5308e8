"""A machine that was failed over to Azure replicates through the process server that Farshore makes beside it: the
user data that the double of Azure was sent is carried out, installs the package that is built here, and enrols."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.azure.resources import Resource
from tests.azure.running import Served, azure
from tests.contract.doubles import azurite
from tests.crash.mobility.rig import CLI, Rig, churn
from tests.loopdisks import loop_disk, require_data_mode, run
from tests.scenarios.hosts import Hosts
from tests.scenarios.process_servers.second import Operator
from tests.scenarios.recovery.first_boot import Booted, booted
from tests.waiting import until

from farshore.sites.azure.names import server_name
from farshore.sites.port import FailoverId

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[3]
MIB = 1 << 20


def requirement(folder: Path) -> str:
    """Our wheel, as pip is told of it: with its digest. What it needs is downloaded beside it."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("farshore-*.whl")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), f"{wheel}[server]"]
    subprocess.run(download, check=True, capture_output=True)  # the machine's network leads to no index
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"farshore[server] @ file://{wheel}#sha256={digest}"


def as_azure_shows_it(vm_id: str) -> str:
    """The id of a machine of the first generation, as its firmware shows it."""
    first, second, third, *rest = vm_id.split("-")
    return "-".join([*(bytes.fromhex(one)[::-1].hex() for one in (first, second, third)), *rest])


def virtual_machine(served: Served, name: str) -> Resource | None:
    return next((one for path, one in served.double.known.of("virtualMachines") if path.endswith(f"/{name}")), None)


def user_data(served: Served, failover: str) -> str:
    """That of the process server beside the failover's machine, once Azure has been given it."""
    name = server_name(FailoverId(failover))
    until(lambda: virtual_machine(served, name), "the process server's machine", pause=0.2)
    found = virtual_machine(served, name)
    assert found is not None
    return base64.b64decode(served.double.known.once[str(found["id"]).lower()]["customData"]).decode()


class Recovered:
    """The agent as it runs in the machine that came up: with the identity that it had, on Azure's hardware."""

    def __init__(self, folder: Path, hardware: str) -> None:
        firmware = folder / "firmware"
        firmware.mkdir()
        (firmware / "product_uuid").write_text(hardware + "\n")
        (firmware / "sys_vendor").write_text("Microsoft Corporation\n")
        self.program = folder / "agent.sh"
        self.program.write_text(
            f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m tests.scenarios.recovery.recovered_agent {firmware} "$@"\n'
        )
        self.program.chmod(0o755)


def reprotected(rig: Rig, failover: str) -> dict[str, object]:
    """What `farshore failover reprotect` said, and its exit status: pip takes its time."""
    done = subprocess.run(
        [*CLI, "failover", "reprotect", failover],
        env={**os.environ, "FARSHORE_HOME": str(rig.home)},
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )
    return {"status": done.returncode, "said": f"{done.stdout[-2000:]}{done.stderr[-2000:]}"}


def told(job: dict[str, object], server: Booted) -> str:
    return f"{job}\n{server.said()[-3000:]}"


def test_a_machine_replicates_through_the_server_that_its_user_data_makes(tmp_path: Path) -> None:
    require_data_mode()
    with contextlib.ExitStack() as undo:
        try:
            _, environment = undo.enter_context(azurite())
        except FileNotFoundError as missing:
            pytest.skip(f"Azurite cannot be started here: {missing}")
        served = undo.enter_context(azure(tmp_path, environment))
        hosts = undo.enter_context(Hosts("cloud"))
        wire = f"{hosts.address('cloud').rpartition('.')[0]}.254"
        disk = undo.enter_context(loop_disk(96 * MIB, "ext4"))
        rig = Rig(tmp_path / "near", disk, address=wire)
        undo.callback(rig.close)
        rig.up()
        rig.enrol()
        churn(disk.folder, 24, "before")
        rig.start_agent()
        rig.wait_consistent()
        operator = Operator(rig)
        at_home = operator.machine().process_server
        rig.check("before")

        # The source is lost. Its machine comes up at Azure, for good.
        rig.signal_agent(9)
        secret = tmp_path / "principal"
        secret.write_bytes(served.secret)
        (tmp_path / "wheel").mkdir()
        settings = {**served.settings, "process_server_package": requirement(tmp_path / "wheel")}
        words = [word for name, value in settings.items() for word in ("--setting", f"{name}={value}")]
        operator.run("site", "add", "cloud", "--kind", "azure", "--secret-file", str(secret), *words)
        name = operator.machine().name
        operator.run(*("machine", "target", "set", name, "--site", "cloud", "--network", "network:servers"))
        operator.run(*("machine", "target", "set", name, "--prepare", "never", "--processors", "1", "--memory", "1024"))
        operator.run("failover", "run", name, "--yes")
        (failover,) = [one["id"] for one in operator.json("failover", "list")]
        operator.run("failover", "commit", failover, "--yes")
        machine = virtual_machine(served, f"fs-{failover}")
        assert machine is not None
        recovered = Recovered(tmp_path, as_azure_shows_it(machine["properties"]["vmId"]))
        rig.start_agent(recovered.program)

        job: dict[str, object] = {}
        asking = threading.Thread(target=lambda: job.update(reprotected(rig, failover)), daemon=True)
        asking.start()
        text = user_data(served, failover)
        assert "AZURE" not in text
        (url,) = [line for line in text.splitlines() if "url = " in line]
        address = url.partition("https://")[2].partition(":")[0]
        space = hosts.command("cloud")
        run(f"{' '.join(space)} ip address add {address}/32 dev wire")
        run(f"ip route add {address}/32 dev {hosts._wire}")
        shared = [rig.home.resolve(), tmp_path / "wheel"]
        with booted(tmp_path / "machine", text, space, shared, PIP_FIND_LINKS=str(tmp_path / "wheel")) as server:
            until(lambda: "runcmd ended" in server.said(), "the end of its first boot", pause=1.0, seconds=1500)
            assert "runcmd ended with 0" in server.said(), server.said()[-3000:]
            asking.join(2400)
            assert job.get("status") == 0, told(job, server)
            made = f"cloud-{failover[:8]}"
            assert not (server.root / "run/farshore-token").exists()
            shown = operator.server(made)
            assert shown["temporary_for"] == failover
            assert shown["url"] == f"https://{address}:9443"
            before = operator.machine().epoch
            rig.wait_consistent()
            assert operator.machine().process_server == made
            churn(disk.folder, 8, "meanwhile")
            rig.check("through it")
            assert operator.machine().epoch == before
            assert "Traceback" not in server.said(), server.said()[-3000:]

            # And away with it: the machine is destroyed, and nothing is left.
            rig.signal_agent(9)
            operator.run("failover", "delete", failover, "--yes")
        assert not [path for path in served.double.known.held if failover in path]
        names = [one["name"] for one in operator.json("process-server", "list")]
        assert names == [at_home]
