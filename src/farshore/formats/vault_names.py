"""Names of the objects in a vault. Only this module builds and parses them.

Table: docs/formats/names.md. Names sort like their numbers, so a listing is in the order of the stream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

from farshore.formats.batch import MOST_RECORDS, Role
from farshore.model.errors import Malformed
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, PointId, Sequence
from farshore.model.position import Position

DESCRIPTOR = "vault.farshore"
DESCRIPTORS = "descriptor/"
CHUNK_KEY = "keys/chunks"
DOMAIN_KEYS = "keys/domains/"
CHUNKS = "chunks/"
DIRECTORIES = "directory/"
"""Sorts between CHUNKS and MACHINES, because whoever reads a whole vault reads in that order."""
MACHINES = "machines/"
LEASES = "leases/"
COLLECTION = "collection/"
DAMAGE = "damage/"
SCRUB = "upkeep/scrub"
ERASED = "erased/"
OWNERS = "owner/"
INSTALLATION = "installation/"
PROBE = "probe/created-only"
"""Created once and never read for its contents: a store that overwrites it lacks a guarantee that a vault needs."""
_MACHINE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_POINT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_POINT_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})-[0-9A-Za-z_-]{1,64}")
_PIN_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})")
_DOMAIN_FOLDER = "in-"
"""Sorts after the two hexadecimal digits that packs of domain 0 begin with."""
_DOMAIN_KEY = re.compile(rf"{DOMAIN_KEYS}([0-9a-f]{{8}})")
_CHUNK_PACK = re.compile(rf"{CHUNKS}{_DOMAIN_FOLDER}([0-9a-f]{{8}})/")
_EPOCH = re.compile(rf"{MACHINES}{_MACHINE.pattern}/epochs/[0-9a-f]{{8}}")
_SALT = re.compile(r"[0-9a-f]{32}")
_DIRECTORY = re.compile(rf"{DIRECTORIES}([0-9a-f]{{8}})/")
_RECORD_KIND = re.compile(r"[a-z][a-z0-9-]{0,39}")
_RECORD = re.compile(
    rf"{INSTALLATION}({_RECORD_KIND.pattern})(?:\.([0-9a-f]{{3}})-([0-9a-f]{{3}}))?/([0-9a-f]{{8}})-([0-9a-f]{{16}})"
)
_LETTER = {Role.JOURNAL: "j", Role.BASE: "b"}
_ROLE = {letter: role for role, letter in _LETTER.items()}


def machine_folder(machine: MachineId) -> str:
    """Return the prefix of all objects of one machine. Raises Malformed for an id that is not a UUID."""
    if not _MACHINE.fullmatch(machine):
        raise Malformed(f"{machine!r} is not a machine id.", remedy="Use the id that `farshore vault ls` shows.")
    return f"{MACHINES}{machine}/"


def descriptor(version: int) -> str:
    """Return the name of a later version of the vault's descriptor."""
    return f"{DESCRIPTORS}{version:016x}"


def owner(generation: int) -> str:
    """Return the name of the object that names the vault's owner from this generation on. It is never removed, so each
    name is used only once."""
    return f"{OWNERS}{generation:016x}"


@dataclass(frozen=True)
class RecordName:
    """The name of one version of one kind of record that an installation keeps in the vault, or of one of its ``parts``
    (0: not a part). Names in a folder sort by generation, then by version, so that records which a displaced
    installation still writes never count as the newest."""

    kind: str
    generation: int
    version: int
    parts: int = 0
    part: int = 0

    @property
    def folder(self) -> str:
        """The prefix of all versions of the same record; a kind's prefix is not a prefix of its parts'."""
        return f"{INSTALLATION}{self.series}/"

    @property
    def series(self) -> str:
        """What it is a version of: the kind, and the part if there are parts."""
        if not _RECORD_KIND.fullmatch(self.kind):
            raise Malformed(
                f"{self.kind!r} is not a valid kind of record.", remedy="Use lower-case letters, digits and -."
            )
        return f"{self.kind}{f'.{self.parts:03x}-{self.part:03x}' if self.parts else ''}"

    def __str__(self) -> str:
        return f"{self.folder}{self.generation:08x}-{self.version:016x}"

    @classmethod
    def parse(cls, name: str) -> Optional[RecordName]:
        """Read a record's name; None for anything else."""
        found = _RECORD.fullmatch(name)
        if found is None:
            return None
        parts, part = int(found[2] or "0", 16), int(found[3] or "0", 16)
        return cls(found[1], int(found[4], 16), int(found[5], 16), parts, part)


