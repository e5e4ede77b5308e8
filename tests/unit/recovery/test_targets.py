"""A machine's choice over its policy's, and how it goes with a failover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog

from farshore.api_types.failovers import FailoverKind, FailoverRequest
from farshore.api_types.targets import Network, PolicyTarget, TargetChange, TargetField
from farshore.catalog import failovers, machines, policies, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import SiteRow
from farshore.model.errors import Malformed, NotFound
from farshore.model.machine import Firmware
from farshore.model.target import DiskBus, MachineTarget, NetworkKind, TargetNetwork
from farshore.recovery import targets
from farshore.recovery.asking import ask_for

POLICY = {"site": "lab", "disk_bus": "sata", "network": {"kind": "bridge", "name": "br0"}, "tags": {"a": "1", "b": "2"}}


def test_without_a_choice_everything_is_as_at_the_source() -> None:
    assert targets.used({}, {}) == MachineTarget()
    assert MachineTarget() == MachineTarget(site="qemu", disk_bus=DiskBus.VIRTIO, network=TargetNetwork())


def test_a_machine_s_choice_goes_over_its_policy_s() -> None:
    own = {"disk_bus": "pvscsi", "firmware": "uefi", "forward": {"2222": 22}, "tags": {"b": "3"}}
    found = targets.used(own, POLICY)
    assert (found.site, found.disk_bus, found.firmware) == ("lab", DiskBus.PVSCSI, Firmware.UEFI)
    assert (found.forward, found.tags) == ({2222: 22}, {"a": "1", "b": "3"})
    assert found.card(0) == found.card(7) == TargetNetwork(NetworkKind.BRIDGE, "br0")


def test_a_choice_of_another_release_is_told_and_not_passed_over() -> None:
    with pytest.raises(Malformed, match="target is not valid") as raised:
        targets.used({"disk_bus": "nvme"}, {})
    assert raised.value.remedy


def test_a_change_leaves_what_it_does_not_name() -> None:
    first = targets.change({}, TargetChange(memory=1 << 30, forward={2222: 22}, site="lab"))
    second = targets.change(first, TargetChange(processors=2, reset=[TargetField.SITE, TargetField.NAME]))
    assert targets.used(second, {}) == MachineTarget(memory=1 << 30, forward={2222: 22}, processors=2)


@pytest.mark.parametrize(
    "wanted",
    [
        TargetChange(site="lab", reset=[TargetField.SITE]),
        TargetChange(networks=[Network(kind=NetworkKind.BRIDGE)]),
        TargetChange(networks=[Network(addresses=["192.0.2.0/24"])]),
        TargetChange(networks=[Network(addresses=["192.0.2.9/24"], dhcp=True)]),
        TargetChange(networks=[Network(addresses=["192.0.2.9/24"], gateways=["192.0.2.1/24"])]),
        TargetChange(networks=[Network(addresses=["192.0.2.9/24"], gateways=["192.0.2.1", "192.0.2.2"])]),
        TargetChange(networks=[Network(nameservers=["192.0.2.53"])]),
    ],
)
def test_a_change_that_cannot_be(wanted: TargetChange) -> None:
    with pytest.raises(Malformed):
        targets.change({}, wanted)


def test_a_policy_s_choice_is_kept_without_what_it_leaves_open() -> None:
    assert targets.policy_choice(PolicyTarget(disk_bus=DiskBus.SATA)) == {"disk_bus": "sata"}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        sites.add(tx, SiteRow(id="lab", kind="qemu"))
        policies.get(tx, "default").target = {"site": "lab"}
        add_machine(tx, target={"forward": {"2222": 22}, "memory": 1 << 30})
    yield made
    made.close()


def asked(catalog: Catalog, failover: str, **request: Any) -> Any:
    wanted = FailoverRequest(kind=FailoverKind.FAILOVER, **request)
    with catalog.writing() as tx:
        ask_for(tx, MACHINE, wanted, failover=failover, job="j", now=NOW, actor="test")
    with catalog.reading() as tx:
        return failovers.get(tx, failover)


def test_a_failover_is_asked_for_as_the_target_says(catalog: Catalog) -> None:
    row = asked(catalog, "f")
    assert (row.site, row.forward) == ("lab", {"2222": 22})
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).target = {"memory": 2 << 30}
        policies.get(tx, "default").target = {}
    assert targets.used(row.target, {}).memory == 1 << 30, "what is chosen later is for later failovers"


def test_what_a_request_says_itself_counts_more(catalog: Catalog) -> None:
    row = asked(catalog, "f", site="qemu", forward={8080: 80})
    assert (row.site, row.forward) == ("qemu", {"8080": 80})
    assert asked(catalog, "g", forward={}).forward == {}, "no port at all is a wish, too"
    with pytest.raises(NotFound, match="moon"):
        asked(catalog, "h", site="moon")
