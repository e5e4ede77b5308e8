"""Which kinds of recovery site there are. A new kind is a folder beside this file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from farshore.model.errors import NotFound
from farshore.sites.port import RecoverySite
from farshore.sites.qemu.site import QemuSite

SITES: Mapping[str, Callable[[Path], RecoverySite]] = {
    "qemu": QemuSite,
}
"""By kind: makes a site that keeps its own files below the folder given."""


def open_site(kind: str, folder: Path) -> RecoverySite:
    """A site of ``kind``. Raises NotFound for a kind that this release does not know."""
    maker = SITES.get(kind)
    if maker is None:
        raise NotFound(f"There is no recovery site {kind!r}.", remedy=f"Use one of: {', '.join(sorted(SITES))}.")
    return maker(folder)
