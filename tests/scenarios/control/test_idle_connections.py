"""What connections that ask nothing cost the configuration server: little memory, and no time at its end."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path

from tests.scenarios.control.servers import Server

from farshore.api_types.servers import ServerStatus
from farshore.client.credentials import client_context


def memory(server: Server) -> int:
    """Resident bytes."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_silent_connections_cost_little(server: Server) -> None:
    """Strangers make them; each took 300 KiB, so what the listener lets in came to more than 2 GiB."""
    count = 300
    before = memory(server)
    with contextlib.ExitStack() as lines:
        for _ in range(count):
            lines.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
        # It takes them in their order: when this one is answered, all have been taken.
        with server.transport() as transport:
            transport.get("/v1/status", ServerStatus)
        cost = (memory(server) - before) / count
    assert cost < 128 << 10, f"{cost / 1024:.0f} KiB for each"


def test_an_idle_client_is_not_waited_for(server: Server) -> None:
    context = client_context(server.credentials().authority)
    with (
        socket.create_connection(("127.0.0.1", server.port), 60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        line.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")
        server.kill(signal.SIGTERM)
    log = (server.home / "server.log").read_text()
    assert "Shutting down" in log or "Serving on" in log
    assert "graceful shutdown exceeded" not in log
