"""``python -m farshore.lab.demo``: set the stage, run the story, clean up whatever happens."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path

from farshore.lab.cache import cache_folder
from farshore.lab.demo.display import Display
from farshore.lab.demo.story import Story
from farshore.model.errors import FarshoreError


def main() -> int:
    """Run the demo; 0 if everything that the table claims was seen to be so."""
    parser = argparse.ArgumentParser(prog="make demo", description="Protect a real machine, lose it, bring it up.")
    parser.add_argument("--keep", action="store_true", help="leave servers, disks and logs as they are at the end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if os.geteuid() != 0:
        sys.stderr.write("The demo needs root: it builds a disk image and watches it being read. Run it by sudo.\n")
        return 77
    folder = cache_folder() / "demo"
    display = Display()
    story = Story(folder, display)
    try:
        story.clean_up()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        story.tell()
    except FarshoreError as error:
        display.say(f"The demo stopped: {error.message}")
        display.say(f"Remedy: {error.remedy}")
        for line in _log_tails(folder):
            display.say(line)
        display.find("The demo ran to its end", "no", good=False)
    finally:
        if not options.keep:
            story.clean_up()
    return 0 if display.close() else 1


def _log_tails(folder: Path) -> list[str]:
    found = []
    for log in sorted(folder.rglob("log/*.log")) + sorted(folder.rglob("console.log")):
        tail = log.read_text(errors="replace").splitlines()[-12:]
        found += [f"--- {log}", *tail]
    return found


if __name__ == "__main__":
    sys.exit(main())
