"""What a process server says to the configuration server."""

from __future__ import annotations

from farshore.api_types.servers import ProcessServerSettings, Registration, ServerReport, StreamGrant
from farshore.client.transport import AGAIN, Transport


class ProcessServerSelf:
    """Calls with a process server's certificate."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, registration: Registration) -> ProcessServerSettings:
        """Say where agents reach us; hear the vault and its key."""
        return self._transport.post("/v1/process-servers/self", registration, ProcessServerSettings, repeatable=True)

    def stream(self, machine: str, epoch: int) -> StreamGrant:
        """Whether this epoch is open. Raises NotFound or Fenced."""
        return self._transport.get(f"/v1/process-servers/self/streams/{machine}/{epoch}", StreamGrant)

    def report(self, report: ServerReport) -> None:
        """Tell how the streams stand, and of new points and epochs; repeated until it is answered."""
        body = report.model_dump_json().encode()
        path = "/v1/process-servers/self/report"
        self._transport.request("POST", path, [body], content_type="application/json", retries=AGAIN)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
