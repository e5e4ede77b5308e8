"""What befalls an installation: each fault strikes at a moment, lasts, and is healed. A seed gives the same schedule.

Two faults that touch the same resource never overlap. What a fault needs to choose, it takes from its own generator.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.crash.fire import burst, clocks, damage, disk_changes, moves, stalls, upgrades
from tests.crash.fire.plant import Layout, Plant
from tests.crash.fire.processes import Program
from tests.crash.fire.small_disks import fill, free
from tests.crash.process_server import faulty_s3

Act = Callable[[Plant, random.Random], None]


@dataclass(frozen=True)
class Fault:
    """``touches``: what no other fault may touch meanwhile. ``weight``: how often it is chosen, beside others' 1."""

    name: str
    touches: frozenset[str]
    strike: Act
    heal: Act
    weight: int = 1


@dataclass(frozen=True)
class Planned:
    """A fault from second ``begin`` to second ``end`` of a round."""

    fault: Fault
    begin: float
    end: float
    seed: int

    def __str__(self) -> str:
        return f"{self.begin:5.1f}–{self.end:4.1f} s {self.fault.name}"


def plan(seed: int, seconds: float, count: int, only: str = "", layout: Layout = Layout.SINGLE) -> list[Planned]:
    """The faults of one round, by their beginning. ``only``: those whose name holds one of these texts."""
    # The layouts' lists are much alike: one seed is to give them different faults.
    chance = random.Random(f"{layout.value} {seed}")
    planned: list[Planned] = []
    among = [fault for fault in (*FAULTS, *FAULTS_OF[layout]) if any(one in fault.name for one in only.split(","))]
    for fault in chance.choices(among, [fault.weight for fault in among], k=count):
        begin = chance.uniform(0, seconds * 0.8)
        one = Planned(fault, begin, begin + chance.uniform(0.3, seconds / 3), chance.getrandbits(32))
        if not any(_collide(one, other) for other in planned):
            planned.append(one)
    return sorted(planned, key=lambda one: one.begin)


def _collide(one: Planned, other: Planned) -> bool:
    # Some seconds between two, so that the first has been lived through when the second comes.
    apart = one.end + 1 < other.begin or other.end + 1 < one.begin
    return bool(one.fault.touches & other.fault.touches) and not apart


def _killed(name: str, *whom: str) -> Fault:
    def strike(plant: Plant, _chance: random.Random) -> None:
        for program in _chosen(plant, whom):
            program.kill()

    def heal(plant: Plant, _chance: random.Random) -> None:
        for program in _chosen(plant, whom):
            program.start()

    return Fault(name, frozenset(whom), strike, heal)


def _held(whom: str) -> Fault:
    def strike(plant: Plant, _chance: random.Random) -> None:
        _chosen(plant, (whom,))[0].hold()

    def heal(plant: Plant, _chance: random.Random) -> None:
        _chosen(plant, (whom,))[0].let_go()

    return Fault(f"SIGSTOP {whom}", frozenset({whom}), strike, heal)


def _another_time(whom: str) -> Fault:
    def strike(plant: Plant, chance: random.Random) -> None:
        _chosen(plant, (whom,))[0].clock.set(chance.choice((-7200, -600, -30, 30, 600, 7200)))

    def heal(plant: Plant, _chance: random.Random) -> None:
        _chosen(plant, (whom,))[0].clock.set(0)

    return Fault(f"clock of {whom} jumps", frozenset({f"clock of {whom}"}), strike, heal)


def _full(name: str, where: str) -> Fault:
    def strike(plant: Plant, _chance: random.Random) -> None:
        fill(getattr(plant, where))

    def heal(plant: Plant, _chance: random.Random) -> None:
        free(getattr(plant, where))

    return Fault(f"{name} full", frozenset({where}), strike, heal)


def _weather(name: str, **values: float) -> Fault:
    def strike(plant: Plant, chance: random.Random) -> None:
        plant.weather(**values, seed=chance.getrandbits(32))

    def heal(plant: Plant, _chance: random.Random) -> None:
        plant.weather()

    return Fault(f"network {name}", frozenset({"network"}), strike, heal)


def _nothing(_plant: Plant, _chance: random.Random) -> None:
    """Nothing is to be healed."""


def _chosen(plant: Plant, names: tuple[str, ...]) -> list[Program]:
    return [program for program in plant.programs if program.name in names]


_OFTEN = 4
"""The weight of upgrades, where there are any."""


def _upgrade_killed(name: str, stage: upgrades.Stage, *, later: float = 0) -> Fault:
    # The network and the configuration server are left alone, so that it gets so far.
    touches = frozenset({AGENT, CONFIGURATION, "network", "upgrade"})
    return Fault(f"SIGKILL upgrade {name}", touches, upgrades.order, upgrades.kill(name, stage, later=later), _OFTEN)


def _store(name: str, *among: faulty_s3.Fault) -> Fault:
    return Fault(f"object store {name}", frozenset({"store"}), damage.strike_store(*among), damage.heal_store)


