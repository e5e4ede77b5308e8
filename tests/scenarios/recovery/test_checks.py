"""Checks against real servers and a real QEMU's screen."""

from __future__ import annotations

import asyncio
import http.server
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT

import asyncssh
import pytest
from tests.contract.places import qemu_place
from tests.file_site import FileSite, Fuse
from tests.waiting import until

from farshore.api_types.checks import Check, CheckKind
from farshore.catalog.database import Catalog
from farshore.clock import SystemClock
from farshore.lab.ports import free_port
from farshore.model.errors import NotFound
from farshore.recovery.checking.agent_scripts import AgentScripts
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
    site, failover, scripts = FileSite(folder / "site", Fuse(0)), FailoverId("f"), ScriptFolder(folder / "checks")
    agent = AgentScripts(Catalog("sqlite://"), SystemClock(), site, failover, "m", [], scripts, shared_network=False)
    return Surroundings(Reach(site, failover, "127.0.0.1", {GUEST: port}), str, scripts, {}, agent)


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
    assert "is not reachable" in attempt(Check(kind=kind, port=81), made)[1]


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
    assert (passed, detail) == (False, "it did not end in time: began")
    child = int((folder / "slow.child").read_text())
    until(lambda: _has_ended(child), "the end of the script's child")


async def obey(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run on this machine what a guest is told to."""
    given = await process.stdin.read()
    command = ["sh", "-c", str(process.command)]
    done = await asyncio.to_thread(subprocess.run, command, input=given, stdout=PIPE, stderr=STDOUT, check=False)
    process.stdout.write(done.stdout)
    process.exit(done.returncode)


@contextmanager
def sshd(key: asyncssh.SSHKey) -> Iterator[int]:
    """The SSH server of a guest, which lets ``key`` in."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> asyncssh.SSHAcceptor:
        authorized = asyncssh.import_authorized_keys(key.export_public_key().decode())
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[host_key], authorized_client_keys=authorized, process_factory=obey,
            encoding=None,
        )  # fmt: skip

    async def end() -> None:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        await loop.shutdown_default_executor()

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(60)
    try:
        yield server.get_port()
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_script_runs_in_the_guest_by_the_key_that_the_check_names(tmp_path: Path) -> None:
    folder = tmp_path / "checks"
    folder.mkdir()
    for name, text in (
        ("good", "echo it is $(cat)well"),
        ("bad", "echo no orders >&2; exit 3"),
        ("slow", "exec sleep 3"),
        ("loud", "yes | head -c 3000000; echo the end"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    right, wrong = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    for name, key in (("right", right), ("wrong", wrong), ("open", right)):
        (folder / name).write_bytes(key.export_private_key())
        (folder / name).chmod(0o644 if name == "open" else 0o600)
    with sshd(right) as port:
        made = around(tmp_path, port)

        def seen(script: str, key: str = "right", within: int = 60) -> tuple[bool, str]:
            return attempt(Check(kind=CheckKind.GUEST, script=script, key=key, port=GUEST, within=within), made)

        passed, detail = seen("good")
        assert passed
        assert detail.startswith("status 0 (host key SHA256:")
        assert detail.endswith("): it is well")
        passed, detail = seen("bad")
        assert (passed, detail.endswith("no orders")) == (False, True)
        assert detail.startswith("status 3 ")
        passed, detail = seen("slow", within=1)
        assert (passed, "took longer than 1 s" in detail) == (False, True)
        passed, detail = seen("loud")
        assert (passed, len(detail) < 4000, detail.endswith("the end")) == (True, True, True)
        for key, why in (("wrong", "does not accept the SSH key"), ("open", "chmod 600"), ("none", "There is no")):
            passed, detail = seen("good", key)
            assert (passed, why in detail) == (False, True), detail
    passed, detail = attempt(Check(kind=CheckKind.GUEST, script="good", key="right", port=GUEST), around(tmp_path, 1))
    assert (passed, "cannot be reached by SSH" in detail) == (False, True)


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
