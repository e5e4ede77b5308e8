"""Checks against real servers and a real QEMU's screen."""

from __future__ import annotations

import http.server
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.places import qemu_place
from tests.file_site import FileSite, Fuse
from tests.waiting import until

from farshore.api_types.checks import Check, CheckKind
from farshore.lab.ports import free_port
from farshore.model.errors import NotFound
from farshore.recovery.checking.probes import Surroundings, attempt
from farshore.recovery.checking.reach import Reach
from farshore.recovery.checking.scripts import ScriptFolder
from farshore.sites.port import FailoverId
from farshore.sites.qemu.site import QemuSite

GUEST = 80


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500 if self.path == "/bad" else 200)
        self.end_headers()
        self.wfile.write(b"it is well")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web(folder: Path, *, tls: bool) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    if tls:
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db1"]
        key, certificate = folder / "key.pem", folder / "cert.pem"
        subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def around(folder: Path, port: int) -> Surroundings:
    reach = Reach(FileSite(folder / "site", Fuse(0)), FailoverId("f"), "127.0.0.1", {GUEST: port})
    return Surroundings(reach, str, ScriptFolder(folder / "checks"), {})


@pytest.mark.parametrize("tls", [False, True])
def test_http(tmp_path: Path, tls: bool) -> None:
    kind = CheckKind.HTTPS if tls else CheckKind.HTTP
    with web(tmp_path, tls=tls) as port:
        made = around(tmp_path, port)
        for more, passes in (
            ({}, True),
            ({"status": 200, "contains": "well"}, True),
            ({"contains": "ill"}, False),
            ({"status": 204}, False),
            ({"path": "/bad"}, False),
            ({"path": "/bad", "status": 500}, True),
        ):
            passed, detail = attempt(Check.model_validate({"kind": kind, "port": GUEST, **more}), made)
            assert passed is passes, (more, detail)
    assert attempt(Check(kind=kind, port=GUEST), made)[0] is False, "nobody is there any more"
    assert "No way leads" in attempt(Check(kind=kind, port=81), made)[1]


@contextmanager
def saying(words: bytes) -> Iterator[int]:
    """A server that says this to everybody and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(words)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("words", "passes"),
    [(b"SSH-2.0-OpenSSH_9.2\r\n", True), (b"HTTP/1.1 400 Bad\r\n", False), (b"", False), (b"x" * 100_000, False)],
)
def test_ssh(tmp_path: Path, words: bytes, passes: bool) -> None:
    with saying(words) as port:
        made = around(tmp_path, port)
        assert attempt(Check(kind=CheckKind.SSH, port=GUEST), made)[0] is passes
        assert attempt(Check(kind=CheckKind.TCP, port=GUEST), made)[0] is True
        assert attempt(Check(kind=CheckKind.HTTP, port=GUEST), made)[0] is False


def test_a_script_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    folder = tmp_path / "checks"
    folder.mkdir()
    script = folder / "slow"
    script.write_text("#!/bin/sh\necho began\nsleep 3600 & echo $! > $0.child; wait\n")
    script.chmod(0o755)
    passed, detail = attempt(Check(kind=CheckKind.SCRIPT, script="slow", within=1), around(tmp_path, 1))
    assert (passed, detail) == (False, "it took too long: began")
    child = int((folder / "slow.child").read_text())
    until(lambda: _has_ended(child), "the end of the script's child")


def _has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.root
def test_the_screen_of_a_machine(tmp_path: Path) -> None:
    with qemu_place() as place:
        site, order = QemuSite(place.folder, accelerator="tcg"), place.order(forward={free_port(): GUEST})
        site.create(order)
        with pytest.raises(NotFound):
            site.screen(order.failover)
        site.start(order.failover)
        place.wait_for_guest(order.failover)
        for _ in range(2):
            picture = site.screen(order.failover)
            assert picture.startswith(b"\x89PNG")
            width, height = struct.unpack(">II", picture[16:24])
            assert width >= 640
            assert height >= 400
        site.destroy(order.failover)
