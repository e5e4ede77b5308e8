"""The QEMU site's files and the accelerator's verdict, without starting a machine."""

from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.sites.test_command import FAILOVER, ORDER, command, option
from tests.waiting import until

from farshore.formats.disk_notice import DiskNotice
from farshore.model.errors import Damaged, FarshoreError, Malformed, NoSpace, NotFound, Refused, TryLater, WrongState
from farshore.model.machine import Firmware
from farshore.sites.half_written import check_whole
from farshore.sites.port import (
    Answering,
    Condition,
    DeliveryWish,
    Examined,
    FailoverId,
    HasConsole,
    Keeping,
    Resumable,
    Way,
    WrittenDisk,
)
from farshore.sites.qemu.accelerator import choose_accelerator
from farshore.sites.qemu.command import RunFiles
from farshore.sites.qemu.confinement import account_name
from farshore.sites.qemu.site import CONSOLE_BYTES, LOG_BYTES, QemuSite
from farshore.sites.registry import KINDS, SiteConfiguration, check_settings, open_site

USER = account_name()
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Unix sockets below it keep within their 108 bytes, however long the test's own folder is called."""
    with tempfile.TemporaryDirectory(prefix="fs-") as folder:
        yield Path(folder)


def test_the_registry(tmp_path: Path) -> None:
    assert open_site(SiteConfiguration("lab", "qemu"), tmp_path).name == "lab"
    nobody = "00000000-0000-0000-0000-000000000001"
    needed = {
        "azure": {"subscription": nobody, "resource_group": "recovery", "region": "westeurope"},
        "vsphere": {"host": "vcenter.example.com", "user": "farshore", "fingerprint": "AB:" * 31 + "AB"},
    }
    for kind in KINDS:
        opened = open_site(SiteConfiguration("lab", kind, needed.get(kind, {})), tmp_path)
        assert isinstance(opened, (Resumable, Answering, HasConsole, Keeping))
    with pytest.raises(NotFound, match="moon"):
        open_site(SiteConfiguration("lab", "moon"), tmp_path)


def test_settings_are_checked() -> None:
    assert check_settings("qemu", {}, with_secret=False) == {
        "accelerator": "auto",
        "disks": "served",
        "disks_at": "",
    }
    for asked in (
        {"accelerator": "tcg", "disks": "written", "disks_at": ""},
        {"accelerator": "auto", "disks": "served", "disks_at": "2001:db8::7"},
    ):
        assert check_settings("qemu", asked, with_secret=False) == asked
    wrong = ({"acelerator": "tcg"}, {"accelerator": 7}, {"disks": "mailed"}, {"disks_at": "here"}, {"disks_at": "::"},
             {"disks_at": "192.0.2.7", "disks": "written"})  # fmt: skip
    for settings, secret in (*((one, False) for one in wrong), ({}, True)):
        with pytest.raises(Malformed):
            check_settings("qemu", settings, with_secret=secret)
    with pytest.raises(Malformed, match="The setting disks takes served or written"):
        check_settings("qemu", {"disks": "mailed"}, with_secret=False)


@pytest.mark.parametrize(("settings", "way"), [({}, Way.SERVED), ({"disks": "written"}, Way.WRITTEN)])
def test_a_site_asks_for_disks_as_it_is_set(tmp_path: Path, settings: dict[str, str], way: Way) -> None:
    assert open_site(SiteConfiguration("lab", "qemu", settings), tmp_path).delivery == DeliveryWish(way)
    elsewhere = open_site(SiteConfiguration("lab", "qemu", {"disks_at": "192.0.2.7"}), tmp_path)
    assert elsewhere.delivery == DeliveryWish(address="192.0.2.7")


def test_no_machine_is_started_from_a_disk_that_is_half_written(short_path: Path) -> None:
    disk = short_path / "disk.raw"
    notice = DiskNotice("vault", "4f6c", 0, "claim").encode()
    media = (replace(ORDER.disks[0], medium=WrittenDisk(disk)),)
    site = QemuSite(short_path / "site", accelerator="tcg")
    for head in (notice, notice[:100].ljust(512)):  # a damaged one is one too
        disk.write_bytes(head.ljust(1 << 20, bytes(1)))
        site.create(replace(ORDER, disks=media))
        with pytest.raises(WrongState, match="half written"):
            site.start(FAILOVER)
        assert site.status(FAILOVER).condition is Condition.STOPPED
        site.destroy(FAILOVER)
    disk.write_bytes(bytes(1 << 20))
    check_whole(disk)


