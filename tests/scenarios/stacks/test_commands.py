"""Commands sent straight to an NVMe and a SCSI disk, on Debian's own kernel: each that may change the disk has all of
it compared, in data mode and in bitmap mode; those that only ask cost nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.loopdisks import run
from tests.scenarios.capture.altered_program import altered_program

from farshore.lab.command import GuestSettings
from farshore.lab.guest import Guest
from farshore.lab.image import HOST_TOOLS, GuestRecipe, ensure_image
from farshore.protection.push.bundle import build_bundle, default_cache
from farshore.sites.qemu.accelerator import QEMU

pytestmark = [pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(1800)]  # a guest of its own, for minutes
SIZE = 8 << 20
HERE = Path(__file__).parent
SCRIPTS = ("stacks/commands_in_guest.py", "stacks/straight_commands.py", "capture/rings.py")
_TAKEN = "\tif (is_command(op)) {\n\t\ttake_command(request, op);\n\t\treturn 0;\n\t}\n"


@pytest.fixture(autouse=True)
def _host_is_able() -> None:
    missing = [tool for tool in (QEMU, *HOST_TOOLS) if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.skip(f"a guest needs {', '.join(missing)}")


def packed(folder: Path) -> Path:
    """The agent's bundle with the scripts, and a capture program that takes commands for writes, as it once did."""
    bundle = build_bundle((3, 11), default_cache())
    with tarfile.open(bundle.path) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (folder / "unpacked" / bundle.release / "site").rename(folder / "site")
    for script in SCRIPTS:
        shutil.copy(HERE.parent / script, folder / "site")
    shutil.copy(altered_program(folder, {_TAKEN: ""}), folder / "site" / "faulty.bpf.o")
    run(f"tar -C {folder} -cf {folder}/site.tar site")
    return folder / "site.tar"


def plug_in(guest: Guest, folder: Path) -> None:
    """An NVMe disk, one of whose queues is polled, and a SCSI disk."""
    guest.shell.run("echo 1 > /sys/module/nvme/parameters/poll_queues", check=False)
    for name in ("nvme", "scsi"):
        image = folder / f"{name}.raw"
        image.touch()
        os.truncate(image, SIZE)
        file = {"driver": "file", "filename": str(image), "discard": "unmap"}
        guest.monitor("blockdev-add", {"node-name": name, "driver": "raw", "discard": "unmap", "file": file})
    guest.monitor("device_add", {"driver": "nvme", "id": "nvme", "drive": "nvme", "serial": "nvme"})
    guest.monitor("device_add", {"driver": "virtio-scsi-pci", "id": "scsi"})
    guest.monitor("device_add", {"driver": "scsi-hd", "id": "sda", "drive": "scsi", "bus": "scsi.0"})
    guest.shell.run(
        "modprobe -a sd_mod sg; until test -b /dev/nvme0n1 -a -b /dev/sda -a -c /dev/sg0; do sleep 0.2; done",
        seconds=120,
    )


def test_a_command_that_may_change_a_disk_has_all_of_it_compared(tmp_path: Path) -> None:
    site = packed(tmp_path)
    with Guest(ensure_image(GuestRecipe()), tmp_path / "guest", GuestSettings(memory=1024)) as guest:
        guest.start()
        guest.wait_until_up()
        plug_in(guest, tmp_path)
        guest.shell.copy(site, "/root/site.tar")
        guest.shell.run("tar -C /root -xf /root/site.tar")
        done = guest.shell.run("cd /root/site && python3 commands_in_guest.py /root/site faulty.bpf.o", seconds=900)
    found: dict[str, dict[str, list[Any]]] = json.loads(done.output.splitlines()[-1])
    for way, result in found["harmless"].items():
        assert result == ["data", "", 0, 0, False, 0, 0], way
    assert found["changing"].keys() == found["bitmap"].keys() == found["faulty"].keys()
    for way, (mode, cause, commands, uncounted, whole, before, after) in found["changing"].items():
        assert (mode, cause, commands, uncounted, whole, after) == ("bitmap", "COMMAND_TO_DRIVER", 1, 0, True, 0), way
        assert before > 0, f"the disk did not change: {way}"
    for way, (_, _, commands, uncounted, whole, _, after) in found["bitmap"].items():
        assert (commands, uncounted, whole, after) == (1, 0, True, 0), way
    for way, (_, _, _, _, whole, _, after) in found["faulty"].items():
        assert not whole, way
        assert after > 0, f"control: {way} is healed though nobody took it down"
