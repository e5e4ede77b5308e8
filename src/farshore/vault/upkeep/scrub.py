"""The scrub: every byte of a vault read and authenticated within a period, a little at each step.

How far it has come is a small object in the vault, so it goes on after a restart, on whatever server. Each step reads
objects in the order of their names until its share of the period is done; once a day it looks over the structure as
well. What it finds is located by verification and noted (see damage); what was noted is looked at again, and forgotten
once the object is whole or gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound, Refused, WrongKey
from farshore.model.identifiers import DiskNumber, Epoch, MachineId
from farshore.model.position import Position
from farshore.vault.machine import MachineVault
from farshore.vault.objects import damage
from farshore.vault.objects.damage import Finding
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.stores.port import Listed
from farshore.vault.upkeep.checking import bad_packs
from farshore.vault.upkeep.verify import verify
from farshore.vault.vault import Vault

DAY = 24 * 3600 * 1_000_000_000
_SCRUBBED = (vault_names.CHUNKS, vault_names.DIRECTORIES, vault_names.MACHINES)
_SAVE_EVERY = 256 << 20
_STEP = 8 << 20


@dataclass
class ScrubState:
    """How far a round has come. Times in ns since 1970 UTC, sizes in bytes; ``cursor`` is the last object read."""

    began: int = 0
    total: int = 0
    done: int = 0
    cursor: str = ""
    structure: int = 0
    """When the structure was looked over last."""
    finished: int = 0
    """When the last whole round ended."""
    over: bool = True
    """Whether the round has read everything and waits for its period to pass."""


@dataclass
class Scrubbed:
    """What a step did: bytes read, what it found anew, and what was noted and is no longer so."""

    read: int = 0
    found: list[Finding] = field(default_factory=list)
    passed: list[Finding] = field(default_factory=list)


def read_state(vault: Vault) -> ScrubState:
    """Return how far the scrub has come; from the beginning where nothing can be read."""
    try:
        fields = read_document(vault.store, vault.upkeep_key, vault_names.SCRUB)
        return ScrubState(**{name: fields[name] for name in ScrubState.__dataclass_fields__})
    except (NotFound, Damaged, KeyError):
        return ScrubState()


def scrub(vault: Vault, period: int, now: Callable[[], int], pace: Callable[[int], bool]) -> Scrubbed:
    """Return one step. ``period`` (ns) is the time for a round; ``pace`` is told the bytes of each object read and
    answers whether to go on. Raises the store's errors; what was read by then is not read again."""
    state, moment = read_state(vault), now()
    if state.over and (not state.began or moment - state.began >= period):
        state = ScrubState(began=moment, structure=state.structure, finished=state.finished, over=False)
        state.total = sum(item.size for item in _objects(vault, ""))
    share = min(1.0, (moment - state.began) / period) if period > 0 else 1.0
    step, bad, saved = Scrubbed(), dict[str, dict[int, str]](), 0
    try:
        # The first object of a round is read at once: a scrub that cannot read is told on the first day.
        if not state.over:
            for item in _objects(vault, state.cursor):
                if state.done > share * state.total:
                    break
                found = bad_packs(vault, item)
                if found:
                    bad[item.name] = found
                state.done, state.cursor = state.done + item.size, item.name
                step.read += item.size
                if not pace(item.size):
                    break
                if step.read - saved > _SAVE_EVERY and not bad:
                    saved = step.read
                    _save(vault, state)
            else:
                state.over, state.finished = True, moment
    finally:
        if bad or moment - state.structure >= DAY:
            _look_over(vault, bad, step)
            state.structure = moment
        _save(vault, state)
    return step


def affecting_newest(vault: Vault, machine: MachineId, findings: Iterable[Finding]) -> list[Finding]:
    """Return those of a machine's findings that its newest point suffers from; a resync ends that. Raises the store's
    passing errors."""
    # Without a cache: what was read before the damage proves nothing.
    try:
        fresh = Vault.open_with_vault_key(vault.store, bytes.fromhex(vault.key_hex), cache_bytes=0).machine(machine)
    except (Damaged, WrongKey):
        return list(findings)
    except NotFound:  # erased since
        return []
    return [one for one in findings if _affects_newest(fresh, one)]


def _affects_newest(machine: MachineVault, finding: Finding) -> bool:
    if not finding.from_position:
        return False
    try:
        newest = machine.points.latest().position
        sizes = machine.disks.sizes(newest)
        if finding.disk < 0:
            for number in sizes:
                machine.disks.open(newest, number).close()
            return newest.epoch <= Epoch(Position.parse(finding.from_position).epoch)
        number = DiskNumber(finding.disk)
        if number not in sizes:
            return False
        source = machine.disks.open(newest, number)
        try:
            for start in range(finding.start, min(finding.end, sizes[number]), _STEP):
                source.read_into(start, memoryview(bytearray(min(_STEP, finding.end - start, sizes[number] - start))))
        finally:
            source.close()
    except (Damaged, Refused):
        return True
    return False


def _look_over(vault: Vault, bad: dict[str, dict[int, str]], step: Scrubbed) -> None:
    """Locate what is bad, note it, and forget what is not so any more."""
    noted = damage.listed(vault.store, vault.upkeep_key)
    for name in {one.object for one in noted if one.object.startswith(_SCRUBBED)} - bad.keys():
        for item in _one(vault, name):
            again = bad_packs(vault, item)
            if again:
                bad[name] = again
    found = verify(vault, known=bad, light=True).findings
    if {one.name for one in found} - {one.name for one in noted}:
        # Beside a collector that deletes, a listing and what it names can differ for a moment: look twice.
        twice = {one.name for one in verify(vault, known=bad, light=True).findings}
        found = [one for one in found if one.name in twice]
    step.found.extend(damage.note(vault.store, vault.upkeep_key, found))
    there = {one.name for one in found}
    step.passed.extend(one for one in noted if one.name not in there)
    damage.forget(vault.store, step.passed)


def _objects(vault: Vault, after: str) -> Iterable[Listed]:
    for prefix in _SCRUBBED:
        yield from vault.store.list(prefix, after=after)


def _one(vault: Vault, name: str) -> list[Listed]:
    folder = name.rpartition("/")[0] + "/"
    return [item for item in vault.store.list(folder) if item.name == name]


def _save(vault: Vault, state: ScrubState) -> None:
    document = seal_document(vault.upkeep_key, vault_names.SCRUB, {"format": 1, **asdict(state)})
    vault.store.put(document.name, document.buffers)