def test_an_order_of_an_earlier_release_is_the_same_order(short_path: Path) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    site.create(ORDER)
    path = RunFiles(short_path / FAILOVER).order
    fields = json.loads(path.read_text())
    for disk in fields["disks"]:
        medium = disk.pop("medium")
        disk |= {"socket": medium["address"]["path"], "export": medium["export"]}
    path.write_text(json.dumps(fields))
    assert site.order(FAILOVER) == ORDER


def test_a_site_says_how_it_is(tmp_path: Path) -> None:
    site = QemuSite(tmp_path / "site", accelerator="tcg")
    assert isinstance(site, Examined)
    assert site.examine()["accelerator"] == "tcg"


def test_a_machine_that_was_created_and_never_started(short_path: Path) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    assert site.status(FAILOVER).condition is Condition.ABSENT
    site.create(ORDER)
    site.create(ORDER)
    assert site.order(FAILOVER) == ORDER
    assert site.present() == (FAILOVER,)
    assert [site.hardware_id(FAILOVER)] == option("-uuid", command())
    assert site.status(FAILOVER).condition is Condition.STOPPED
    assert not site.answers(FAILOVER, 1)
    site.stop(FAILOVER, grace=0)
    site.destroy(FAILOVER)
    site.destroy(FAILOVER)
    assert site.present() == ()
    assert not (short_path / FAILOVER).exists()


def test_starting_what_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        QemuSite(tmp_path, accelerator="tcg").start(FAILOVER)


def test_another_process_with_the_same_number_is_not_ours(short_path: Path) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    site.create(ORDER)
    (short_path / FAILOVER / "qemu.pid").write_text("1\n")
    assert site.status(FAILOVER).condition is Condition.STOPPED
    site.destroy(FAILOVER)