AGENT, PROCESS, SECOND, CONFIGURATION = "agent", "process-server", "second-server", "configuration-server"
CLOCKS = (AGENT, PROCESS, CONFIGURATION)
FAULTS = [
    _killed("SIGKILL agent", AGENT),
    _killed("SIGKILL process-server", PROCESS),
    _killed("SIGKILL configuration-server", CONFIGURATION),
    _killed("SIGKILL both servers", PROCESS, CONFIGURATION),
    _killed("SIGKILL everything", AGENT, PROCESS, CONFIGURATION),
    _held(AGENT),
    _held(PROCESS),
    _held(CONFIGURATION),
    Fault("network cut", frozenset({"network"}), lambda p, _: p.namespaces.cut(), lambda p, _: p.namespaces.mend()),
    Fault(
        "network swallows", frozenset({"network"}), lambda p, _: p.namespaces.swallow(),
        lambda p, _: p.namespaces.deliver(),
    ),
    _weather("slow", delay=0.3, rate=256 << 10),
    _weather("drops connections", cut=0.05),
    _full("spool", "spool"),
    _full("agent's state", "agent_state"),
    _another_time(AGENT),
    _another_time(PROCESS),
    _another_time(CONFIGURATION),
    Fault(
        "silence with a clock that is off",
        frozenset({AGENT, PROCESS, SECOND, CONFIGURATION, "network", *(f"clock of {one}" for one in CLOCKS)}),
        clocks.fall_silent, clocks.speak_again,
    ),
    Fault("spool's tail damaged", frozenset({PROCESS, "spool"}), damage.spool, lambda p, _: p.process_server.start()),
    Fault(
        ".hrl's tail damaged", frozenset({AGENT, "agent_state", "network"}), lambda p, _: p.namespaces.cut(),
        damage.hrl,
    ),
    Fault("spool lost", frozenset({PROCESS, "spool"}), damage.lose, lambda p, _: p.process_server.start()),
    Fault(
        "SIGKILL upkeep of the vault", frozenset({"upkeep"}), lambda p, _: p.upkeep.start(),
        lambda p, _: p.upkeep.kill(),
    ),
    Fault("burst of writes", frozenset({"burst", AGENT, "shelf"}), burst.begin, burst.end),
    Fault("resync on demand", frozenset({"orders"}), lambda p, _: p.order("resync"), _nothing),
    Fault(
        "point with a freeze", frozenset({"orders"}),
        lambda p, _: p.order("points", {"kind": "file-system-consistent", "name": "frozen"}), _nothing,
    ),
    Fault("disk grows", frozenset({"disks"}), moves.grow, _nothing),
    Fault("disk stuck", frozenset({"shelf"}), stalls.strike(stalls.held_back), stalls.end),
    Fault("disk dead for a while", frozenset({"shelf"}), stalls.strike(stalls.frozen), stalls.end),
    Fault("disk slow", frozenset({"shelf"}), stalls.strike(stalls.slow), stalls.end),
    Fault("disk left out", frozenset({"disks"}), disk_changes.leave_out, disk_changes.take_in),
    Fault("disk attached, pulled out", frozenset({"disks"}), disk_changes.attach, disk_changes.detach),
]  # fmt: skip
_REFUSALS = (
    faulty_s3.Fault.SLOW_DOWN, faulty_s3.Fault.THROTTLED, faulty_s3.Fault.INTERNAL, faulty_s3.Fault.WRONG_CREDENTIALS,
    faulty_s3.Fault.FULL,
)  # fmt: skip
_FOLDER = [
    _full("vault", "vault_folder"),
    Fault("store refuses", frozenset({"vault_folder"}), damage.refuse, damage.accept),
    Fault("store read-only", frozenset({"vault_folder"}), damage.read_only, damage.writable),
]
_UPGRADES = [
    Fault("upgrade", frozenset({"upgrade"}), upgrades.order, _nothing, 2 * _OFTEN),
    _upgrade_killed("unpacking", upgrades.unpacking),
    _upgrade_killed("on trial", upgrades.on_trial, later=3),
    _upgrade_killed("handing over", upgrades.handing_over, later=3),
    _upgrade_killed("settling", upgrades.settling),
]
FAULTS_OF = {
    Layout.SINGLE: _FOLDER,
    Layout.ROUNDS: [*_FOLDER, *_UPGRADES],
    Layout.UPGRADES: [*_FOLDER, *_UPGRADES],
    Layout.AZURE: [
        Fault("Azurite refuses connections", frozenset({"store"}), damage.refuse_connections, damage.heal_azure),
        Fault("Azurite is silent", frozenset({"store"}), damage.silence, damage.heal_azure),
    ],
    Layout.PAIR: [
        _store("refuses", *_REFUSALS),
        _store("breaks", faulty_s3.Fault.SILENT, faulty_s3.Fault.RESET, faulty_s3.Fault.SLOW),
        _store("loses answers", faulty_s3.Fault.LOST_ANSWER),
        _killed("SIGKILL second-server", SECOND),
        _killed("SIGKILL both process servers", PROCESS, SECOND),
        _held(SECOND),
        Fault("process server drained", frozenset({"sending"}), moves.drain, moves.take_again),
        Fault("process server chosen", frozenset({"sending"}), moves.choose, moves.choose_none),
    ],
}
"""What befalls installations of one layout alone."""
