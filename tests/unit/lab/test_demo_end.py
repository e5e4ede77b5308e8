"""Whatever ends the demo: what was seen until then is shown, things are cleaned up, and it does not count as good."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from farshore.lab.demo.__main__ import perform
from farshore.lab.demo.display import Display
from farshore.lab.demo.story import Story
from farshore.model.errors import Unreachable


class Play(Story):
    """Sees one thing, then ends as it is told to; the last cleaning up may fail as well."""

    def __init__(self, folder: Path, display: Display, end: Exception | None, last: Exception | None) -> None:
        super().__init__(folder, display)
        self.display, self.end, self.last = display, end, last
        self.cleaned = 0

    def tell(self) -> None:
        self.display.find("Recovery points", "3", good=True)
        if self.end is not None:
            raise self.end

    def clean_up(self) -> None:
        self.cleaned += 1
        if self.cleaned == 2 and self.last is not None:
            raise self.last


HANGS = subprocess.TimeoutExpired(["qemu-img", "[/x]"], 60)


@pytest.mark.parametrize(
    ("end", "last", "said"),
    [
        (Unreachable("No answer.", remedy="Look at the log."), None, "The demo stopped: No answer."),
        (HANGS, None, "The demo stopped: TimeoutExpired: Command '['qemu-img', '[/x]']' timed out"),
        (OSError("gone"), HANGS, "The demo stopped: OSError: gone"),
        (None, HANGS, "The demo stopped: TimeoutExpired"),
    ],
)
def test_an_end_before_time_shows_what_was_seen(tmp_path, capsys, end, last, said):
    display = Display()
    play = Play(tmp_path / "demo", display, end, last)
    assert perform(play, display, tmp_path / "demo", keep=False) == 1
    shown = capsys.readouterr().out
    assert said in shown
    assert "Remedy: " in shown
    assert shown.index("What was seen") < shown.index("Recovery points") < shown.index("The demo ran to its end")
    assert play.cleaned == 2


@pytest.mark.parametrize("keep", [True, False])
def test_a_demo_that_ran_to_its_end_is_good(tmp_path, capsys, keep):
    display = Display()
    play = Play(tmp_path / "demo", display, None, None)
    assert perform(play, display, tmp_path / "demo", keep=keep) == 0
    assert "The demo ran to its end" not in capsys.readouterr().out
    assert play.cleaned == (1 if keep else 2)
