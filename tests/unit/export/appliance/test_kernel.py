"""Which kernel is taken, and which files of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.export.appliance.kernel import NEEDED, find_kernel
from farshore.model.errors import Refused


def kernel(root: Path, release: str, modules: tuple[str, ...] = NEEDED, extra: str = "") -> None:
    (root / "boot").mkdir(exist_ok=True, parents=True)
    (root / "boot" / f"vmlinuz-{release}").write_bytes(b"")
    folder = root / "lib" / "modules" / release
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text("".join(f"kernel/{one}.ko:\n" for one in modules) + extra)
    (folder / "modules.dep.bin").write_bytes(b"")
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")


def test_the_newest_that_runs_in_qemu_of_the_first_root_is_taken(tmp_path):
    kernel(tmp_path / "a", "6.1.0-9-amd64")
    kernel(tmp_path / "a", "6.1.0-56-amd64")
    kernel(tmp_path / "a", "6.12.0-microvm", NEEDED[:1])
    (tmp_path / "a" / "boot" / "vmlinuz-7.0.0").write_bytes(b"")
    kernel(tmp_path / "b", "6.18.0")
    found = find_kernel([tmp_path / "none", tmp_path / "a", tmp_path / "b"])
    assert found.release == "6.1.0-56-amd64"
    assert found.has("ext4")
    assert not found.has("xfs")


def test_a_package_is_named_where_there_is_none(tmp_path):
    with pytest.raises(Refused, match="linux-image-amd64"):
        find_kernel([tmp_path])


def test_a_module_comes_with_all_that_it_needs_however_it_is_compressed(tmp_path):
    extra = "kernel/btrfs.ko.xz: kernel/raid6-pq.ko.zst kernel/xor.ko\nkernel/raid6-pq.ko.zst:\nkernel/xor.ko:\n"
    kernel(tmp_path, "6.1", extra=f"{extra}kernel/crypto/xxhash_generic.ko:\n")
    folder = tmp_path / "lib" / "modules" / "6.1"
    (folder / "modules.softdep").write_text("# a comment\nsoftdep btrfs pre: xxhash64\n")
    (folder / "modules.alias").write_text("alias xxhash64 xxhash_generic\n")
    found = find_kernel([tmp_path])
    assert sorted(map(str, found.files(["btrfs", "ext4", "none"]))) == [
        "kernel/btrfs.ko.xz",
        "kernel/crypto/xxhash_generic.ko",
        "kernel/raid6-pq.ko.zst",
        "kernel/xor.ko",
    ]
