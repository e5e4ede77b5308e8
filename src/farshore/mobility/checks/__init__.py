"""Check what this machine lacks, and what of it cannot be captured: one finding for each subject, with its remedy.

``look_around`` is the entry point; ``farshore-mobility check`` and the heartbeat show its findings. A check reads
sysfs, /proc and the clock; it changes nothing.
"""

from __future__ import annotations

from farshore.mobility.checks.everything import Surroundings, look_around

__all__ = ["Surroundings", "look_around"]
