"""Combine a machine's target with its policy's, and change a target. A machine's own choice comes before its policy's.

The catalog stores choices as JSON without unset values (farshore.api_types.targets), so a later policy or default
applies to every value that was not chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from farshore.api_types.targets import CardDefault, Network, PolicyTarget, Target, TargetChange
from farshore.model.errors import Malformed
from farshore.model.faults import sentence
from farshore.model.target import MachineTarget, TargetNetwork, check_network


def used(own: Mapping[str, Any], by_policy: Mapping[str, Any]) -> MachineTarget:
    """Return what a failover uses. Raises Malformed for a choice that this release does not know."""
    return as_model(chosen(own, by_policy))


def chosen(own: Mapping[str, Any], by_policy: Mapping[str, Any]) -> Target:
    """Return the same in the API's type, which is stored with a failover. Raises Malformed."""
    try:
        of_policy = PolicyTarget.model_validate(dict(by_policy)).model_dump(exclude_none=True)
        of_machine = Target.model_validate(dict(own)).model_dump(exclude_none=True)
        tags = {**of_policy.get("tags", {}), **of_machine.get("tags", {})}
        return Target.model_validate({**of_policy, **of_machine, **({"tags": tags} if tags else {})})
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise Malformed(
            f"The machine's target is not valid: {where} {sentence(fault)}.",
            remedy="Set it again: farshore machine target set MACHINE",
        ) from error


def as_model(target: Target) -> MachineTarget:
    """Return the target with every value set."""
    defaults = MachineTarget()
    return MachineTarget(
        site=target.site or defaults.site,
        name=target.name or "",
        processors=target.processors or 0,
        memory=target.memory or 0,
        firmware=target.firmware,
        disk_bus=target.disk_bus or defaults.disk_bus,
        networks=tuple(_network(network) for network in target.networks or []),
        network=_network(target.network) if target.network is not None else defaults.network,
        forward=dict(target.forward or {}),
        tags=dict(target.tags or {}),
        prepare=target.prepare or defaults.prepare,
        ssh=target.ssh or False,
    )


def change(own: Mapping[str, Any], wanted: TargetChange) -> dict[str, Any]:
    """Return the choice to store. Raises Malformed for a value that is set and reset at once, and for impossible
    networks."""
    given = wanted.model_dump(mode="json", exclude_none=True, exclude={"reset"})
    reset = {field.value for field in wanted.reset}
    both = sorted(reset & given.keys())
    if both:
        raise Malformed(f"{both[0]} is both set and reset.", remedy="Use one of the two options.")
    for network in wanted.networks or []:
        check_network(_network(network))
    if wanted.network is not None:
        check_network(_network(wanted.network))
    return {**{name: value for name, value in own.items() if name not in reset}, **given}


def policy_choice(wanted: PolicyTarget) -> dict[str, Any]:
    """Return a policy's choice to store. Raises Malformed."""
    if wanted.network is not None:
        check_network(_network(wanted.network))
    return wanted.model_dump(mode="json", exclude_none=True)


def _network(network: Network | CardDefault) -> TargetNetwork:
    if not isinstance(network, Network):
        return TargetNetwork(network.kind, network.name, keep_mac=network.keep_mac)
    return TargetNetwork(
        kind=network.kind,
        name=network.name,
        addresses=tuple(network.addresses),
        keep_mac=network.keep_mac,
        dhcp=network.dhcp,
        gateways=tuple(network.gateways),
        nameservers=tuple(network.nameservers),
    )
