"""From settings to devices: open the sources and put overlays over them. The only wiring of an export."""

from __future__ import annotations

from contextlib import ExitStack

from farshore.export.absent_source import AbsentSource
from farshore.export.device import Device, ReadOnlyDevice
from farshore.export.overlay import OverlayDevice
from farshore.export.overlay_description import read_description
from farshore.export.patience import PatientSource
from farshore.export.raw_file import RawFileSource
from farshore.export.read_cache import ReadCache
from farshore.export.settings import ExportedDisk, ExportSettings, FileDisk
from farshore.model.errors import Malformed
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.ports import BlockSource
from farshore.model.position import Position
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault


def open_devices(settings: ExportSettings) -> dict[str, Device]:
    """Return every disk of ``settings`` by export name, or none at all. Raises what sources and overlays raise."""
    devices: dict[str, Device] = {}
    vault: Vault | None = None
    with ExitStack() as undo:
        for disk in settings.disks:
            if disk.name in devices:
                raise Malformed(f"Two disks are named {disk.name!r}.", remedy="Give each disk a name of its own.")
            below = _absent_source(disk)
            if below is None:
                if not isinstance(disk.source, FileDisk) and vault is None:
                    vault = open_vault(settings)
                below = _open_source(disk, vault)
                undo.callback(below.close)
                if not isinstance(disk.source, FileDisk):
                    below = ReadCache(PatientSource(below), settings.cache_bytes // len(settings.disks))
            if disk.overlay is None:
                devices[disk.name] = ReadOnlyDevice(below)
            else:
                devices[disk.name] = OverlayDevice(below, disk.overlay, disk.source.identity)
        undo.pop_all()
    return devices


def open_vault(settings: ExportSettings) -> Vault:
    """Return the vault of ``settings``. Raises Malformed for an invalid key, and what opening a vault raises."""
    try:
        key = bytes.fromhex(settings.vault_key.get_secret_value())
    except ValueError as error:
        raise Malformed("The vault key is not hexadecimal.", remedy="Let Farshore start the export.") from error
    return Vault.open_with_vault_key(open_store(settings.vault_url), key)


def _absent_source(disk: ExportedDisk) -> BlockSource | None:
    """Return a stand-in if the overlay is complete: such a machine starts even if the vault is gone."""
    known = read_description(disk.overlay) if disk.overlay is not None else None
    if known is None or not known.complete or known.source != disk.source.identity:
        return None
    return AbsentSource(known.size)


def _open_source(disk: ExportedDisk, vault: Vault | None) -> BlockSource:
    source = disk.source
    if isinstance(source, FileDisk):
        return RawFileSource(source.path)
    assert vault is not None
    machine = vault.machine(MachineId(source.machine))
    return machine.disks.open(Position.parse(source.position), DiskNumber(source.disk))
