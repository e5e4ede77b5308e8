"""Targets as they are written and shown."""

from __future__ import annotations

import pytest

from farshore.api_types.targets import Network, Obstacle, Readiness, TargetSeverity
from farshore.cli.failover import forwards
from farshore.cli.target import parse_default, parse_network, parse_tags, readiness_rows, shown_network
from farshore.model.errors import Malformed
from farshore.model.target import NetworkKind


@pytest.mark.parametrize(
    "text",
    [
        "isolated",
        "bridge:br0",
        "network:prod,192.0.2.10/24,2001:db8::10/64",
        "network:prod,192.0.2.10/24,new-mac",
        "network:prod,192.0.2.10/24,gateway=192.0.2.1,dns=192.0.2.53",
        "bridge:br0,dhcp",
    ],
)
def test_a_network_is_shown_as_it_is_written(text: str) -> None:
    assert shown_network(parse_network(text)) == text


def test_a_network_is_read() -> None:
    assert parse_network("bridge:br0,192.0.2.10/24,new-mac") == Network(
        kind=NetworkKind.BRIDGE, name="br0", addresses=["192.0.2.10/24"], keep_mac=False
    )
    with pytest.raises(Malformed, match="not a network"):
        parse_network("cable")
    with pytest.raises(Malformed, match="has an address"):
        parse_default("bridge:br0,192.0.2.10/24")
    with pytest.raises(Malformed, match="has an address"):
        parse_default("bridge:br0,dhcp")


def test_tags_are_pairs() -> None:
    assert parse_tags(["owner=dba", "note=a=b"]) == {"owner": "dba", "note": "a=b"}
    with pytest.raises(Malformed):
        parse_tags(["owner"])


def test_ports_that_nobody_names_are_the_target_s() -> None:
    assert forwards(["db1", "web1"], ["web1=8080:80"]) == {"db1": None, "web1": {8080: 80}}
    assert forwards(["db1"], []) == {"db1": None}
    assert forwards(["db1", "web1"], ["none"]) == {"db1": {}, "web1": {}}


def test_what_is_not_known_is_not_called_well() -> None:
    wrong = Obstacle(subject="site", severity=TargetSeverity.ERROR, message="It is full.", remedy="Free space.")
    mind = Obstacle(subject="memory", severity=TargetSeverity.WARNING, message="It is small.", remedy="Choose less.")
    assert readiness_rows(Readiness(site="lab")) == [
        ("Failover", "readiness at lab is not known yet: the site is checked every minute")
    ]
    assert readiness_rows(Readiness(works=True, site="lab"))[0][1].startswith("would work now at lab")
    assert readiness_rows(Readiness(works=False, site="lab", obstacles=[wrong, mind])) == [
        ("Failover", "would not work now at lab"),
        ("Obstacle", "It is full. Free space."),
        ("Mind", "It is small. Choose less."),
    ]
