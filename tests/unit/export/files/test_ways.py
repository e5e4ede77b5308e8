"""Which way reads the disks, and what the user hears of one that does not."""

from __future__ import annotations

import json
import os
import socket

import pytest

from farshore.export.files import inside
from farshore.export.files.in_appliance import InAppliance
from farshore.export.files.partial import without_partial
from farshore.export.files.reader import FileReader
from farshore.export.files.user_mode_linux import UserModeLinux, reason
from farshore.export.files.ways import NoAnswer
from farshore.model.errors import Damaged, NotFound, Refused, TryLater
from farshore.model.identifiers import DiskNumber


class Double:
    def __init__(self, name: str, answer: object, lacks: str = "") -> None:
        self.name, self._answer, self._lacks = name, answer, lacks
        self.asked = 0
        self.closed = False

    def lacks(self) -> str:
        return self._lacks

    def description(self) -> str:
        return f"the {self.name}"

    def ask(self, request, out):
        self.asked += 1
        if out is not None:
            assert list(out.iterdir()) == [], "what another way copied is still there"
            (out / "copy").write_text(self.name)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def close(self) -> None:
        self.closed = True


def reader(*ways: Double) -> FileReader:
    return FileReader(list(ways), [DiskNumber(0)], {})


def test_a_way_that_gives_no_answer_is_tried_once_and_what_it_copied_is_not_kept(tmp_path):
    first = Double(UserModeLinux.name, NoAnswer("it did not start (words)"))
    second = Double(InAppliance.name, {"left_out": []})
    both = reader(first, second)
    both.copy("/a", tmp_path / "a")
    both.copy("/b", tmp_path / "b")
    assert (tmp_path / "a").read_text() == InAppliance.name
    assert (first.asked, first.closed, second.asked) == (1, True, 2)
    said = "Read by the appliance, because user-mode Linux gave no answer: it did not start (words)."
    assert str(both.used) == said


def test_the_first_that_answers_is_the_one_also_if_the_answer_is_no(tmp_path):
    first = Double(UserModeLinux.name, {"error": "not-found", "message": "/a is not there."})
    second = Double(InAppliance.name, {"left_out": []})
    both = reader(first, second)
    with pytest.raises(NotFound):
        both.copy("/a", tmp_path / "a")
    assert second.asked == 0
    assert str(both.used) == "Read by the user-mode-linux."
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_where_nothing_can_read(tmp_path):
    ways = Double(UserModeLinux.name, {}, "kmod"), Double(InAppliance.name, {}, "busybox-static")
    with pytest.raises(Refused, match=r"user-mode Linux is not installed: kmod; the QEMU .*: busybox-static"):
        reader(*ways)
    alone = reader(Double(UserModeLinux.name, {}, "kmod"), Double(InAppliance.name, NoAnswer("it broke")))
    with pytest.raises(TryLater, match=r"user-mode Linux is not installed: kmod; the QEMU .* it broke"):
        alone.entries("/")
    assert alone.used is None


@pytest.mark.parametrize(
    ("console", "words"),
    [
        (
            "Kernel panic - not syncing: ptrace set fp regs failed, errno 14\nCPU: 0\nCall Trace:\n",
            "ptrace set fp regs failed, errno 14",
        ),
        ("userspace - ptrace set fp regs failed, errno = 14\n\nPid: 1, comm: init\nRIP: 0033:[<7f>]\n", "ptrace set"),
        ("Checking that ptrace can change system call numbers...OK\nmmap: cannot allocate\n", "mmap: cannot"),
        ("RIP: 0033\nStack:\n 60411d5b 60bb7e80\n", "there was no useful output"),
        ("Kernel panic - not syncing: \x1b[31m" + "x" * 500, "[31mxxx"),
    ],
)
def test_a_kernels_reason_is_a_few_words_and_no_stack(console, words):
    said = reason(console)
    assert words in said
    assert len(said) <= 120
    assert "\n" not in said
    assert said.isprintable()