def condemned(version: int) -> str:
    """Return the name of a version of the list of condemned objects. Version 0 dates from before there were
    versions."""
    return f"{COLLECTION}condemned-{version:016x}" if version else f"{COLLECTION}condemned"


def condemned_version(name: str) -> int:
    """Parse the version from a name of the list of condemned objects."""
    return int(name.rpartition("-")[2], 16) if "-" in name else 0


def damage(digest: bytes) -> str:
    """Return the name of the note that a place is damaged."""
    return f"{DAMAGE}{digest.hex()}"


def erased(machine: MachineId) -> str:
    """Return the name of the note that a machine was erased on purpose: without it, a machine without a key has lost
    the key."""
    return f"{ERASED}{machine_folder(machine).split('/')[1]}"


def machine_key(machine: MachineId) -> str:
    """Return the name of a machine's wrapped key. Deleting that object makes the machine's data permanently
    unreadable."""
    return machine_folder(machine) + "key"


def description(machine: MachineId, number: int) -> str:
    """Return the name of a version of the machine's description."""
    return f"{machine_folder(machine)}descriptions/{number:016x}"


def epoch(machine: MachineId, number: Epoch) -> str:
    """Return the name of the document that says that an epoch's base is complete."""
    return f"{machine_folder(machine)}epochs/{number:08x}"


def is_epoch(name: str) -> bool:
    """Return whether this is the name of such a document."""
    return _EPOCH.fullmatch(name) is not None


def rebased(machine: MachineId, number: Epoch) -> str:
    """Return the name of the document that declares an epoch again, independent of any other epoch."""
    return f"{machine_folder(machine)}rebased/{number:08x}"


def base_map(machine: MachineId, number: Epoch, disk: DiskNumber, unique: str = "") -> str:
    """Return the name of the base map of one disk in one epoch. ``unique``, 16 hexadecimal digits, identifies the
    writer: of two that copy the same epoch, neither can replace the other's map, and the epoch's document says which is
    valid. Older releases had no such digits."""
    return f"{machine_folder(machine)}bases/{number:08x}-{disk:04x}{'-' * bool(unique)}{unique}"


def point(machine: MachineId, position: Position, point_id: PointId) -> str:
    """Return the name of a named, requested or app-consistent point. Raises Malformed for an id with characters outside
    its alphabet."""
    if not _POINT_ID.fullmatch(point_id):
        raise Malformed(f"{point_id!r} is not a point id.", remedy="Use letters, digits, - and _, at most 64.")
    return f"{points_folder(machine)}{position.epoch:08x}-{position.sequence:016x}-{point_id}"


def points_folder(machine: MachineId) -> str:
    """Return the prefix of a machine's points, which sort by position."""
    return f"{machine_folder(machine)}points/"


def points_before(machine: MachineId, epoch: Epoch) -> str:
    """Return a name that sorts before every point of an epoch and after those of older epochs."""
    return f"{points_folder(machine)}{epoch:08x}-"


def point_position(name: str) -> Optional[Position]:
    """Return the position in a point's name, or None for another name."""
    found = _POINT_NAME.fullmatch(name.rpartition("/")[2])
    return None if found is None else Position(Epoch(int(found[1], 16)), Sequence(int(found[2], 16)))


def pin(machine: MachineId, position: Position) -> str:
    """Return the name of a pin. Retention keeps the state that this name gives, even if its document cannot be
    opened."""
    return f"{pins_folder(machine)}{position.epoch:08x}-{position.sequence:016x}"


