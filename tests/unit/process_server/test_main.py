"""A mistake of ours in a thread ends the process, so that it starts anew instead of going on half dead."""

from __future__ import annotations

import subprocess
import sys

from farshore.process_server.allocator import keep_freed_memory

SCRIPT = """
import threading, time
from farshore.process_server import main
threading.excepthook = main._end_at_once
threading.Thread(target=lambda: 1 / 0, name="uploader-0").start()
time.sleep(30)
"""


def test_a_failed_thread_ends_the_process_and_is_logged() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 70
    assert "uploader-0 failed" in done.stderr


def test_settings_that_are_not_valid_are_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "farshore.process_server.main"],
        env={"FARSHORE_PROCESS_SERVER_PORT": "99999"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "port" in done.stderr


def test_glibc_takes_the_settings() -> None:
    assert keep_freed_memory()


def test_it_starts_without_the_libraries_of_ssh_and_of_databases() -> None:
    """Most process servers never push anything, and each starts often."""
    shown = "import sys, farshore.process_server.main; print({'asyncssh', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
