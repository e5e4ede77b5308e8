"""The commands that an installation has. Each starts one program, or says what to install if a part of it is missing.

The parts are the extras of pyproject.toml. Nothing outside the standard library is imported before the program itself.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import re
import sys
from importlib import metadata
from typing import Any, Iterator, List

from farshore.model.errors import Unsupported


def farshore() -> Any:
    """Run the command line."""
    return _run("farshore", "farshore.cli.main", "app", "cli")


def mobility() -> Any:
    """Run the service on a protected machine."""
    return _run("farshore-mobility", "farshore.mobility.main", "main", "mobility")


def process_server() -> Any:
    """Run the process server."""
    return _run("farshore-process-server", "farshore.process_server.main", "main", "server")


def configuration_server() -> Any:
    """Run the configuration server."""
    return _run("farshore-configuration-server", "farshore.configuration_server.main", "main", "server")


def master_target() -> Any:
    """Run the master target."""
    return _run("farshore-master-target", "farshore.master_target.main", "main", "server")


def load(program: str, module: str, extra: str) -> Any:
    """Import a module of ``program``. Raises Unsupported if the extra that it needs is not completely installed."""
    try:
        with _kept():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        lacking = (error.name or "farshore").partition(".")[0]
        if lacking == "farshore":
            raise  # a defect of Farshore, not of the installation
        raise _not_installed(program, extra, [lacking]) from error


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Exclude what is imported from garbage collection, now and later: the collector took a seventh of a configuration
    server's start."""
    held = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if held:
            gc.enable()


def check_installed(program: str, extra: str) -> None:
    """Raise Unsupported if distributions of an extra are not installed."""
    lacking = [name for name in _distributions(extra) if not _is_installed(name)]
    if lacking:
        raise _not_installed(program, extra, lacking)


def _run(program: str, module: str, function: str, extra: str) -> Any:
    try:
        loaded = load(program, module, extra)
    except Unsupported as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return getattr(loaded, function)()


def _distributions(extra: str) -> List[str]:
    """Return the distributions that the extra requires; none if the code runs without being installed."""
    try:
        requirements = metadata.requires("farshore") or []
    except metadata.PackageNotFoundError:
        return []
    wanted = re.compile(rf"([\w.-]+)[^;]*;.*extra == ['\"]{extra}['\"]")
    return [found[1] for found in map(wanted.match, requirements) if found]


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _not_installed(program: str, extra: str, lacking: List[str]) -> Unsupported:
    return Unsupported(
        f"`{program}` needs packages that are not installed: {', '.join(lacking)}.",
        remedy=f"Install the part {extra!r} of Farshore, from a clone of it: pip install '.[{extra}]'.",
    )