def pins_folder(machine: MachineId) -> str:
    """Return the prefix of a machine's pins, which sort by position."""
    return f"{machine_folder(machine)}pins/"


def pinned_position(name: str) -> Optional[Position]:
    """Return the position in a pin's name, or None for another name."""
    found = _PIN_NAME.fullmatch(name.rpartition("/")[2])
    return None if found is None else Position(Epoch(int(found[1], 16)), Sequence(int(found[2], 16)))


def retention(machine: MachineId, version: int) -> str:
    """Return the name of a version of the retention rules in the machine's policy."""
    return f"{retention_folder(machine)}{version:016x}"


def retention_folder(machine: MachineId) -> str:
    """Return the prefix of these versions; the newest is valid."""
    return f"{machine_folder(machine)}retention/"


def difference(machine: MachineId, position: Position, disk: DiskNumber, chunk: int) -> str:
    """Return the name of a chunk that was found to differ from the machine's disk."""
    return f"{differences_folder(machine)}{position.epoch:08x}-{position.sequence:016x}-{disk:04x}-{chunk:016x}"


def differences_folder(machine: MachineId) -> str:
    """Return the prefix of a machine's differences, which sort by position."""
    return f"{machine_folder(machine)}differences/"


def chunk_key(domain: int) -> str:
    """Return the name of the wrapped key for the chunks of a deduplication domain; 0 is the installation's."""
    return f"{DOMAIN_KEYS}{domain:08x}" if domain else CHUNK_KEY


def domain_of_key(name: str) -> Optional[int]:
    """Return the domain in the name of its key, or None for another name or the installation's domain."""
    found = _DOMAIN_KEY.fullmatch(name)
    return int(found[1], 16) if found else None


def chunk_packs(domain: int) -> str:
    """Return the prefix of a domain's chunk packs. The prefix of domain 0 is also the prefix of all others, and its own
    packs sort first."""
    return f"{CHUNKS}{_DOMAIN_FOLDER}{domain:08x}/" if domain else CHUNKS


def chunk_pack(salt: bytes, domain: int = 0) -> str:
    """Return the name of a chunk pack: it is named by its domain and its salt."""
    text = salt.hex()
    return f"{chunk_packs(domain)}{text[:2]}/{text}"


def chunk_domain(name: str) -> int:
    """Return the domain of a chunk pack, by its name."""
    found = _CHUNK_PACK.match(name)
    return int(found[1], 16) if found else 0


def chunk_salt(name: str, domain: int) -> Optional[bytes]:
    """Return the salt in the name of a domain's chunk pack, or None for any other name."""
    prefix = chunk_packs(domain)
    folder, _, digits = name[len(prefix) :].partition("/")
    if not name.startswith(prefix) or not _SALT.fullmatch(digits) or folder != digits[:2]:
        return None
    return bytes.fromhex(digits)


def directories(domain: int) -> str:
    """Return the prefix of a domain's chunk directories."""
    return f"{DIRECTORIES}{domain:08x}/"


def directory(salt: bytes, domain: int) -> str:
    """Return the name of a chunk directory: it is named by its domain and its salt."""
    return f"{directories(domain)}{salt.hex()}"


def directory_domain(name: str) -> Optional[int]:
    """Return the domain in the name of a chunk directory, or None for another name."""
    found = _DIRECTORY.match(name)
    return int(found[1], 16) if found else None


def layer_data(machine: MachineId, salt: bytes) -> str:
    """Return the name of an object that holds blocks of a layer; it is named by the object's salt."""
    return f"{machine_folder(machine)}data/{salt.hex()}"


def all_segments(machine: MachineId) -> str:
    """Return the prefix of every segment of a machine, sorted by epoch."""
    return f"{machine_folder(machine)}segments/"


def segments_folder(machine: MachineId, number: Epoch, role: Role) -> str:
    """Return the prefix of an epoch's segments of one role."""
    return f"{machine_folder(machine)}segments/{number:08x}/{_LETTER[role]}/"


