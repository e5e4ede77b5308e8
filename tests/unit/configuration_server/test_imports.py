"""What a start of the configuration server imports: it starts often in tests, and after a fall of its host."""

from __future__ import annotations

import subprocess
import sys


def test_the_server_starts_without_the_library_of_ssh() -> None:
    shown = "import sys, farshore.configuration_server.main; print('asyncssh' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
