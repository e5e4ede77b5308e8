"""Names of the objects in a vault: the one place that builds and reads them.

Table: docs/formats/names.md. Names sort as their numbers do, so a listing comes in stream order.
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
"""Between CHUNKS and MACHINES: who reads everything goes by that order."""
MACHINES = "machines/"
LEASES = "leases/"
COLLECTION = "collection/"
DAMAGE = "damage/"
SCRUB = "upkeep/scrub"
ERASED = "erased/"
OWNERS = "owner/"
INSTALLATION = "installation/"
PROBE = "probe/created-only"
"""Created once and never read for what it holds: a store that replaces it does not keep what a vault rests on."""
_MACHINE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_POINT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_POINT_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})-[0-9A-Za-z_-]{1,64}")
_PIN_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})")
_DOMAIN_FOLDER = "in-"
"""It sorts behind the two hexadecimal digits that packs of domain 0 begin with."""
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
    """Return the prefix of everything of one machine. Raises Malformed for an id that is not a UUID."""
    if not _MACHINE.fullmatch(machine):
        raise Malformed(f"{machine!r} is not a machine id.", remedy="Use the id that `farshore vault ls` shows.")
    return f"{MACHINES}{machine}/"


def descriptor(version: int) -> str:
    """Return the name of a later version of the vault's descriptor."""
    return f"{DESCRIPTORS}{version:016x}"


def owner(generation: int) -> str:
    """Return the name of the object that says who owns the vault from this generation on. Never removed, so each is
    given once."""
    return f"{OWNERS}{generation:016x}"


@dataclass(frozen=True)
class RecordName:
    """A version of one kind of what an installation keeps in the vault, or of one of its ``parts`` (0: not a part).
    Names in a folder sort by generation, then by version: what a displaced installation still writes never counts as
    the newest."""

    kind: str
    generation: int
    version: int
    parts: int = 0
    part: int = 0

    @property
    def folder(self) -> str:
        """The prefix of all versions of the same; that of a kind is no prefix of its parts'."""
        return f"{INSTALLATION}{self.series}/"

    @property
    def series(self) -> str:
        """What it is a version of: the kind, and the part of it."""
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
    """Return the name of a version of the list of the condemned. Version 0 was written before there were versions."""
    return f"{COLLECTION}condemned-{version:016x}" if version else f"{COLLECTION}condemned"


def condemned_version(name: str) -> int:
    """Parse the version from a name of the list of condemned objects."""
    return int(name.rpartition("-")[2], 16) if "-" in name else 0


def damage(digest: bytes) -> str:
    """Return the name of the note of a damaged place."""
    return f"{DAMAGE}{digest.hex()}"


def erased(machine: MachineId) -> str:
    """Return the note that a machine was erased on purpose: without it, a machine without a key has lost it."""
    return f"{ERASED}{machine_folder(machine).split('/')[1]}"


def machine_key(machine: MachineId) -> str:
    """Return the wrapped key of a machine; deleting it makes the machine's data unreadable for ever."""
    return machine_folder(machine) + "key"


def description(machine: MachineId, number: int) -> str:
    """Return the name of a version of the machine's description."""
    return f"{machine_folder(machine)}descriptions/{number:016x}"


def epoch(machine: MachineId, number: Epoch) -> str:
    """Return the document that says that an epoch's base is complete."""
    return f"{machine_folder(machine)}epochs/{number:08x}"


def is_epoch(name: str) -> bool:
    """Return whether it is the name of such a document."""
    return _EPOCH.fullmatch(name) is not None


def rebased(machine: MachineId, number: Epoch) -> str:
    """Return the document that says an epoch again, resting on no other."""
    return f"{machine_folder(machine)}rebased/{number:08x}"


def base_map(machine: MachineId, number: Epoch, disk: DiskNumber, unique: str = "") -> str:
    """Return the base map of one disk in one epoch, by the writer with these 16 hexadecimal digits: of two who copy the
    same epoch neither can replace the other's, and the epoch's document says which counts. Older releases gave none."""
    return f"{machine_folder(machine)}bases/{number:08x}-{disk:04x}{'-' * bool(unique)}{unique}"


def point(machine: MachineId, position: Position, point_id: PointId) -> str:
    """Return the name of a named, requested or app-consistent point. Raises Malformed for an id with other characters
    than its alphabet."""
    if not _POINT_ID.fullmatch(point_id):
        raise Malformed(f"{point_id!r} is not a point id.", remedy="Use letters, digits, - and _, at most 64.")
    return f"{points_folder(machine)}{position.epoch:08x}-{position.sequence:016x}-{point_id}"


