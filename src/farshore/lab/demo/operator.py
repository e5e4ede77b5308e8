"""Run the ``farshore`` command as a person would, and read its answers as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from farshore.model.errors import Refused

_SECONDS = 420.0


class Operator:
    """Runs commands against the installation in ``home``."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *words: str, seconds: float = _SECONDS) -> str:
        """Return the command's output. Raises Refused with its error message on failure."""
        command = [sys.executable, "-m", "farshore.cli.main", *words]
        environment = {**os.environ, "FARSHORE_HOME": str(self.home), "COLUMNS": "160"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-1500:]
            raise Refused(
                f"`farshore {' '.join(words)}` ended with {done.returncode}: {said}",
                remedy=f"Read the logs in {self.home / 'log'}.",
            )
        return done.stdout

    def ask(self, *words: str, seconds: float = _SECONDS) -> Any:
        """Return the command's answer as data: it gets ``--json``. Raises Refused."""
        return json.loads(self.run(*words, "--json", seconds=seconds))
