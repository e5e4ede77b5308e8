"""``farshore machine target``: a machine's site, hardware and networks after a failover, set in advance."""

from __future__ import annotations

from typing import Annotated

import typer

from farshore.api_types.targets import (
    CardDefault,
    MachineTargetView,
    Network,
    Readiness,
    Target,
    TargetChange,
    TargetField,
    TargetSeverity,
)
from farshore.cli.check_grammar import CHECK_HELP, parse_checks, shown_check
from farshore.cli.connection import AsJson, MachineName, management
from farshore.cli.failover import parse_forward
from farshore.cli.output import ago, out, print_fields, print_json, size
from farshore.client.transport import segment
from farshore.model.errors import Malformed
from farshore.model.machine import Firmware
from farshore.model.target import DiskBus, NetworkKind, Preparation

app = typer.Typer(no_args_is_help=True, help="A machine's target: its site, hardware and networks after a failover.")

_NEW_MAC, _DHCP = "new-mac", "dhcp"
_GATEWAY, _NAMESERVER = "gateway=", "dns="
NETWORK_HELP = (
    "isolated, bridge:NAME or network:NAME, followed by comma-separated options: addresses "
    "(192.0.2.10/24) with gateway=ADDRESS and dns=ADDRESS, or dhcp; new-mac"
)


@app.command()
def show(machine: MachineName, as_json: AsJson = False) -> None:
    """Show a machine's target, where each value comes from, and whether a failover would work now."""
    found = management().transport.get(_path(machine), MachineTargetView)
    print_json(found) if as_json else _print(found)


