"""Edit the boot loader's configuration: the kernel's root by UUID, and a serial console, on which a guest that does not
come up says why. The boot loader's own tools are not run: they would use the disks' present names."""

from __future__ import annotations

import re

from farshore.export.preparation.edits import Edits
from farshore.export.preparation.file_systems import NamedBy, root_by_uuid

_REASON = "serial console, and the root by UUID"
_CONSOLES = " console=tty0 console=ttyS0,115200"
_FILES = (
    ("/boot/grub", "grub.cfg"),
    ("/boot/grub2", "grub.cfg"),
    ("/boot/loader/entries", "*.conf"),
    ("/boot/extlinux", "extlinux.conf"),
)
_KERNEL_LINE = re.compile(r"^\s*(?:linux(?:16|efi)?|options|append)\s.*$", re.MULTILINE | re.IGNORECASE)
_IN_ENTRY = re.compile(r"^\s*options\s.*$", re.MULTILINE)
_DEFAULTS = "/etc/default/grub"
_DEFAULT_LINE = re.compile(r"""^(GRUB_CMDLINE_LINUX=)(["']?)(.*?)(["']?)[ \t]*$""", re.MULTILINE)


def prepare_boot(edits: Edits, named: NamedBy) -> None:
    """Prepare the command line of every kernel that may be started."""
    found = False
    for folder, pattern in _FILES:
        # In an entry of the boot loader specification ``linux`` is the kernel alone.
        lines = _IN_ENTRY if pattern == "*.conf" else _KERNEL_LINE
        for path in edits.names(folder, pattern):
            before = edits.read(path)
            text = lines.sub(lambda line: with_serial_console(root_by_uuid(line[0], named)), before)
            found = True
            if text != before:
                edits.write(path, text, _REASON)
    if not found:
        edits.warnings.append("No boot loader's configuration was found: the serial console may say nothing.")
    defaults = edits.read(_DEFAULTS)
    text = _DEFAULT_LINE.sub(lambda line: f'{line[1]}"{with_serial_console(line[3]).strip()}"', defaults)
    if text != defaults:
        edits.write(_DEFAULTS, text, "serial console, also after update-grub")


def with_serial_console(line: str) -> str:
    """Return a command line that says everything on the serial console too."""
    return line if "console=ttyS0" in line else line.rstrip() + _CONSOLES
