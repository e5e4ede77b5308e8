"""Watch continuously whether a failover of each machine would work now, and if not, why and what to do.

What the catalog knows (the machine's state, its points, its target) is judged when a caller asks. What only a site
knows is requested from it in rounds (``look``), for every machine that should be protected, and kept here with the
time: so a site that hangs delays the round but no caller. If a site was not asked, or its answer is older than
``STALE``, the result is neither "would work" nor "would not work".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from farshore.api_types.checks import CheckKind
from farshore.api_types.events import Severity
from farshore.api_types.machines import Description
from farshore.api_types.sites import SiteCheck
from farshore.api_types.targets import Obstacle, Readiness, Target, TargetSeverity
from farshore.catalog import machines, policies
from farshore.catalog.machines import AimedMachine
from farshore.catalog.tables import MachineRow
from farshore.model.errors import FarshoreError, Malformed
from farshore.model.states import MachineState
from farshore.model.target import MachineTarget, shared_addresses
from farshore.protection.watch import WATCHED, AlertCondition
from farshore.recovery import targets
from farshore.recovery.checking.agent_scripts import check_reachable
from farshore.recovery.checking.scripts import ScriptFolder
from farshore.recovery.context import RecoveryContext
from farshore.recovery.room import demand, shown, wanting, wanting_together
from farshore.recovery.trial import trial_order
from farshore.sites.lost import LostSite
from farshore.sites.port import Capacity, Examined, Measured, RecoverySite

NOT_READY = "failover-would-fail"
"""Kind of the alert."""
STALE = 300 * 1_000_000_000
"""Age (ns) from which a site's answer about a machine is ignored."""
_LOOK = "See the server's log."
_READY = frozenset({MachineState.PROTECTED, MachineState.RESYNC, MachineState.FAILED_OVER})
"""States that a failover starts from."""
_TO_COME = _READY | {MachineState.INITIAL_REPLICATION}
"""Number of machines for which a site must have room."""


@dataclass(frozen=True)
class _Word:
    """A site's answer about a machine, built as ``target``."""

    checked: int
    target: MachineTarget
    obstacles: tuple[Obstacle, ...]
    answered: bool


@dataclass(frozen=True)
class _Asked:
    """A site, or None if it cannot be opened; ``trouble`` then says why."""

    site: RecoverySite | None
    capacity: Capacity
    trouble: tuple[Obstacle, ...] = ()


