"""What a start of the configuration server imports: it starts often in tests, and after a fall of its host."""

from __future__ import annotations

import subprocess
import sys

import pytest


def told(code: str) -> str:
    """What a Python of its own prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("library", ["asyncssh", "alembic"])
def test_the_server_starts_without_what_it_seldom_needs(library: str) -> None:
    assert told(f"import sys, farshore.configuration_server.main; print({library!r} in sys.modules)") == "False\n"


def test_the_collector_leaves_alone_what_a_program_has_imported() -> None:
    look = (
        "import gc; from farshore import programs; runs = lambda: sum(one['collections'] for one in gc.get_stats());"
        "before = runs(); programs.load('farshore', 'farshore.api_types.machines', 'cli');"
        "print(runs() - before, gc.isenabled(), gc.get_freeze_count() > 10_000)"
    )
    assert told(look) == "0 True True\n"
