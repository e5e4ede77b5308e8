"""The commands that an installation has: each starts one program, or says what to install where a part of it is not.

Parts are the extras of pyproject.toml. Nothing outside the standard library is imported before a program itself is.
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
    """The command line."""
    return _run("farshore", "farshore.cli.main", "app", "cli")


def mobility() -> Any:
    """The service on a protected machine."""
    return _run("farshore-mobility", "farshore.mobility.main", "main", "mobility")


def process_server() -> Any:
    """The process server."""
    return _run("farshore-process-server", "farshore.process_server.main", "main", "server")


def configuration_server() -> Any:
    """The configuration server."""
    return _run("farshore-configuration-server", "farshore.configuration_server.main", "main", "server")


def master_target() -> Any:
    """The master target."""
    return _run("farshore-master-target", "farshore.master_target.main", "main", "server")


def load(program: str, module: str, extra: str) -> Any:
    """A module of ``program``. Raises Unsupported where something of the extra that it needs is not installed."""
    try:
        with _kept():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        lacking = (error.name or "farshore").partition(".")[0]
        if lacking == "farshore":
            raise  # a defect of ours, and not of the installation
        raise _not_installed(program, extra, [lacking]) from error


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """What is imported stays, so the collector neither looks for garbage in it meanwhile nor later: that was a seventh
    of a configuration server's start."""
    held = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if held:
            gc.enable()


def check_installed(program: str, extra: str) -> None:
    """Raise Unsupported where distributions of an extra are not installed."""
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
    """What the extra asks for; nothing where the code runs without having been installed."""
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
