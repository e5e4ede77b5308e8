"""The main job, as ``make demo`` shows it: a guest under load is protected; it is killed with both servers and all that
they kept, and comes up from a second installation that had only the vault and its key.

Everything that the demo's closing table judges must be good: blocks equal to the frozen source disk, accounts that
agree to the byte, data that is seconds old, no row missing, a clean pg_amcheck of every database, an isolated rehearsal
that leaves nothing behind. While it is rehearsed, the machine's export is killed under it, and it neither notices nor
loses anything: the configuration server's upkeep serves the disk again and lets the machine go on. At the end the
machine that was failed over dies, and is started again. In the long set its system is shut down in order before that,
and started again.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from rich.console import Console
from tests.waiting import PATIENCE, until

from farshore.lab.demo.display import Display
from farshore.lab.demo.recovered import Recovered
from farshore.lab.demo.story import NAME, Story

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


_OFF = "reboot: Power down"


class StoryOfADyingExport(Story):
    """The demo's story; in the middle of the rehearsal the machine's disk goes away for a while."""

    def __init__(self, folder: Path, display: Display) -> None:
        super().__init__(folder, display)
        self.folder = folder
        self.home = folder / "far"
        """Of the second installation: the first one's is lost."""
        self.outlived = False
        self.told: list[str] = []
        """Kinds of the events about the machine that died."""

    def tell(self) -> None:
        super().tell()
        assert not (self.folder / "home").exists(), "what the first installation kept is lost"
        assert [kind for kind in self._events() if kind.startswith("installation.")] == ["installation.adopted"]
        production = self._operator.ask("failover", "show", NAME)
        assert (production["state"], production["condition"]) == ("running", "running")
        assert production["checked"] in ("its port 22 answered", "its port 5432 answered")
        assert "login:" in self._operator.ask("failover", "console", NAME)["text"]
        if os.environ.get("FARSHORE_SOAK"):
            self._stopped_and_started()
        pid = self.home / "sites" / "qemu" / production["id"] / "qemu.pid"
        before = pid.read_text()
        os.kill(int(before), signal.SIGKILL)
        until(lambda: pid.exists() and pid.read_text().strip() not in ("", before.strip()), "another machine")
        until(lambda: "failover.running-again" in self._events(), "that it runs again")
        self.told = [kind for kind in self._events() if kind.startswith("failover.")]

    def _stopped_and_started(self) -> None:
        """Its system shuts down in order when it is asked to, and boots again from what it has written."""
        self._operator.run("failover", "stop", NAME, "--yes", seconds=PATIENCE)
        stopped = self._operator.ask("failover", "show", NAME)
        assert (stopped["state"], stopped["condition"]) == ("running", "stopped")
        assert _OFF in self._console()
        self._operator.run("failover", "start", NAME, seconds=PATIENCE)
        until(lambda: "login:" in self._console().rpartition(_OFF)[2], "another start of its system")
        assert self._operator.ask("failover", "show", NAME)["condition"] == "running"

    def _console(self) -> str:
        return str(self._operator.ask("failover", "console", NAME)["text"])

    def _events(self) -> list[str]:
        return [event["kind"] for event in self._operator.ask("event", "list")]

    def during_rehearsal(self, machine: Recovered) -> None:
        with machine.shell() as shell:
            failover = shell.run("cat /sys/class/dmi/id/product_uuid").output.strip()
            pid = self.home / "failovers" / failover / "export.pid"
            assert pid.exists(), sorted(pid.parents[1].iterdir())
            assert shell.run("cat /sys/block/vda/queue/write_cache").output.strip() == "write back"
            shell.run("head -c 16M /dev/urandom > /root/blob; sync; sha256sum /root/blob > /root/sum")
            shell.run("nohup sh -c 'head -c 24M /dev/urandom > /root/more; sync; touch /root/done' >/dev/null 2>&1 &")
            before = pid.read_text()
            os.kill(int(before), signal.SIGKILL)
            until(lambda: pid.exists() and pid.read_text().strip() not in ("", before.strip()), "another export")
            shell.run("until test -e /root/done; do sleep 1; done", seconds=PATIENCE)
            shell.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum --check --quiet /root/sum", seconds=PATIENCE)
            assert "error" not in shell.run("dmesg --level=err,crit,alert,emerg", check=False).output.lower()
        self.outlived = True


def test_a_lost_machine_comes_up_with_its_data():
    # A short path: the names of Unix sockets below it are limited.
    folder = Path(tempfile.mkdtemp(prefix="fs-"))
    said = io.StringIO()
    display = Display(console=Console(file=said, width=140))
    story = StoryOfADyingExport(folder, display)
    try:
        story.tell()
    finally:
        story.clean_up()
        shutil.rmtree(folder, ignore_errors=True)
    judged = {finding.what: finding.good for finding in display.findings if finding.good is not None}
    assert judged == dict.fromkeys(EXPECTED, True), said.getvalue()
    assert story.outlived
    assert {"failover.died", "failover.running-again"} <= set(story.told)