@pytest.mark.root
@pytest.mark.parametrize(("user", "believed"), [(0, True), (65534, False)])
def test_a_process_is_found_without_its_record_but_no_strangers_word_counts(
    short_path: Path, user: int, believed: bool
) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    argument = f"fd=3,set=1,opaque={short_path / FAILOVER / 'qemu.pid'}"
    waiting = ["sh", "-c", "read nothing", "sh", argument]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, user=user) as process:
        until(lambda: argument.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "the process")
        assert site.status(FAILOVER).condition is (Condition.RUNNING if believed else Condition.ABSENT)
        assert site.present() == ((FAILOVER,) if believed else ())
        site.destroy(FAILOVER)
        assert (process.poll() is not None) is believed
    assert site.status(FAILOVER).condition is Condition.ABSENT


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, NoSpace, "Free space"),
        (errno.EDQUOT, NoSpace, "Free space"),
        (errno.EROFS, Refused, "Check "),
        (errno.EIO, TryLater, "Check "),
    ],
)
def test_trouble_with_the_folder_says_what_to_do(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[FarshoreError], words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(error) as raised:
        QemuSite(short_path, accelerator="tcg").create(ORDER)
    assert type(raised.value) is error
    assert words in raised.value.remedy


def test_what_nobody_exports_is_not_started(short_path: Path) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    site.create(ORDER)
    with pytest.raises(TryLater, match="/run/x") as raised:
        site.start(FAILOVER)
    assert "export" in raised.value.remedy
    assert site.status(FAILOVER).condition is Condition.STOPPED


def test_lost_uefi_variables_are_made_again_and_kept_ones_stay(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = short_path / "OVMF_CODE.fd"
    code.touch()
    (short_path / "OVMF_VARS.fd").write_bytes(b"template")
    monkeypatch.setattr("farshore.sites.qemu.site.FIRMWARE", (code,))
    site = QemuSite(short_path / "site", accelerator="tcg")
    order = replace(ORDER, machine=replace(ORDER.machine, firmware=Firmware.UEFI))
    site.create(order)
    variables = short_path / "site" / FAILOVER / "uefi-variables.fd"
    assert variables.read_bytes() == b"template"
    variables.write_bytes(b"what the guest wrote")
    site.create(order)
    assert variables.read_bytes() == b"what the guest wrote"
    variables.unlink()
    with pytest.raises(NotFound, match="Create the machine again"):
        site.start(FAILOVER)
    site.create(order)
    variables.write_bytes(b"what the guest wrote")
    site.create(replace(order, name="db2"))
    assert variables.read_bytes() == b"template", "another order is another machine"


def test_nothing_changes_while_another_call_is_at_work(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that is just being started holds the lock, and neither its record nor its command line tells of it yet.
    monkeypatch.setattr("farshore.sites.qemu.site._START_SECONDS", 0.0)
    monkeypatch.setattr("farshore.sites.qemu.site._END_SECONDS", 0.0)
    site = QemuSite(short_path, accelerator="tcg")
    site.create(ORDER)
    with (short_path / FAILOVER / "qemu.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for call in (
            lambda: site.create(replace(ORDER, name="db2")),
            lambda: site.start(FAILOVER),
            lambda: site.stop(FAILOVER, grace=0),
            lambda: site.destroy(FAILOVER),
        ):
            with pytest.raises(TryLater):
                call()
        assert site.status(FAILOVER).condition is Condition.STOPPED
    assert site.order(FAILOVER) == ORDER
    site.destroy(FAILOVER)
    assert site.present() == ()


def test_a_damaged_order_is_told_and_replaced(short_path: Path) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    site.create(ORDER)
    order = short_path / FAILOVER / "order.json"
    order.write_bytes(b"\xff{}")
    with pytest.raises(Damaged):
        site.start(FAILOVER)
    order.unlink()
    assert "Create the machine again" in site.status(FAILOVER).detail
    site.create(ORDER)
    assert site.order(FAILOVER) == ORDER


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/etc"])
def test_ids_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused):
        QemuSite(tmp_path, accelerator="tcg").destroy(FailoverId(name))


@pytest.mark.parametrize(
    ("known", "kernel", "verdict"),
    [
        ({"boot": BOOT, "user": USER, "accelerator": "kvm", "proof": "kernel"}, Path("/vmlinuz"), "kvm"),
        ({"boot": BOOT, "user": USER, "accelerator": "kvm", "proof": "kernel"}, None, "kvm"),
        ({"boot": BOOT, "user": USER, "accelerator": "kvm", "proof": "firmware"}, None, "kvm"),
        ({"boot": BOOT, "user": USER, "accelerator": "tcg", "proof": "firmware"}, Path("/vmlinuz"), "tcg"),
    ],
)
def test_a_verdict_is_kept_until_the_next_start_of_the_host(
    tmp_path: Path, known: dict[str, str], kernel: Path | None, verdict: str
) -> None:
    (tmp_path / "accelerator.json").write_text(json.dumps(known))
    assert choose_accelerator(tmp_path, kernel) == verdict


OF_OTHERS = json.dumps({"boot": BOOT, "user": f"not {USER}", "accelerator": "kvm", "proof": "kernel"})


@pytest.mark.parametrize("text", ["", "[]", '{"boot": "x", "accelerator": "kvm", "proof": "kernel"}', OF_OTHERS])
def test_no_verdict_or_an_old_one_is_found_anew(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farshore.sites.qemu.accelerator._KVM", tmp_path / "no-kvm-here")
    (tmp_path / "accelerator.json").write_text(text)
    assert choose_accelerator(tmp_path) == "tcg"
    assert json.loads((tmp_path / "accelerator.json").read_text())["boot"] == BOOT


@pytest.mark.parametrize("collapses", [True, False])
def test_a_console_that_has_become_long_keeps_its_end(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, collapses: bool
) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    site.trim_console(FAILOVER)
    site.create(ORDER)
    console = site.console(FAILOVER)
    if not collapses:  # as on a file system that cannot take out a part
        monkeypatch.setenv("PATH", str(short_path))
        (short_path / "fallocate").write_text("#!/bin/sh\nexit 1\n")
        (short_path / "fallocate").chmod(0o755)
    with console.open("ab", buffering=0) as file:
        file.write(b"o" * CONSOLE_BYTES)
        site.trim_console(FAILOVER)
        assert console.stat().st_size == CONSOLE_BYTES, "that is not long yet"
        file.write(b"newest")
        site.trim_console(FAILOVER)
        kept = console.read_bytes()
        assert kept == b"" if not collapses else kept.endswith(b"newest")
        assert len(kept) < CONSOLE_BYTES
        file.write(b"after")
        assert console.read_bytes() == kept + b"after"


def test_what_a_guest_has_qemu_complain_of_does_not_fill_the_disk(short_path: Path) -> None:
    site = QemuSite(short_path, accelerator="tcg")
    site.create(ORDER)
    log = short_path / FAILOVER / "qemu.log"
    with log.open("ab") as qemu:
        qemu.write(b"first\n" + bytes(LOG_BYTES))
        qemu.flush()
        site.trim_console(FAILOVER)
        qemu.write(b"last\n")
    kept = log.read_bytes()
    assert (kept[:6], kept[-5:], len(kept)) == (b"first\n", b"last\n", LOG_BYTES // 2 + 5)
