"""Builds the capture programs whenever the package is built, so a wheel from a fresh clone can capture.

Hatch calls it before it collects a wheel's files, for an editable install too; the Makefile decides whether there is
anything to do. Needs clang, make and the headers of libbpf and Linux, and nothing of the kernel that it will run on.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = "clang llvm make libbpf-dev linux-libc-dev"
_REMEDY = f"Install what builds it (Debian and Ubuntu: apt-get install {PACKAGES}), then build again."


class CaptureProgramHook(BuildHookInterface):  # type: ignore[type-arg]  # nothing of its builder's configuration is used
    """``make -C bpf``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Raises RuntimeError, which ends the build, where the programs cannot be compiled."""
        clang = shlex.split(os.environ.get("CLANG", "clang"))[0]
        absent = [name for name in ("make", clang) if shutil.which(name) is None]
        if absent:
            raise RuntimeError(f"The capture program cannot be built: no {' and no '.join(absent)} here. {_REMEDY}")
        command = ["make", "--silent", "-C", str(Path(self.root, "bpf"))]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            remedy = f" {_REMEDY}" if "file not found" in made.stderr else ""
            raise RuntimeError(f"The capture program did not compile.{remedy}\n{made.stdout}{made.stderr}")