def points_folder(machine: MachineId) -> str:
    """Return where a machine's points are, sorted by position."""
    return f"{machine_folder(machine)}points/"


def points_before(machine: MachineId, epoch: Epoch) -> str:
    """Return a name that every point of an epoch follows in a listing, and no older epoch's."""
    return f"{points_folder(machine)}{epoch:08x}-"


def point_position(name: str) -> Optional[Position]:
    """Return the position in a point's name; None for another name."""
    found = _POINT_NAME.fullmatch(name.rpartition("/")[2])
    return None if found is None else Position(Epoch(int(found[1], 16)), Sequence(int(found[2], 16)))


def pin(machine: MachineId, position: Position) -> str:
    """Return the name of a pin. The name alone says which state retention keeps, whether or not its document opens."""
    return f"{pins_folder(machine)}{position.epoch:08x}-{position.sequence:016x}"


def pins_folder(machine: MachineId) -> str:
    """Return where a machine's pins are, sorted by position."""
    return f"{machine_folder(machine)}pins/"


def pinned_position(name: str) -> Optional[Position]:
    """Return the position in a pin's name; None for another name."""
    found = _PIN_NAME.fullmatch(name.rpartition("/")[2])
    return None if found is None else Position(Epoch(int(found[1], 16)), Sequence(int(found[2], 16)))


def retention(machine: MachineId, version: int) -> str:
    """Return the name of a version of what the machine's policy says of retention."""
    return f"{retention_folder(machine)}{version:016x}"


def retention_folder(machine: MachineId) -> str:
    """Return where these versions are; the newest counts."""
    return f"{machine_folder(machine)}retention/"


def difference(machine: MachineId, position: Position, disk: DiskNumber, chunk: int) -> str:
    """Return a chunk that was found to differ from the machine's disk."""
    return f"{differences_folder(machine)}{position.epoch:08x}-{position.sequence:016x}-{disk:04x}-{chunk:016x}"


def differences_folder(machine: MachineId) -> str:
    """Return where a machine's differences are, sorted by position."""
    return f"{machine_folder(machine)}differences/"


def chunk_key(domain: int) -> str:
    """Return the wrapped key of the chunks of a deduplication domain; 0 is the installation's."""
    return f"{DOMAIN_KEYS}{domain:08x}" if domain else CHUNK_KEY


def domain_of_key(name: str) -> Optional[int]:
    """Parse the domain's number from the name of its key; None for another name or the installation's domain."""
    found = _DOMAIN_KEY.fullmatch(name)
    return int(found[1], 16) if found else None


def chunk_packs(domain: int) -> str:
    """Return the prefix of a domain's chunk packs. That of domain 0 is the prefix of all, and its own come first
    there."""
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
    """Return the salt that names a domain's chunk pack; None for any other name."""
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
    """Return the domain of a chunk directory, by its name; None for another name."""
    found = _DIRECTORY.match(name)
    return int(found[1], 16) if found else None


def layer_data(machine: MachineId, salt: bytes) -> str:
    """Return the name of an object with blocks that a layer holds itself; named by the object's salt."""
    return f"{machine_folder(machine)}data/{salt.hex()}"


def all_segments(machine: MachineId) -> str:
    """Return the prefix of every segment of a machine, sorted by epoch."""
    return f"{machine_folder(machine)}segments/"


def segments_folder(machine: MachineId, number: Epoch, role: Role) -> str:
    """Return the prefix of an epoch's segments of one role."""
    return f"{machine_folder(machine)}segments/{number:08x}/{_LETTER[role]}/"


def segments_before(machine: MachineId, number: Epoch, role: Role, first: int) -> str:
    """Return a name that sorts before every segment that can hold sequence ``first``, and not much further before."""
    return f"{segments_folder(machine, number, role)}{max(0, (first >> _BUCKET_BITS) - 1):011x}"


def segments_from(machine: MachineId, number: Epoch, role: Role, first: int) -> str:
    """Return a name that sorts right before the segments that begin at ``first``."""
    return f"{segments_folder(machine, number, role)}{first >> _BUCKET_BITS:011x}/{first:016x}"


def lease(kind: str, number: str) -> str:
    """Return the name of a lease: somebody reads or copies."""
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
    """A layer over the journal sequences ``[first, end)``. ``tier`` counts merges of indexes; DATA_TIER holds blocks
    of its own, and states inside its range are gone. ``last_time`` is ns since 1970 UTC. ``salt``, 16 hexadecimal
    digits or none, makes the name of a merged layer one that is never given again: a collector that comes late cannot
    delete another in the place of the one that it meant."""

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
