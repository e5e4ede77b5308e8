"""Capture of every write to the protected disks, without a kernel module.

``Capture`` is what the mobility service uses. It drives the eBPF program (program.py, bpf/), views its ring (ring.py),
reads its dirty bitmap (bitmap.py) and keeps its accounts (accounting.py). ``disks``, ``extents`` and ``probe`` find the
disks, the ranges to exclude, and what this kernel supports.
"""

from __future__ import annotations

from farshore.mobility.capture.capture import Capture, Dirty, Status
from farshore.mobility.capture.layout import Cause
from farshore.mobility.capture.ring import RecordBatch

__all__ = ["Capture", "Cause", "Dirty", "RecordBatch", "Status"]