class ReadinessWatch:
    """Each call of ``look`` is one round; the other methods may be called from other threads."""

    def __init__(self, context: RecoveryContext) -> None:
        self._context = context
        self._words: dict[str, _Word] = {}
        self._vault: tuple[Obstacle, ...] = ()
        self._lock = threading.Lock()
        self.conditions: Sequence[AlertCondition] = ()

    def look(self) -> None:
        """Ask the sites about every machine that should be protected, and check that the vault opens."""
        with self._context.catalog.reading() as tx:
            aimed, by_policy = machines.aimed(tx), policies.targets_away(tx)
        vault = self._ask_vault()
        sites: dict[str, _Asked] = {}
        words: dict[str, _Word] = {}
        wrong: list[AlertCondition] = []
        for machine in aimed:
            found = self._ask(machine, by_policy.get(machine.policy, {}), sites)
            if found is not None:
                words[machine.id] = found
        shared = _of_others(aimed, {machine: word.target for machine, word in words.items()})
        for machine in aimed:
            word = words.get(machine.id)
            if word is not None and machine.id in shared:
                more = (*word.obstacles, *shared[machine.id])
                words[machine.id] = _Word(word.checked, word.target, more, word.answered)
        with self._lock:
            self._words, self._vault = words, vault
        for machine in aimed:
            wrong += self._conditions(machine, by_policy.get(machine.policy, {}))
        self.conditions = wrong

    def look_at(self, machine: str) -> None:
        """If there has been a round, ask the site about one machine at once, because its target was changed. Raises
        NotFound."""
        with self._context.catalog.reading() as tx:
            (aimed,) = machines.aimed(tx, machines.get(tx, machine).id)
            choice = policies.target_away(tx, aimed.policy)
        with self._lock:
            begun = machine in self._words
            self._words.pop(machine, None)
        found = self._ask(aimed, choice, {}) if begun else None
        if found is not None:
            with self._lock:
                self._words[machine] = found

    def of(self, machine: AimedMachine | MachineRow, by_policy: Mapping[str, Any]) -> Readiness:
        """Return whether a failover of the machine would work, according to the catalog and the sites' last answers."""
        obstacles = _of_machine(machine)
        now = self._context.clock.now()
        try:
            choice = targets.chosen(machine.target, by_policy)
        except Malformed as error:
            return Readiness(works=False, obstacles=[*obstacles, _obstacle("target", error)])
        target = targets.as_model(choice)
        obstacles += _of_checks(choice, ScriptFolder(self._context.scripts), lambda: self._context.site(target.site))
        with self._lock:
            word, vault = self._words.get(machine.id), self._vault
        # An answer about another choice than the present one is ignored.
        current = word is not None and word.target == target and now - word.checked <= STALE
        if word is not None and current:
            obstacles += [*word.obstacles, *vault]
        fails = any(one.severity is TargetSeverity.ERROR for one in obstacles)
        known = word is not None and current and word.answered
        return Readiness(
            works=False if fails else True if known else None,
            site=target.site,
            checked=word.checked if word is not None and current else 0,
            obstacles=obstacles,
        )

    def check_site(self, site: str, machine: str | None = None) -> SiteCheck:
        """Ask a site for its state, and whether all protected machines whose target it is could come up there at once;
        or only this machine, whatever its target. Raises NotFound, and the error of a site that cannot be used."""
        opened = self._context.site(site)
        if isinstance(opened, LostSite):
            raise opened.refusal()
        found = dict(opened.examine()) if isinstance(opened, Examined) else {}
        capacity = opened.capacity() if isinstance(opened, Measured) else Capacity()
        with self._context.catalog.reading() as tx:
            every = machines.aimed(tx) if machine is None else machines.aimed(tx, machines.get(tx, machine).id)
            by_policy = policies.targets_away(tx)
        coming: list[tuple[AimedMachine, MachineTarget]] = []
        obstacles: list[Obstacle] = []
        asked = _Asked(opened, capacity)
        for one in every:
            try:
                target = targets.used(one.target, by_policy.get(one.policy, {}))
            except Malformed as error:
                obstacles.append(_obstacle(one.name, error))
                continue
            if machine is None and (target.site != site or MachineState(one.state) not in _TO_COME):
                continue
            coming.append((one, target))
            named = [*_of_machine(one)] if machine is not None else []
            of_site, _ = self._of_site(one, target, asked)
            obstacles += [each.model_copy(update={"subject": one.name}) for each in (*named, *of_site)]
        asked_for = [(_description(one), target) for one, target in coming]
        if machine is None:
            obstacles += wanting_together(asked_for, capacity)
            together = _of_others([one for one, _ in coming], {one.id: target for one, target in coming})
            obstacles += [each for found_ones in together.values() for each in found_ones]
        return SiteCheck(found=found, capacity=shown(capacity), demand=demand(asked_for), obstacles=obstacles)

    def _ask(self, machine: AimedMachine, by_policy: Mapping[str, Any], sites: dict[str, _Asked]) -> _Word | None:
        """Return the site's answer; None if the target is not understood, because then there is no site to ask."""
        try:
            target = targets.used(machine.target, by_policy)
        except Malformed:
            return None
        if target.site not in sites:
            sites[target.site] = self._open(target.site)
        obstacles, answered = self._of_site(machine, target, sites[target.site])
        return _Word(self._context.clock.now(), target, tuple(obstacles), answered)

    def _open(self, site: str) -> _Asked:
        try:
            opened = self._context.site(site)
            capacity = opened.capacity() if isinstance(opened, Measured) else Capacity()
        except (FarshoreError, OSError) as error:
            return _Asked(None, Capacity(), (_obstacle("site", error),))
        return _Asked(opened, capacity)

    def _of_site(self, machine: AimedMachine, target: MachineTarget, asked: _Asked) -> tuple[list[Obstacle], bool]:
        """Return what the machine's site objects to, and whether the site could be asked."""
        if asked.site is None:
            return list(asked.trouble), False
        description = _description(machine)
        found = wanting(machine.name, description, target, asked.capacity, asked.site.delivery)
        try:
            asked.site.check(trial_order(self._context, asked.site, machine, description, target))
        except (FarshoreError, OSError) as error:
            found.append(_obstacle("site", error))
        return found, True

    def _ask_vault(self) -> tuple[Obstacle, ...]:
        try:
            self._context.open_vault()
        except (FarshoreError, OSError) as error:
            return (_obstacle("vault", error),)
        return ()

    def _conditions(self, machine: AimedMachine, by_policy: Mapping[str, Any]) -> Iterable[AlertCondition]:
        """Yield an alert for a machine that has points and could not come up."""
        if machine.state not in WATCHED:
            return
        errors = [one for one in self.of(machine, by_policy).obstacles if one.severity is TargetSeverity.ERROR]
        if errors:
            yield AlertCondition(
                NOT_READY,
                f"machine/{machine.id}",
                Severity.ERROR,
                f"A failover of {machine.name} would not work now: {errors[0].message}",
                errors[0].remedy or f"See farshore machine show {machine.name}",
            )


