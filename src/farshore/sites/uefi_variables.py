"""Write boot entries into the file of UEFI variables with which a machine's firmware (OVMF, edk2) starts. Pure.

The file is a firmware volume with a store of authenticated variables (edk2, MdeModulePkg/Include/Guid/
VariableFormat.h): a header, then the variables, each at a multiple of four bytes, then bytes of 0xff. The content of
the template is kept; the entries are appended.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence

from farshore.model.errors import Damaged, NoSpace

_VOLUME = struct.Struct("<16x16sQ4sIH")
"""Zeroes, the file system's id, the volume's length, its signature, attributes, the header's length."""
_STORE = struct.Struct("<16sIBB6x")
"""The store's id, its length, format, state."""
_VARIABLE = struct.Struct("<HBxIQ16sIII16s")
"""Start, state, attributes, counter, time, key, length of the name, length of the data, the vendor's id."""
_SIGNATURE = b"_FVH"
_STORE_ID = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
_FORMATTED, _HEALTHY = 0x5A, 0xFE
_START, _ADDED, _DELETED = 0x55AA, 0x3F, 0xFD
"""Start of a variable; its state; the mask for the state of a deleted one."""
_STATE = 2
"""Offset of the state in a variable."""
_LASTING = 7
"""Kept over a reset, and visible to the firmware and the guest."""
_BLANK = 0xFF


def with_boot_entries(template: bytes, entries: Sequence[bytes]) -> bytes:
    """Return the variables of ``template`` and these entries, to be tried in this order. Raises Damaged for a file that
    is not a store of variables, NoSpace if they do not fit."""
    if not entries:
        return template
    order = struct.pack(f"<{len(entries)}H", *range(len(entries)))
    named = {f"Boot{number:04X}": entry for number, entry in enumerate(entries)} | {"BootOrder": order}
    store = bytearray(template)
    end, place = _make_room(store, {_text(name) for name in named})
    added = b"".join(_variable(name, data) for name, data in named.items())
    if place + len(added) > end or store[place : place + len(added)].strip(bytes((_BLANK,))):
        raise NoSpace(
            "The firmware's template of variables has no room for the machine's boot entries.",
            remedy="Reinstall the package ovmf.",
        )
    store[place : place + len(added)] = added
    return bytes(store)


def _make_room(store: bytearray, names: set[bytes]) -> tuple[int, int]:
    """Delete the variables of these names. Return where the store ends, and where its free space begins. Raises
    Damaged."""
    try:
        _, _, signature, _, header = _VOLUME.unpack_from(store)
        store_id, size, formatted, healthy = _STORE.unpack_from(store, header)
        place, end = header + _STORE.size, header + size
        known = (signature, store_id, formatted, healthy) == (_SIGNATURE, _STORE_ID, _FORMATTED, _HEALTHY)
        while known and end <= len(store) and place + _VARIABLE.size <= end:
            start, state, _, _, _, _, name_bytes, data_bytes, vendor = _VARIABLE.unpack_from(store, place)
            if start != _START:
                return end, place
            name = bytes(store[place + _VARIABLE.size : place + _VARIABLE.size + name_bytes])
            if vendor == _GLOBAL and name in names:
                store[place + _STATE] = state & _DELETED
            place = _aligned(place + _VARIABLE.size + name_bytes + data_bytes)
    except struct.error:
        pass  # it is too short
    raise Damaged(
        "The firmware's template of variables has an unknown format.",
        remedy="Reinstall the package ovmf.",
    )


def _variable(name: str, data: bytes) -> bytes:
    text = _text(name)
    header = _VARIABLE.pack(_START, _ADDED, _LASTING, 0, bytes(16), 0, len(text), len(data), _GLOBAL)
    whole = header + text + data
    return whole + bytes((_BLANK,)) * (_aligned(len(whole)) - len(whole))


def _text(name: str) -> bytes:
    return name.encode("utf-16-le") + b"\0\0"


def _aligned(place: int) -> int:
    return (place + 3) & ~3
