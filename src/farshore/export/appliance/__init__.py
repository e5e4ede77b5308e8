"""A small Linux machine in QEMU that works on disks: it boots in seconds, runs one program and powers off.

``Contents`` lists its contents, ``start`` boots it over disks of an NBD server and returns it running. The program's
standard input and output are a socket of the caller (``Running.wire``); the caller defines the protocol on it. It has
no network and can reach nothing of this host except its disks and the files that were packed into it.

It consists of Debian's kernel (or the host's own) with busybox for the first steps; programs of this host are packed
with their libraries. KVM is used if a guest really boots with it, otherwise emulation.
"""

from farshore.export.appliance.contents import Contents
from farshore.export.appliance.machine import DidNotStart, Disk, Running, missing, start

__all__ = ["Contents", "DidNotStart", "Disk", "Running", "missing", "start"]
