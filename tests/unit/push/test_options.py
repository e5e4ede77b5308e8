"""What comes of disk names goes into the environment file of a root service: one line, whatever they are."""

from __future__ import annotations

import pytest

from farshore.model.errors import Malformed
from farshore.protection.push.install import _options


def test_devices_become_options() -> None:
    assert _options(["/dev/vda", "/dev/disk/by-id/nvme-X_1:2"]) == "--disk /dev/vda --disk /dev/disk/by-id/nvme-X_1:2"
    assert _options([]) == ""


@pytest.mark.parametrize(
    "disk",
    [
        "/dev/vda\nLD_PRELOAD=/tmp/x.so",
        '/dev/vda"',
        "/dev/vda --disk /dev/vdb",
        "/dev/$(id)",
        "/dev/`id`",
        "/dev/vda\\",
        "/dev/vda\x00",
        "/etc/passwd",
        "--help",
        "",
    ],
)
def test_nothing_else_does(disk: str) -> None:
    with pytest.raises(Malformed, match="not the path of a disk"):
        _options([disk])
