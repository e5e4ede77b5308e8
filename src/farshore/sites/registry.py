"""The kinds of recovery site. A new kind is a folder beside this file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from farshore.model.errors import Malformed, NotFound, Unsupported
from farshore.model.faults import sentence
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.libvirt.settings import LibvirtSettings
from farshore.sites.libvirt.site import LibvirtSite
from farshore.sites.port import RecoverySite, Way
from farshore.sites.qemu.settings import QemuSettings
from farshore.sites.qemu.site import QemuSite
from farshore.sites.vsphere.settings import VsphereSettings


@dataclass(frozen=True)
class SiteConfiguration:
    """One site as the catalog stores it. ``secret`` is the provider's secret, empty if it needs none."""

    id: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    secret: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class SiteKind:
    """``open`` makes a site from its settings; the site keeps its own files below the given folder."""

    settings: type[BaseModel]
    open: Callable[[SiteConfiguration, Path], RecoverySite]
    takes_secret: bool = False


def _open_qemu(configuration: SiteConfiguration, folder: Path) -> RecoverySite:
    settings = QemuSettings.model_validate(configuration.settings)
    return QemuSite(
        folder,
        None if settings.accelerator == "auto" else settings.accelerator,
        name=configuration.id,
        way=Way(settings.disks),
        disks_at=str(settings.disks_at),
    )


def _open_libvirt(configuration: SiteConfiguration, folder: Path) -> RecoverySite:
    return LibvirtSite(folder, LibvirtSettings.model_validate(configuration.settings), name=configuration.id)


def _open_vsphere(configuration: SiteConfiguration, folder: Path) -> RecoverySite:
    try:
        from farshore.sites.vsphere.site import VsphereSite  # its library is an extra
    except ModuleNotFoundError as error:
        if error.name != "pyVmomi":
            raise
        raise Unsupported("The library pyVmomi is not installed.", remedy="pip install 'farshore[vsphere]'") from error
    settings = VsphereSettings.model_validate(configuration.settings)
    return VsphereSite(folder, settings, configuration.secret.decode(), name=configuration.id)


def _open_azure(configuration: SiteConfiguration, folder: Path) -> RecoverySite:
    settings = AzureSettings.model_validate(configuration.settings)
    try:
        from farshore.sites.azure.site import AzureSite
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("azure"):
            raise
        raise Unsupported("Azure's libraries are not installed.", remedy="pip install 'farshore[azure]'") from error
    return AzureSite(folder, settings, secret=configuration.secret, name=configuration.id)


KINDS: Mapping[str, SiteKind] = {
    "azure": SiteKind(AzureSettings, _open_azure, takes_secret=True),
    "libvirt": SiteKind(LibvirtSettings, _open_libvirt),
    "qemu": SiteKind(QemuSettings, _open_qemu),
    "vsphere": SiteKind(VsphereSettings, _open_vsphere, takes_secret=True),
}


def check_settings(kind: str, settings: Mapping[str, Any], *, with_secret: bool) -> dict[str, Any]:
    """Return the complete settings. Raises NotFound for a kind that this release does not know, Malformed."""
    known = _kind(kind)
    if with_secret and not known.takes_secret:
        raise Malformed(f"A site of kind {kind} takes no secret.", remedy="Add it without a secret.")
    try:
        return known.settings.model_validate(settings).model_dump(mode="json")
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        names = ", ".join(sorted(known.settings.model_fields)) or "none"
        where = ".".join(str(part) for part in fault["loc"]) or "settings"
        raise Malformed(
            f"The setting {where} {sentence(fault)}.", remedy=f"Settings of a site of kind {kind}: {names}."
        ) from error


def open_site(configuration: SiteConfiguration, folder: Path) -> RecoverySite:
    """Return a site that keeps its files below ``folder``. Raises NotFound for a kind that this release does not
    know."""
    return _kind(configuration.kind).open(configuration, folder)


def _kind(kind: str) -> SiteKind:
    known = KINDS.get(kind)
    if known is None:
        raise NotFound(f"{kind!r} is not a kind of site.", remedy=f"Use one of: {', '.join(sorted(KINDS))}.")
    return known