def segments_before(machine: MachineId, number: Epoch, role: Role, first: int) -> str:
    """Return a name that sorts before every segment that can hold sequence ``first``, but not far before."""
    return f"{segments_folder(machine, number, role)}{max(0, (first >> _BUCKET_BITS) - 1):011x}"


def segments_from(machine: MachineId, number: Epoch, role: Role, first: int) -> str:
    """Return a name that sorts right before the segments that begin at ``first``."""
    return f"{segments_folder(machine, number, role)}{first >> _BUCKET_BITS:011x}/{first:016x}"


def lease(kind: str, number: str) -> str:
    """Return the name of a lease, which says that somebody reads or copies."""
    return f"{LEASES}{kind}-{number}"


@dataclass(frozen=True)
class SegmentName:
    """``[first, end)`` are sequences, fewer than SEGMENT_RECORDS; ``last_time`` is ns since 1970 UTC."""

    machine: MachineId
    epoch: Epoch
    role: Role
    first: Sequence
    end: Sequence
    last_time: int

    def __str__(self) -> str:
        return (
            f"{segments_folder(self.machine, self.epoch, self.role)}{self.first >> _BUCKET_BITS:011x}/"
            f"{self.first:016x}-{self.end:016x}-{self.last_time:016x}"
        )

    @classmethod
    def parse(cls, name: str) -> Optional[SegmentName]:
        """Read a segment's name; None for anything else."""
        found = _SEGMENT.fullmatch(name)
        if not found:
            return None
        return cls(
            MachineId(found[1]),
            Epoch(int(found[2], 16)),
            _ROLE[found[3]],
            Sequence(int(found[4], 16)),
            Sequence(int(found[5], 16)),
            int(found[6], 16),
        )


@dataclass(frozen=True)
class LayerName:
    """A layer over the journal sequences ``[first, end)``. ``tier`` counts merges of indexes; a layer of DATA_TIER
    holds its own blocks, and the states inside its range are gone. ``last_time`` is ns since 1970 UTC. ``salt``, 16
    hexadecimal digits or empty, makes the name of a merged layer unique for all time, so that a late collector cannot
    delete another layer in place of the one that it meant."""

    machine: MachineId
    epoch: Epoch
    tier: int
    first: Sequence
    end: Sequence
    last_time: int
    salt: str = ""

    def __str__(self) -> str:
        return (
            f"{layers_folder(self.machine)}{self.epoch:08x}-{self.tier:02x}-"
            f"{self.first:016x}-{self.end:016x}-{self.last_time:016x}{'-' * bool(self.salt)}{self.salt}"
        )

    @classmethod
    def parse(cls, name: str) -> Optional[LayerName]:
        """Read a layer's name; None for anything else."""
        found = _LAYER.fullmatch(name)
        if not found:
            return None
        return cls(
            MachineId(found[1]),
            Epoch(int(found[2], 16)),
            int(found[3], 16),
            Sequence(int(found[4], 16)),
            Sequence(int(found[5], 16)),
            int(found[6], 16),
            found[7] or "",
        )


def layers_folder(machine: MachineId) -> str:
    """Return the prefix of a machine's layers."""
    return f"{machine_folder(machine)}layers/"


DATA_TIER = 0xFF
_BUCKET_BITS = 20
SEGMENT_RECORDS = 1 << _BUCKET_BITS
assert SEGMENT_RECORDS == MOST_RECORDS
_SEGMENT = re.compile(
    rf"{MACHINES}({_MACHINE.pattern})/segments/([0-9a-f]{{8}})/([jb])/[0-9a-f]{{11}}/"
    r"([0-9a-f]{16})-([0-9a-f]{16})-([0-9a-f]{16})"
)
_LAYER = re.compile(
    rf"{MACHINES}({_MACHINE.pattern})/layers/([0-9a-f]{{8}})-([0-9a-f]{{2}})-"
    r"([0-9a-f]{16})-([0-9a-f]{16})-([0-9a-f]{16})(?:-([0-9a-f]{16}))?"
)
