"""`make appliance`: the OVA is imported into the simulated vCenter; its disk boots on the hardware that the envelope
names, asks at its console for network, vault and vCenter, and runs everything by systemd from then on.

FARSHORE_APPLIANCE names a folder with images that were built before; a build takes some minutes.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.contract.places import short_folder
from tests.scenarios.appliance.serial_console import SerialConsole
from tests.scenarios.vsphere.test_discovery import login_to
from tests.vcenter.running import PASSWORD, Vcenter, vcenter
from tests.waiting import until

from farshore.lab.ports import free_port
from farshore.vsphere.certificates import look
from farshore.vsphere.session import session
from farshore.vsphere.tasks import finished

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(7200)]
ROOT = Path(__file__).parents[3]
ROOT_PASSWORD = "not-a-secret-either"
START_SECONDS = 2400.0
"""Of the servers, on an emulated processor."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the OVA's parts and the qcow2."""
    given = os.environ.get("FARSHORE_APPLIANCE")
    folder = Path(given) if given else tmp_path_factory.mktemp("appliance")
    if not given:
        subprocess.run([sys.executable, "-m", "deploy.appliance", "--output", str(folder)], cwd=ROOT, check=True)
    with short_folder() as unpacked:
        (ova,) = folder.glob("*.ova")
        (unpacked / "disk.qcow2").symlink_to(next(folder.glob("*.qcow2")).absolute())
        with tarfile.open(ova) as archive:
            archive.extractall(unpacked, filter="data")
        yield unpacked


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    with vcenter(tmp_path_factory.mktemp("vcenter"), 2, proxy="DC0_C0_RP0_VM0") as running:
        yield running


def test_it_is_imported(images: Path, centre: Vcenter) -> None:
    (described,) = images.glob("*.ovf")
    (disk,) = images.glob("*.vmdk")
    with session(login_to(centre)) as opened:
        (data,) = [one for one in opened.content.rootFolder.childEntity if isinstance(one, vim.Datacenter)]
        (cluster,) = data.hostFolder.childEntity
        network = data.network[0]
        chosen = vim.OvfManager.CreateImportSpecParams(
            entityName="dr1",
            networkMapping=[vim.OvfManager.NetworkMapping(name="VM Network", network=network)],
            diskProvisioning="thin",
        )
        made = opened.content.ovfManager.CreateImportSpec(
            described.read_text(), cluster.resourcePool, data.datastore[0], chosen
        )
        assert (made.error, made.warning) == ([], [])
        (item,) = made.fileItem
        assert (item.path, item.size) == (disk.name, disk.stat().st_size)
        lease = cluster.resourcePool.ImportVApp(made.importSpec, data.vmFolder)
        until(lambda: lease.state == "ready", "the lease")
        (url,) = [one.url for one in lease.info.deviceUrl if one.disk]
        send(centre, url, disk)
        lease.HttpNfcLeaseComplete()
        machine = next(one for one in data.vmFolder.childEntity if one.name == "dr1")
        hardware = machine.config.hardware
        kinds = {type(one) for one in hardware.device}
        assert (hardware.numCPU, hardware.memoryMB) == (2, 8192)
        assert {vim.vm.device.ParaVirtualSCSIController, vim.vm.device.VirtualVmxnet3} <= kinds
        (there,) = [one for one in hardware.device if isinstance(one, vim.vm.device.VirtualDisk)]
        assert there.capacityInKB == 16 << 20
        store = Path(data.datastore[0].info.url)
        flat = store / there.backing.fileName.split("] ", 1)[1].replace(".vmdk", "-flat.vmdk")
        same = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(flat), str(images / "disk.qcow2")]
        done = subprocess.run(same, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        finished(opened, machine.Destroy_Task(), 60)


def send(centre: Vcenter, url: str, disk: Path) -> None:
    context = ssl.create_default_context(cadata=look(centre.host, centre.port).pem)
    context.check_hostname = False
    headers = {"Content-Type": "application/x-vnd.vmware-streamVmdk", "Content-Length": str(disk.stat().st_size)}
    with disk.open("rb") as file:
        request = urllib.request.Request(url.replace("*", centre.host), file, headers, method="POST")
        urllib.request.urlopen(request, context=context, timeout=600).close()


@contextlib.contextmanager
def booted(images: Path, port: int) -> Iterator[SerialConsole]:
    """The machine as the envelope describes it, with less memory; ``port`` of this host leads to its 443."""
    (disk,) = images.glob("*.vmdk")
    overlay, serial = images / "overlay.qcow2", images / "serial"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "vmdk", "-b", str(disk), str(overlay)]
    subprocess.run(command, check=True)
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc"]
    command += ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Westmere", "-smp", "2", "-m", "3072"]
    command += ["-device", "pvscsi,id=scsi0", "-device", "scsi-hd,drive=disk,bus=scsi0.0,bootindex=1"]
    command += ["-drive", f"if=none,id=disk,file={overlay},format=qcow2,cache=unsafe"]
    command += ["-netdev", f"user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:443"]
    command += ["-device", "vmxnet3,netdev=net,romfile=", "-device", "VGA", "-device", "virtio-rng-pci"]
    command += ["-serial", f"unix:{serial},server=on,wait=off", "-qmp", f"unix:{images / 'qmp'},server=on,wait=off"]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        until(serial.exists, "its serial port")
        with SerialConsole(serial, images / "console.log") as console:
            yield console
    finally:
        machine.kill()
        machine.wait()


def answers(port: int) -> bool:
    """Whether the API is there: it asks for a client's certificate."""
    context: Any = ssl._create_unverified_context()
    try:
        urllib.request.urlopen(f"https://127.0.0.1:{port}/v1/status", context=context, timeout=30).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return False


def log_in(console: SerialConsole) -> None:
    console.answer("login: ", "root", START_SECONDS)
    console.answer("Password: ", ROOT_PASSWORD)
    console.expect("# ")


def test_it_boots_asks_and_runs(images: Path, centre: Vcenter) -> None:
    port = free_port()
    with booted(images, port) as console:
        console.answer("Press Enter to begin.", "")
        console.answer("machines reach this server", "dr.example.com")
        console.answer("Address", "10.0.2.15/24")
        console.answer("Gateway", "10.0.2.2")
        console.answer("Name servers", "10.0.2.3")
        console.expect("Addresses: 10.0.2.15")
        console.answer("New password of root: ", ROOT_PASSWORD)
        console.answer("again: ", ROOT_PASSWORD)
        console.answer("log in by SSH", "n")
        console.answer("local (for a trial)", "")
        console.answer("Its name or address", f"10.0.2.2:{centre.port}", START_SECONDS)
        console.answer("User", "")
        shown = console.expect("[y/N]")
        assert look(centre.host, centre.port).fingerprint.lower() in "".join(shown.replace(":", "").lower().split())
        console.type("y")
        console.answer("assword", PASSWORD)
        console.expect("Farshore is ready at https://dr.example.com")
        assert answers(port)
        log_in(console)
        console.type("systemctl is-active farshore; systemctl is-enabled ssh; farshore vmware list --json")
        console.type("echo the''end")
        said = console.expect("theend")
        assert "\nactive\n" in said
        assert "disabled" in said
        assert "following" in said
        assert PASSWORD not in console.said
        assert ROOT_PASSWORD not in console.said
        console.type("systemctl reboot")
        console.expect("login: ", START_SECONDS)
        assert "Press Enter to begin." not in console.said.split("systemctl reboot")[1]
        until(lambda: answers(port), "the servers after a restart", seconds=START_SECONDS, pause=5.0)
