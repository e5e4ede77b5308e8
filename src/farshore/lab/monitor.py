"""Send one command at a time to a running QEMU over its QMP socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Mapping

from farshore.model.errors import Refused, Unreachable

_SECONDS = 10.0


def qmp(path: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Execute ``command`` and return its result. Raises Refused if QEMU refuses it, Unreachable if it does not
    answer."""
    try:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(_SECONDS)
            channel.connect(str(path))
            with channel.makefile("rw", encoding="utf-8") as stream:
                stream.readline()
                _exchange(stream, {"execute": "qmp_capabilities"})
                return _exchange(stream, {"execute": command, "arguments": dict(arguments or {})})
    except OSError as error:
        raise Unreachable(
            f"QEMU does not answer at {path}: {error}.", remedy="Check that the guest is running."
        ) from error


def _exchange(stream: Any, request: Mapping[str, Any]) -> Any:
    stream.write(json.dumps(request) + "\n")
    stream.flush()
    while line := stream.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(f"QEMU refused {request['execute']}: {answer['error']['desc']}.", remedy="See QEMU's manual.")
        if "return" in answer:
            return answer["return"]
        # Anything else is an event, for another client.
    raise ConnectionResetError("closed in the middle of an answer")
