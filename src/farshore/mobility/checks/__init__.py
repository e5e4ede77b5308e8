"""What this machine lacks, and what of it cannot be captured: one finding for each thing looked at, with its remedy.

``look_around`` is the way in; ``farshore-mobility check`` and the heartbeat show what it finds. A check reads sysfs,
/proc and the clock; it changes nothing.
"""

from __future__ import annotations

from farshore.mobility.checks.everything import Surroundings, look_around

__all__ = ["Surroundings", "look_around"]