def _of_checks(choice: Target, scripts: ScriptFolder, site: Callable[[], RecoverySite]) -> list[Obstacle]:
    """Return what would make its checks fail; this does not prevent a failover."""
    found = []
    checks = choice.checks or []
    looks: list[Callable[[], object]] = [
        partial(scripts.check, name) for name in sorted({one.script for one in checks if one.script is not None})
    ]
    looks += [partial(scripts.key, name) for name in sorted({one.key for one in checks if one.key is not None})]
    if any(one.kind is CheckKind.AGENT for one in checks):
        looks.append(lambda: check_reachable(site(), shared_network=False))
    for look in looks:
        try:
            look()
        except FarshoreError as error:
            found.append(
                Obstacle(subject="checks", severity=TargetSeverity.WARNING, message=error.message, remedy=error.remedy)
            )
    return found


def _of_machine(machine: AimedMachine | MachineRow) -> list[Obstacle]:
    """Return what the machine's own state and points prevent."""
    state = MachineState(machine.state)
    if state not in _READY:
        remedy = {
            MachineState.ENROLLED: f"Protect it: farshore machine protect {machine.name}",
            MachineState.UNPROTECTED: f"Protect it: farshore machine protect {machine.name}",
            MachineState.INITIAL_REPLICATION: f"Wait for its first copy: farshore machine watch {machine.name}",
        }.get(state, f"See farshore failover list --machine {machine.name}")
        return [_error("state", f"{machine.name} is {state.value}: a failover does not start from there.", remedy)]
    found = []
    if not machine.newest_point_time:
        found.append(
            _error(
                "points",
                f"{machine.name} has no recovery point in the vault.",
                f"Find the reason: farshore machine show {machine.name}",
            )
        )
    kept = [disk for disk in machine.description.get("disks", []) if disk["number"] not in machine.exclude_disks]
    if not any(disk.get("boot") for disk in kept):
        found.append(
            _error(
                "disks",
                f"The boot disk of {machine.name} is not protected, or not known.",
                f"Include it: farshore machine protect {machine.name} --include-disk NUMBER",
            )
        )
    return found


def _of_others(aimed: Sequence[AimedMachine], wanted: Mapping[str, MachineTarget]) -> dict[str, list[Obstacle]]:
    """Return by machine: ports and addresses of its target that another machine's target also has."""
    names = {one.id: one.name for one in aimed}
    by_name = {names[machine]: machine for machine in wanted}
    found: dict[str, list[Obstacle]] = {}
    ports: dict[int, str] = {}  # of all sites, which may share a host
    for machine, target in wanted.items():
        for port in target.forward:
            first = ports.setdefault(port, machine)
            if first != machine:
                message = f"Port {port} of the sites' host is to be forwarded to {names[first]} and to "
                message += f"{names[machine]}: whichever comes up second cannot."
                _note(found, (first, machine), "ports", message, f"farshore machine target set {names[machine]} "
                      "--forward OTHER:GUEST")  # fmt: skip
    for address, first_name, second_name in shared_addresses([(names[one], target) for one, target in wanted.items()]):
        message = f"{first_name} and {second_name} are both to have the address {address}."
        both = by_name[first_name], by_name[second_name]
        remedy = f"farshore machine target set {second_name} --network KIND:NAME,ADDRESS"
        _note(found, both, "networks", message, remedy)
    return found


def _note(found: dict[str, list[Obstacle]], of: Iterable[str], subject: str, message: str, remedy: str) -> None:
    """Add an obstacle that matters only if these machines run at the same time."""
    for machine in of:
        warning = Obstacle(
            subject=subject, severity=TargetSeverity.WARNING, message=message, remedy=f"Give one another: {remedy}"
        )
        found.setdefault(machine, []).append(warning)


def _description(machine: AimedMachine) -> Description:
    """Return what the agent reported last, with the excluded disks from the catalog."""
    told = Description.model_validate(machine.description)
    left_out = set(machine.exclude_disks)
    disks = [disk.model_copy(update={"excluded": disk.number in left_out}) for disk in told.disks]
    return told.model_copy(update={"disks": disks})


def _obstacle(subject: str, error: FarshoreError | OSError) -> Obstacle:
    if isinstance(error, FarshoreError):
        return _error(subject, error.message, error.remedy or _LOOK)
    return _error(subject, str(error), _LOOK)


def _error(subject: str, message: str, remedy: str) -> Obstacle:
    return Obstacle(subject=subject, severity=TargetSeverity.ERROR, message=message, remedy=remedy)