class Running:
    accelerator = "tcg"

    def __init__(self, wire: socket.socket) -> None:
        self.wire = wire

    def console(self) -> str:
        return "Kernel panic - not syncing: gone\nCall Trace:\n"


def appliance_that_says(content: bytes) -> InAppliance:
    ours, theirs = socket.socketpair()
    theirs.sendall(content)
    theirs.shutdown(socket.SHUT_WR)
    way = InAppliance({})
    way._running = Running(ours)  # type: ignore[assignment]
    way._open.callback(ours.close)
    way._open.callback(theirs.close)
    return way


def frame(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return inside.FRAME.pack(kind, len(content) if length is None else length) + content


@pytest.mark.parametrize(
    "said",
    [
        b"",
        frame(inside.ANSWER, b"{}")[:-1],
        frame(inside.ANSWER, b"", 1 << 31),
        frame(inside.DATA, b"", (1 << 20) + 1),
        frame(b"?", b""),
        frame(inside.DATA, b"unasked"),
    ],
)
def test_an_appliance_that_ends_or_says_what_it_never_does_gives_no_answer(said):
    way = appliance_that_says(said)
    with pytest.raises(NoAnswer, match="gone"):
        way.ask({"act": "volumes", "sectors": [512]}, None)
    way.close()


def test_an_archive_that_is_cut_or_none_is_told(tmp_path):
    answer = frame(inside.ANSWER, json.dumps({"left_out": []}).encode())
    for pieces in (frame(inside.DATA, b"x" * 700) + frame(inside.END, b"") + answer, answer):
        way = appliance_that_says(pieces)
        complaints = way.ask({"act": "copy", "path": "/a", "owners": False, "sectors": [512]}, tmp_path)["complaints"]
        way.close()
        with pytest.raises((TryLater, Damaged), match=r"was not copied completely|cannot be read"):
            without_partial(tmp_path, "/a", complaints)


SAID = rb"""tar: copy/a: Read error at byte 65536, while reading 10240 bytes: Input/output error
tar: copy/b\303\234 \n\\c: d: Cannot open: Input/output error
tar: copy/s: socket ignored
tar: Exiting with failure status due to previous errors
"""


def test_a_complaint_names_a_member_whatever_its_name():
    assert inside.complained(SAID, 2) == [
        ("copy/a", "Read error at byte 65536, while reading 10240 bytes: Input/output error", True),
        ("copy/bÜ \n\\c: d", "Cannot open: Input/output error", False),
        ("copy/s", "socket ignored", False),
    ]
    assert inside.complained(b"", 0) == []
    assert inside.complained(b"", 2) == [("", "tar ended with 2", False)]
    assert inside.complained(b"tar: Unexpected EOF in archive\n", 2) == [("", "tar: Unexpected EOF in archive", False)]


def test_a_part_of_a_file_is_kept_under_none_of_its_names_and_the_rest_is(tmp_path):
    copy = tmp_path / "copy"
    (copy / "deep").mkdir(parents=True)
    for name in ("good", "bad"):
        (copy / name).write_text(name)
    (copy / "deep" / "same").hardlink_to(copy / "bad")
    os.utime(copy, ns=(1, 2))
    missing = without_partial(tmp_path, "/srv/", [("copy/bad", "Read error", True), ("copy/x", "Cannot stat", False)])
    assert missing == ["/srv/bad: Read error", "/srv/deep/same: Read error", "/srv/x: Cannot stat"]
    assert sorted(path.name for path in copy.rglob("*")) == ["deep", "good"]
    assert copy.stat().st_mtime_ns == 2


def test_a_single_file_that_cannot_be_read_whole_is_damaged(tmp_path):
    (tmp_path / "copy").write_text("half")
    with pytest.raises(Damaged, match="/a cannot be read: File shrank"):
        without_partial(tmp_path, "/a", [("copy", "File shrank by 9 bytes; padding with zeros", True)])
    assert list(tmp_path.iterdir()) == []
