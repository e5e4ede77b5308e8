"""Name disks by their content, not by names that change with the bus: in the table of file systems and for the kernel's
root. Pure except for the edits."""

from __future__ import annotations

import re
from collections.abc import Callable

from farshore.export.preparation.edits import Edits

NamedBy = Callable[[str], str]
"""Takes a device's name at the source (``/dev/sda1``); returns ``UUID=…``, or "" if it is on none of the disks."""
TABLE = "/etc/fstab"
_BY_NAME = re.compile(r"/dev/(?:(?:sd|vd|xvd|hd)[a-z]+\d*|nvme\d+n\d+(?:p\d+)?)")
_BY_PLACE = re.compile(r"/dev/disk/by-(?:path/|id/(?!dm-|lvm-|md-))\S+")
_REASON = "disks by UUID"


def by_uuid(edits: Edits, named: NamedBy) -> None:
    """Name the table's entries by UUID. Entries that cannot be resolved are kept, with a warning."""
    lines = []
    for line in edits.read(TABLE).splitlines(keepends=True):
        spec = (line.split() or [""])[0]
        if _BY_PLACE.fullmatch(spec):
            edits.warnings.append(f"{TABLE}: {spec} may have another name on another bus; name it by UUID.")
        elif _BY_NAME.fullmatch(spec):
            if found := named(spec):
                line = line.replace(spec, found, 1)
            else:
                edits.warnings.append(f"{TABLE}: {spec} is on none of the recovered disks.")
        lines.append(line)
    text = "".join(lines)
    if text != edits.read(TABLE):
        edits.write(TABLE, text, _REASON)


def root_by_uuid(line: str, named: NamedBy) -> str:
    """Return a kernel's command line in which its root, and the device it resumes from, are named by content."""

    def renamed(found: re.Match[str]) -> str:
        return f"{found[1]}{named(found[2]) or found[2]}"

    return re.sub(rf"(\b(?:root|resume)=)({_BY_NAME.pattern})(?=\s|$)", renamed, line)
