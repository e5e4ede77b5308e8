"""The program in the appliance: it mounts the machine's root from its disks, enters it, and edits its files.

It gets one request over its standard input and answers when everything is unmounted again, so everything in its answer
is on the disks. The guest's own programs run in the guest's own root, in this machine that has nothing else. It uses
only the standard library, and modules of the package that do the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from farshore.export.files import inside as reading
from farshore.export.files.inside import Declined, Tree, Volume
from farshore.export.preparation.addresses import give_addresses
from farshore.export.preparation.boot_loader import prepare_boot
from farshore.export.preparation.card_names import name_cards
from farshore.export.preparation.edits import Edits
from farshore.export.preparation.file_systems import TABLE, by_uuid
from farshore.export.preparation.secure_shell import allow_ssh
from farshore.export.preparation.start_up import prepare_start_up
from farshore.export.preparation.wish import Report, Wish, read_wish

_NEEDED = ("/boot", "/usr", "/var", "/var/lib")
"""Besides the root. Other volumes are not mounted: no log is replayed there, nothing is written."""
_MEMBERS = ("LVM2_member", "linux_raid_member", "crypto_LUKS")
"""Contents with a UUID that no table of file systems uses."""
_BUSY = ("proc", "sys", "dev")
_EMPTY = ("run", "tmp")


def main(host: reading.Host) -> None:
    """Carry out the request and answer it."""
    for request in host.requests():
        try:
            answer = asdict(prepare(request))
        except Declined as error:
            answer = {"error": error.kind, "message": str(error)}
        except Exception:  # noqa: BLE001 - the host reports it
            answer = {"error": "fault", "message": traceback.format_exc()}
        host.answer(answer)


def prepare(request: dict[str, object]) -> Report:
    """Find the root, work in it, leave it unmounted."""
    numbers, fields = request["disks"], request["wish"]
    assert isinstance(numbers, list)
    assert isinstance(fields, dict)
    wish = read_wish(fields)
    left_out: list[str] = []
    volumes = reading.assembled(numbers, {}, left_out)
    tree = Tree(reading.HERE / "tree")
    with _mounted(_root(volumes, tree, wish), tree, volumes, wish):
        named = _names(reading.every_volume(numbers, {}), wish)
        report = _entered(tree.root, wish, named)
    return Report(report.system, report.changes, (*report.warnings, *left_out))


def work(root: Path, wish: Wish, named: dict[str, str]) -> Report:
    """Edit the files below ``root``. ``named``: the devices of its table of file systems, by name."""
    edits = Edits(root)
    if not wish.undo:
        by_uuid(edits, lambda device: named.get(device, ""))
        prepare_boot(edits, lambda device: named.get(device, ""))
        name_cards(edits, wish.cards)
        give_addresses(edits, wish.cards)
        if wish.ssh:
            allow_ssh(edits)
        prepare_start_up(edits, wish.drivers, root)
    changes = edits.commit()
    system = re.search(r"""^PRETTY_NAME=["']?([^"'\n]*)""", edits.read("/etc/os-release"), re.MULTILINE)
    return Report(system[1] if system else "", tuple(changes), tuple(edits.warnings))


def _root(volumes: list[Volume], tree: Tree, wish: Wish) -> tuple[Volume, str]:
    """Return the volume from which the machine starts, and its mount options."""
    found = reading.root_volumes(volumes, tree)
    if len(found) > 1:
        found = [one for one in found if re.match(rf"{wish.boot}(?:p|$)", one[0].name)]
    if len(found) != 1:
        kinds = ", ".join(f"{one.name} ({one.file_system})" for one in volumes) or "none"
        which = "Several systems are" if found else "No Linux system that can be read is"
        raise Declined("refused", f"{which} on the disks; their volumes: {kinds}.")
    return found[0]


@contextmanager
def _mounted(root: tuple[Volume, str], tree: Tree, volumes: list[Volume], wish: Wish) -> Iterator[None]:
    """Mount the machine's file systems for writing, and what its programs expect. Raises Declined if one cannot be
    released: then its writes may be incomplete."""
    volume, options = root
    _mount(volume, tree.root, options)
    try:
        for spec, at, more in reading.table_rows(tree.at(tree.find(TABLE)).read_text(errors="replace")):
            found = reading.volume_by_spec(volumes, spec, dict(wish.names))
            if found is not None and at in _NEEDED:
                _mount(found, tree.at(tree.find(at)), more)
        for name in _BUSY:
            _run("mount", "--bind", f"/{name}", str(tree.at(tree.find(f"/{name}"))))
        for name in _EMPTY:
            _run("mount", "-t", "tmpfs", "tmpfs", str(tree.at(tree.find(f"/{name}"))))
        yield
    finally:
        os.sync()
        released = _run("umount", "--recursive", str(tree.root))
    if released.returncode:
        raise Declined("refused", f"The machine's files cannot be released: {released.stderr.strip()[:300]}")
    os.sync()


def _mount(volume: Volume, at: Path, options: str) -> None:
    kept = [one for one in options.split(",") if one.startswith(("subvol=", "subvolid="))]
    done = _run("mount", "-t", volume.file_system, "-o", ",".join(["rw", *kept]), volume.device, str(at))
    if done.returncode:
        said = done.stderr.strip()[:300]
        raise Declined("refused", f"{volume.name} ({volume.file_system}) cannot be mounted for writing: {said}")


def _names(volumes: list[Volume], wish: Wish) -> dict[str, str]:
    """Return the content of each device, by the source's name of the device; including swap. A partition with unknown
    content has none."""
    found = {}
    for name, number in wish.names.items():
        for one in volumes:
            part = re.fullmatch(rf"{number}(?:p(\d+))?", one.name)
            if part is not None and one.uuid and one.file_system not in _MEMBERS:
                between = "p" if part[1] and name[-1].isdigit() else ""
                found[f"/dev/{name}{between}{part[1] or ''}"] = f"UUID={one.uuid}"
    return found


def _entered(root: Path, wish: Wish, named: dict[str, str]) -> Report:
    """Run ``work`` in the guest's root in a separate process: links there lead to places there."""
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        try:
            os.chroot(root)
            os.chdir("/")
            said: dict[str, object] = asdict(work(Path("/"), wish, named))
        except BaseException:  # noqa: BLE001 - the parent reports it
            said = {"fault": traceback.format_exc()}
        with os.fdopen(told, "wb") as file:
            file.write(json.dumps(said).encode())
        os._exit(0)
    os.close(told)
    with os.fdopen(heard, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    answer = json.loads(text or b'{"fault": "it ended without a word"}')
    if "fault" in answer:
        raise Declined("fault", answer["fault"])
    return Report(answer["system"], tuple(answer["changes"]), tuple(answer["warnings"]))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    main(reading.Wire())
