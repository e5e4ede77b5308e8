"""Each finding of the check, by the one fact that brings it about."""

from __future__ import annotations

from typing import Any

import pytest

from farshore.api_types.machines import CheckSeverity
from farshore.api_types.vmware import DiskBacking, VmwareDisk, VmwareMachine
from farshore.vsphere.checks import findings, reachable_addresses

DISK = VmwareDisk(key=2000, label="Hard disk 1", size=1 << 30, mode="persistent", shared_bus="noSharing")
GOOD = VmwareMachine(
    id="vm-1",
    name="web1",
    power="poweredOn",
    state="connected",
    firmware="efi",
    guest_id="debian12_64Guest",
    guest="Debian GNU/Linux 12 (64-bit)",
    address="192.0.2.7",
    tools="guestToolsRunning",
    disks=[DISK],
)
ERROR, WARNING = CheckSeverity.ERROR, CheckSeverity.WARNING


def with_disk(**values: Any) -> VmwareMachine:
    return GOOD.model_copy(update={"disks": [DISK.model_copy(update=values)]})


def test_nothing_stands_in_the_way() -> None:
    assert [(one.severity, one.remedy) for one in findings(GOOD)] == [(CheckSeverity.OK, "")]


CASES: list[tuple[dict[str, Any], CheckSeverity, str]] = [
    ({"template": True}, ERROR, "template"),
    ({"state": "orphaned"}, ERROR, "orphaned"),
    ({"power": "poweredOff"}, ERROR, "not powered on"),
    ({"guest_found": "Microsoft Windows Server 2019 (64-bit)"}, ERROR, "Windows"),
    ({"guest_id": "windows9Server64Guest", "guest": ""}, ERROR, "windows9"),
    ({"guest_id": "freebsd13_64Guest", "guest": "FreeBSD 13"}, ERROR, "FreeBSD"),
    ({"guest_id": "otherGuest64", "guest": "Other (64-bit)"}, WARNING, "Other"),
    ({"guest_id": "debian10Guest"}, WARNING, "32-bit"),
    ({"firmware": "coreboot"}, ERROR, "coreboot"),
    ({"secure_boot": True}, WARNING, "Secure Boot"),
    ({"disks": []}, ERROR, "no virtual disk"),
    ({"snapshots": 3}, WARNING, "3 snapshots"),
    ({"encrypted": True}, WARNING, "encrypted"),
    ({"tools": "guestToolsNotRunning"}, WARNING, "do not run"),
    ({"address": "fe80::1"}, WARNING, "no reachable address"),
    ({"unread": ["guest.net"]}, WARNING, "guest.net"),
]


@pytest.mark.parametrize(("facts", "severity", "words"), CASES, ids=[next(iter(case[0])) for case in CASES])
def test_a_fact_brings_its_finding(facts: dict[str, Any], severity: CheckSeverity, words: str) -> None:
    (only,) = findings(GOOD.model_copy(update=facts))
    assert (only.severity, words in only.message) == (severity, True), only
    assert only.remedy


@pytest.mark.parametrize(
    ("values", "severity", "words"),
    [
        ({"shared": True}, ERROR, "multi-writer"),
        ({"shared_bus": "physicalSharing"}, ERROR, "physicalSharing"),
        ({"backing": DiskBacking.RDM_PHYSICAL}, WARNING, "physical mode"),
        ({"backing": DiskBacking.RDM_VIRTUAL}, WARNING, "virtual mode"),
        ({"backing": DiskBacking.OTHER}, WARNING, "unknown kind"),
        ({"mode": "independent_persistent"}, WARNING, "independent"),
        ({"mode": "independent_nonpersistent"}, WARNING, "discards writes"),
    ],
)
def test_a_disk_brings_its_finding(values: dict[str, Any], severity: CheckSeverity, words: str) -> None:
    (only,) = findings(with_disk(**values))
    assert (only.subject, only.severity, words in only.message) == ("Hard disk 1", severity, True), only
    assert only.remedy


def test_what_the_tools_found_counts_more_than_what_was_chosen() -> None:
    chosen = {
        "guest_id": "windows9_64Guest",
        "guest": "Microsoft Windows 10",
        "guest_found": "Debian GNU/Linux 12 (64-bit)",
    }
    assert [one.severity for one in findings(GOOD.model_copy(update=chosen))] == [CheckSeverity.OK]


def test_errors_come_first() -> None:
    found = findings(GOOD.model_copy(update={"secure_boot": True, "snapshots": 1, "disks": []}))
    assert [one.severity for one in found] == [ERROR, WARNING, WARNING]


def test_addresses_that_can_be_reached() -> None:
    known = ["fe80::1", "2001:db8::1", "127.0.0.1", "192.0.2.8", "192.0.2.7", "nonsense"]
    found = GOOD.model_copy(update={"address": "192.0.2.7", "addresses": known})
    assert reachable_addresses(found) == ["192.0.2.7", "192.0.2.8", "2001:db8::1"]
