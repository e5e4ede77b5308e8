"""The main job, as ``make demo`` shows it: a guest under load is protected, killed, and comes up from the vault.

Everything that the demo's closing table judges must be good: blocks equal to the frozen source disk, accounts that
agree to the byte, data that is seconds old, no row missing, a clean pg_amcheck of every database, an isolated rehearsal
that leaves nothing behind.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from farshore.lab.demo.display import Display
from farshore.lab.demo.story import Story

pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.timeout(1800),
    # While a guest boots, connections to it are cut half-way; the database client leaves those to the collector.
    pytest.mark.filterwarnings("default::ResourceWarning"),
    pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning"),
]

EXPECTED = {
    "Administrator's credentials",
    "Recovery points",
    "Bytes seen, captured, counted by the kernel",
    "Blocks at the frozen point (swap, .hrl left out)",
    "RPO: last acknowledged commit lost",
    "The counter's rows",
    "pg_amcheck --all --heapallindexed",
    "Test failover: newest row against the second asked for",
    "Test failover: rows missing",
    "Test failover: isolated from this host",
    "Test failover: left behind after clean-up",
}


def test_a_lost_machine_comes_up_with_its_data():
    # A short path: the names of Unix sockets below it are limited.
    folder = Path(tempfile.mkdtemp(prefix="fs-"))
    said = io.StringIO()
    display = Display(console=Console(file=said, width=140))
    story = Story(folder, display)
    try:
        story.tell()
    finally:
        story.clean_up()
        shutil.rmtree(folder, ignore_errors=True)
    judged = {finding.what: finding.good for finding in display.findings if finding.good is not None}
    assert judged == dict.fromkeys(EXPECTED, True), said.getvalue()
