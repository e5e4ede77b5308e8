"""Somebody at the serial console of a machine: reads until something was said, and types."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import TracebackType


class SerialConsole:
    """A QEMU serial port that is a Unix socket. ``said`` is everything since the beginning; ``log`` gets it too."""

    def __init__(self, path: Path, log: Path) -> None:
        self._socket, self._log = socket.socket(socket.AF_UNIX), log.open("wb")
        self._socket.connect(str(path))
        self.said, self._seen = "", 0

    def __enter__(self) -> SerialConsole:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._log.close()

    def expect(self, text: str, seconds: float = 600.0) -> str:
        """What was said up to ``text``, after the last that was expected. Fails after so many seconds, or when the
        machine ends."""
        end = time.monotonic() + seconds
        while text not in self.said[self._seen :]:
            self._socket.settimeout(max(0.1, end - time.monotonic()))
            try:
                got = self._socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"no {text!r} within {seconds:.0f} s:\n{self.said[-3000:]}") from None
            assert got, f"the machine ended before {text!r}:\n{self.said[-3000:]}"
            self._log.write(got)
            self._log.flush()
            self.said += got.decode(errors="replace").replace("\r", "")
        begin, self._seen = self._seen, self.said.index(text, self._seen) + len(text)
        return self.said[begin : self._seen]

    def type(self, line: str) -> None:
        self._socket.sendall(f"{line}\n".encode())

    def answer(self, question: str, line: str, seconds: float = 600.0) -> None:
        self.expect(question, seconds)
        self.type(line)
