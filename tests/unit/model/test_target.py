"""What may be chosen of a machine's networks."""

from __future__ import annotations

import pytest

from farshore.model.errors import Malformed
from farshore.model.target import MachineTarget, NetworkKind, TargetNetwork, check_network, shared_addresses

BRIDGE, ISOLATED = NetworkKind.BRIDGE, NetworkKind.ISOLATED


@pytest.mark.parametrize(
    "addresses", [(), ("192.0.2.10/24",), ("2001:db8::10/64",), ("192.0.2.10/24", "2001:db8::10/64"), ("192.0.2.1/32",)]
)
def test_addresses_that_a_card_can_have(addresses: tuple[str, ...]) -> None:
    check_network(TargetNetwork(BRIDGE, "br0", addresses))


@pytest.mark.parametrize(
    "addresses",
    [
        ("192.0.2.10",),
        ("192.0.2.0/24",),
        ("192.0.2.255/24",),
        ("127.0.0.1/8",),
        ("224.0.0.1/24",),
        ("0.0.0.0/0",),
        ("db1/24",),
        ("192.0.2.10/33",),
        ("192.0.2.10/24", "192.0.2.11/24"),
        ("2001:db8::10/64", "2001:db8::11/64"),
    ],
)
def test_addresses_that_no_card_can_have(addresses: tuple[str, ...]) -> None:
    with pytest.raises(Malformed) as raised:
        check_network(TargetNetwork(BRIDGE, "br0", addresses))
    assert raised.value.remedy


@pytest.mark.parametrize(
    "network", [TargetNetwork(BRIDGE), TargetNetwork(NetworkKind.NETWORK), TargetNetwork(ISOLATED, "x")]
)
def test_a_name_goes_with_what_has_one(network: TargetNetwork) -> None:
    with pytest.raises(Malformed, match="name"):
        check_network(network)


def test_an_address_is_shared_on_one_network_of_one_site_only() -> None:
    def target(kind: NetworkKind, name: str, address: str, site: str = "lab") -> MachineTarget:
        return MachineTarget(site=site, networks=(TargetNetwork(kind, name, (address,)),))

    first = ("db1", target(BRIDGE, "br0", "192.0.2.10/24"))
    second = ("web1", target(BRIDGE, "br0", "192.0.2.10/25"))
    assert shared_addresses([first, second]) == [("192.0.2.10", "db1", "web1")]
    for other in (
        target(BRIDGE, "br0", "192.0.2.11/24"),
        target(BRIDGE, "br1", "192.0.2.10/24"),
        target(BRIDGE, "br0", "192.0.2.10/24", site="far"),
        target(ISOLATED, "", "192.0.2.10/24"),
    ):
        assert shared_addresses([first, ("web1", other)]) == []