@app.command("set")
def choose(
    machine: MachineName,
    site: Annotated[str | None, typer.Option(help="The recovery site.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="Name of the recovered machine.", show_default=False)] = None,
    processors: Annotated[int | None, typer.Option(min=1, help="Number of processors.", show_default=False)] = None,
    memory: Annotated[int | None, typer.Option(min=64, help="MiB.", show_default=False)] = None,
    firmware: Annotated[Firmware | None, typer.Option(help="Firmware to boot with.", show_default=False)] = None,
    disk_bus: Annotated[
        DiskBus | None, typer.Option(help="Disk bus. The guest's initramfs must have the driver.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC", help=f"Network of each card, in order: {NETWORK_HELP}. Repeatable.", show_default=False
        ),
    ] = None,
    other_networks: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Network of all cards after those set by --network.", show_default=False),
    ] = None,
    forward: Annotated[
        list[str] | None,
        typer.Option(
            help="Forward a port of the site's host to the machine: HOST:GUEST. Repeatable.", show_default=False
        ),
    ] = None,
    prepare: Annotated[
        Preparation | None,
        typer.Option(
            help="Whether to adapt the guest to the target. auto does so if the target differs from the source.",
            show_default=False,
        ),
    ] = None,
    ssh: Annotated[
        bool | None,
        typer.Option("--ssh/--no-ssh", help="Require an answer by SSH after a failover.", show_default=False),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Tag of the recovered machine. Repeatable.")
    ] = None,
    check: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help=f"{CHECK_HELP}. none runs no check.", show_default=False)
    ] = None,
    reset: Annotated[
        list[TargetField] | None,
        typer.Option(help="Clear this value, so that the policy or the source decides. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set a machine's target. Options that you leave out are unchanged. Existing failovers are not affected.

    Example: `farshore machine target set db1 --site lab --memory 4096 --network isolated --forward 5432:5432`
    """
    change = TargetChange(
        site=site,
        name=name,
        processors=processors,
        memory=None if memory is None else memory << 20,
        firmware=firmware,
        disk_bus=disk_bus,
        networks=[parse_network(text) for text in network] if network else None,
        network=None if other_networks is None else parse_default(other_networks),
        forward=parse_forward(forward) if forward else None,
        tags=parse_tags(tag) if tag else None,
        prepare=prepare,
        ssh=ssh,
        checks=parse_checks(check) if check else None,
        reset=reset or [],
    )
    if change == TargetChange():
        raise Malformed("No option was given.", remedy="See the options: farshore machine target set --help")
    found = management().transport.call("PATCH", _path(machine), change, MachineTargetView)
    print_json(found) if as_json else _print(found)


def parse_network(text: str) -> Network:
    """Parse ``KIND[:NAME]`` and its options, as NETWORK_HELP describes. Raises Malformed."""
    what, *more = text.split(",")
    kind, _, name = what.partition(":")
    try:
        known = NetworkKind(kind)
    except ValueError as error:
        raise Malformed(f"{text!r} is not a network.", remedy=f"Write {NETWORK_HELP}.") from error
    named = (_GATEWAY, _NAMESERVER)
    return Network(
        kind=known,
        name=name,
        addresses=[word for word in more if word not in (_NEW_MAC, _DHCP) and not word.startswith(named)],
        keep_mac=_NEW_MAC not in more,
        dhcp=_DHCP in more,
        gateways=[word.removeprefix(_GATEWAY) for word in more if word.startswith(_GATEWAY)],
        nameservers=[word.removeprefix(_NAMESERVER) for word in more if word.startswith(_NAMESERVER)],
    )


def parse_default(text: str) -> CardDefault:
    """Parse a network without addresses, as it is for any card of any machine. Raises Malformed."""
    found = parse_network(text)
    if found.addresses or found.dhcp or found.gateways or found.nameservers:
        raise Malformed(
            f"{text!r} has an address, which only a single card can have.",
            remedy="Set the address of one card of a machine: farshore machine target set --network SPEC.",
        )
    return CardDefault(kind=found.kind, name=found.name, keep_mac=found.keep_mac)


def parse_tags(pairs: list[str]) -> dict[str, str]:
    """Parse NAME=VALUE pairs. Raises Malformed."""
    tags = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not name or not found:
            raise Malformed(f"{pair!r} is not a tag.", remedy="Write it as NAME=VALUE.")
        tags[name] = value
    return tags


def readiness_rows(readiness: Readiness) -> list[tuple[str, str]]:
    """Return rows on whether a failover would work now, and each obstacle with its remedy."""
    where = f" at {readiness.site}" if readiness.site else ""
    if readiness.works is None:
        told = f"readiness{where} is not known yet: the site is checked every minute"
    elif readiness.works:
        told = f"would work now{where} (checked {ago(readiness.checked)})"
    else:
        told = f"would not work now{where}"
    rows = [("Failover", told)]
    for one in readiness.obstacles:
        title = "Obstacle" if one.severity is TargetSeverity.ERROR else "Mind"
        rows.append((title, f"{one.message} {one.remedy}".strip()))
    return rows


def target_rows(target: Target) -> list[tuple[str, str]]:
    """Return the values of a target, one row each."""
    networks = [shown_network(one) for one in target.networks or []]
    return [
        ("Site", target.site or "qemu"),
        ("Name", target.name or ""),
        ("Processors", str(target.processors or "as at the source")),
        ("Memory", size(target.memory) if target.memory else "as at the source"),
        ("Firmware", target.firmware.value if target.firmware else "as at the source"),
        ("Disk bus", target.disk_bus.value if target.disk_bus else "virtio"),
        *((f"Card {number}", text) for number, text in enumerate(networks, 1)),
        ("Other cards" if networks else "Cards", shown_network(target.network or CardDefault())),
        ("Ports", ", ".join(f"{host} → {guest}" for host, guest in (target.forward or {}).items())),
        ("Checks", "; ".join(shown_check(one) for one in target.checks or [])),
        ("Tags", ", ".join(f"{name}={value}" for name, value in (target.tags or {}).items())),
        ("Preparation", (target.prepare or Preparation.AUTO).value),
        ("SSH", "must answer" if target.ssh else ""),
    ]


def shown_network(network: Network | CardDefault) -> str:
    """Return a network as it is written on the command line."""
    words = [f"{network.kind.value}:{network.name}".rstrip(":")]
    if isinstance(network, Network):
        words += [*network.addresses, *([_DHCP] if network.dhcp else [])]
        words += [f"{_GATEWAY}{one}" for one in network.gateways] + [
            f"{_NAMESERVER}{one}" for one in network.nameservers
        ]
    return ",".join([*words, *([] if network.keep_mac else [_NEW_MAC])])


def _print(found: MachineTargetView) -> None:
    own = [field.value for field in TargetField if getattr(found.own, field.value) is not None]
    policy = [name for name, value in found.by_policy.model_dump().items() if value is not None and name not in own]
    print_fields(
        [
            ("Machine", found.machine),
            *target_rows(found.used),
            ("Set for the machine", ", ".join(own)),
            (f"Set by policy {found.policy}", ", ".join(policy)),
        ]
    )
    out.print()
    print_fields(readiness_rows(found.readiness))


def _path(machine: str) -> str:
    return f"/v1/machines/{segment(machine)}/target"
