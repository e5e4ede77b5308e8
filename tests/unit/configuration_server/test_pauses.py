"""Pauses of the interpreter, looked at in a process of its own: the settings are the process's."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import gc, sys
from farshore.configuration_server import pauses
before = len(gc.get_objects())
pauses.keep_short()
assert gc.get_freeze_count() >= before * 0.9
assert gc.isenabled() and gc.get_threshold() > (700, 10, 10)
assert sys.getswitchinterval() < 0.001
"""


def test_what_is_there_at_the_start_is_never_looked_at_again() -> None:
    subprocess.run([sys.executable, "-c", LOOK], check=True)
