"""``python -m farshore.lab.demo``: prepare, run the story, clean up whatever happens."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from farshore.lab.cache import cache_folder
from farshore.lab.demo.display import Display
from farshore.lab.demo.story import Story
from farshore.model.errors import FarshoreError

log = logging.getLogger(__name__)


def main(tell: Callable[[Path, Display], Story] = Story, name: str = "demo") -> int:
    """Run the demo; return 0 if every claim in the table was confirmed. ``tell`` makes its story, in a folder of this
    ``name``."""
    parser = argparse.ArgumentParser(prog=f"make {name}", description="Protect a real machine, lose it, bring it up.")
    parser.add_argument("--keep", action="store_true", help="leave servers, disks and logs as they are at the end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if os.geteuid() != 0:
        sys.stderr.write("The demo needs root: it builds a disk image and watches it being read. Run it by sudo.\n")
        return 77
    folder = cache_folder() / name
    display = Display()
    with folder.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # One demo would end the other's machines, as it ends those that an earlier one left.
            sys.stderr.write(f"A demo is running in {folder} already. Wait for it, or set FARSHORE_CACHE.\n")
            return 75
        return perform(tell(folder, display), display, folder, keep=options.keep)


def perform(story: Story, display: Display, folder: Path, *, keep: bool) -> int:
    """Run the story from its beginning; however it ends, show the findings so far. Return the exit status."""
    try:
        with _told(display, folder):
            story.clean_up()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            story.tell()
    finally:
        if not keep:
            with _told(display, folder):
                story.clean_up()
    return 0 if display.close() else 1


@contextmanager
def _told(display: Display, folder: Path) -> Iterator[None]:
    try:
        yield
    except FarshoreError as error:
        _stop(display, folder, error.message, error.remedy)
    except Exception as error:
        # Many programs take part: one that hangs or dies must not lose the findings so far.
        log.exception("The demo met an unexpected error")
        what = f"{type(error).__name__}: {error}"
        _stop(display, folder, what, "Run it with --keep and read the logs; report it if it recurs.")


def _stop(display: Display, folder: Path, what: str, remedy: str) -> None:
    display.say(f"The demo stopped: {what}")
    display.say(f"Remedy: {remedy}")
    for line in _log_tails(folder):
        display.say(line)
    display.find("The demo ran to its end", "no", good=False)


def _log_tails(folder: Path) -> list[str]:
    found = []
    for log in sorted(folder.rglob("log/*.log")) + sorted(folder.rglob("console.log")):
        tail = log.read_text(errors="replace").splitlines()[-12:]
        found += [f"--- {log}", *tail]
    return found


if __name__ == "__main__":
    sys.exit(main())
