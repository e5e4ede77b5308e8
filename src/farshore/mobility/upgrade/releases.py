"""The releases of the agent on this machine, side by side: ``<root>/releases/<release>``, and ``<root>/current``.

A release is installed completely or not at all; ``current`` says which one the service starts, and changes by one
rename. Both also hold after a power cut: the target of a name is on the disk before the name is.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

import farshore
from farshore.mobility.upgrade.trial import Hung, tried
from farshore.model.errors import Damaged, NoSpace, Refused

UNIT = "farshore-mobility.service"
_UNITS = Path("/etc/systemd/system")
_RELOAD_SECONDS = 60.0
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Releases:
    """``release`` is the one that runs here."""

    root: Path
    release: str

    @classmethod
    def here(cls) -> Optional[Releases]:
        """Return where this program is, or None if it was not installed as a release."""
        place = Path(farshore.__file__).resolve().parents
        if len(place) < 5 or place[1].name != "site" or place[3].name != "releases":
            return None
        return cls(place[4], place[2].name)

    def program(self, release: str) -> Path:
        """Return the path of the program to run."""
        return self.root / "releases" / release / "bin" / "farshore-mobility"

    def install(self, release: str, digest: str, archive: bytes) -> None:
        """Install a release. Raises Damaged unless the archive has that SHA-256 and contains that release, NoSpace."""
        if hashlib.sha256(archive).hexdigest() != digest:
            raise Damaged("The bundle does not match the announced release.", remedy="Request the upgrade again.")
        target = self.root / "releases" / release
        new = target.with_name(f".new-{os.getpid()}")
        shutil.rmtree(new, ignore_errors=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
                for member in packed:
                    _check(member, release)
                    packed.extract(member, new)
            _settle(new)
            shutil.rmtree(target, ignore_errors=True)
            (new / release).replace(target)
            _sync_folder(target.parent)
        except (tarfile.TarError, EOFError) as error:
            raise Damaged(f"The bundle cannot be unpacked: {error}.", remedy="Request the upgrade again.") from error
        except OSError as error:
            raise NoSpace(
                f"The bundle cannot be unpacked: {error.strerror}.", remedy=f"Free space in {self.root}."
            ) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def try_out(self, release: str, options: Sequence[str]) -> None:
        """Start it, load its libraries and its capture program. Raises Refused with its output."""
        try:
            status, output, errors = tried([str(self.program(release)), *options, "check"])
        except (OSError, Hung) as error:
            raise Refused(
                f"The new release does not start: {error}.", remedy="The present release continues."
            ) from error
        if status:
            said = (errors or output).decode("utf-8", "replace").strip()[-500:]
            raise Refused(f"The new release does not work here: {said}", remedy="The present release continues.")

    def make_current(self) -> None:
        """Let the service start this release from now on; the one before it is kept, all others are deleted. Raises
        NoSpace."""
        current, made = self.root / "current", self.root / ".current"
        before = current.resolve().name if current.is_symlink() else ""
        try:
            if before != self.release:
                made.unlink(missing_ok=True)
                made.symlink_to(Path("releases") / self.release)
                made.replace(current)
                _sync_folder(self.root)
            self._follow_unit()
        except OSError as error:
            raise NoSpace(
                f"The service still starts release {before}: {error.strerror}.",
                remedy=f"Free space in {self.root}, then request the upgrade again.",
            ) from error
        if before == self.release:
            return  # a previous process did this and ended: which release to return to is no longer known
        for place in (self.root / "releases").iterdir():
            if place.name not in (self.release, before):
                shutil.rmtree(place, ignore_errors=True)

    def remove(self, release: str) -> None:
        """Remove a release that is not in use."""
        if release and release != self.release:
            shutil.rmtree(self.root / "releases" / release, ignore_errors=True)

    def _follow_unit(self) -> None:
        ours, installed = self.root / "releases" / self.release / UNIT, _UNITS / UNIT
        if installed.exists() and ours.exists() and installed.read_bytes() != ours.read_bytes():
            made = installed.with_name(f".{UNIT}")
            with made.open("wb") as file:
                file.write(ours.read_bytes())
                file.flush()
                os.fsync(file.fileno())
            made.replace(installed)
            _sync_folder(_UNITS)
            # systemd continues, whether it is waited for or not.
            with contextlib.suppress(subprocess.TimeoutExpired):
                reload = ["systemctl", "daemon-reload"]
                subprocess.run(reload, capture_output=True, check=False, timeout=_RELOAD_SECONDS)


def _settle(folder: Path) -> None:
    """Sync the file system of ``folder``: one call for thousands of files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Sync the names in ``folder``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(member: tarfile.TarInfo, release: str) -> None:
    """Check for plain files and folders of that release only: the archive is ours, but it runs as root."""
    parts = Path(member.name).parts
    if not (member.isfile() or member.isdir()) or parts[0] != release or ".." in parts:
        raise Damaged(f"The bundle holds the unexpected file {member.name}.", remedy="Request the upgrade again.")
