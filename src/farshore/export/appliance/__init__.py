"""A small Linux machine in QEMU that works on disks: it boots in seconds, runs one program and powers off.

``Contents`` says what is in it, ``start`` boots it over disks of an NBD server and returns it running. The program's
standard input and output are a socket of the caller (``Running.wire``); what the program says on it is the caller's
affair. It has no network and sees nothing of this host but its disks and the files that it was packed with.

It is Debian's kernel (or the host's own) with busybox for the first steps; programs of this host are packed with
their libraries. KVM is used where a guest really boots by it, emulation otherwise.
"""

from farshore.export.appliance.contents import Contents
from farshore.export.appliance.machine import DidNotStart, Disk, Running, missing, start

__all__ = ["Contents", "DidNotStart", "Disk", "Running", "missing", "start"]
