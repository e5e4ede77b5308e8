"""A process server's calls to the configuration server."""

from __future__ import annotations

from farshore.api_types.machines import Enrolment, RenewalRequest
from farshore.api_types.pushes import AgentRelease, PushClaim, PushProgress, PushResult, PushStanding, SealedPush
from farshore.api_types.servers import (
    MachineKeys,
    ProcessServerSettings,
    Registration,
    ReportAnswer,
    ServerReport,
    StreamGrant,
)
from farshore.api_types.vmware import DiscoveryClaim, DiscoveryReport, DiscoveryStanding, SealedDiscovery
from farshore.client.certified import CertifiedClient
from farshore.client.transport import AGAIN, segment

_PUSHES, _VMWARE = "/v1/process-servers/self/pushes", "/v1/process-servers/self/vmware"


class ProcessServerSelf(CertifiedClient):
    """Calls with a process server's certificate."""

    def register(self, registration: Registration) -> ProcessServerSettings:
        """Announce the addresses for agents; return where the vault is."""
        return self._transport.post("/v1/process-servers/self", registration, ProcessServerSettings, repeatable=True)

    def stream(self, machine: str, epoch: int) -> StreamGrant:
        """Return whether this epoch is open. Raises NotFound or Fenced."""
        return self._transport.get(f"/v1/process-servers/self/streams/{machine}/{epoch}", StreamGrant)

    def keys(self, machine: str) -> MachineKeys:
        """Return the keys of a machine whose stream this server has or had. Raises NotFound, Forbidden, TryLater. Not
        retried here, because a machine is waiting and repeats its request itself."""
        path = f"/v1/process-servers/self/machines/{machine}/keys"
        return self._transport.call("GET", path, None, MachineKeys, repeatable=False)

    def report(self, report: ServerReport) -> ReportAnswer:
        """Report the state of the streams, and new points and epochs; repeated until the server answers."""
        return self._transport.post("/v1/process-servers/self/report", report, ReportAnswer, repeatable=True)

    def begin_push(self, push: str, claim: PushClaim) -> SealedPush:
        """Return what a push logs in with and installs. Raises NotFound, and WrongState if it must not be started."""
        return self._transport.post(f"{_PUSHES}/{push}", claim, SealedPush, repeatable=True)

    def note_push(self, push: str, progress: PushProgress) -> PushStanding:
        """Report how far a push is. Tried once: the next report follows within a second."""
        return self._transport.post(f"{_PUSHES}/{push}/progress", progress, PushStanding)

    def end_push(self, push: str, result: PushResult) -> PushStanding:
        """Report the result of a push."""
        return self._transport.put(f"{_PUSHES}/{push}/result", result, PushStanding)

    def agent_release(self, python: str) -> AgentRelease:
        """Return the release of the agent for machines with that Python ("3.11"). Raises Unsupported, TryLater."""
        return self._transport.get(f"/v1/process-servers/self/agents/{python}", AgentRelease)

    def agent_bundle(self, release: str) -> bytes:
        """Return a release of the agent, complete. Raises NotFound."""
        return self._transport.request("GET", f"/v1/process-servers/self/bundles/{release}", retries=AGAIN)

    def begin_discovery(self, name: str, claim: DiscoveryClaim) -> SealedDiscovery:
        """Return the credentials for logging in to a VMware server. Raises NotFound if this server does not run its
        discovery."""
        return self._transport.post(f"{_VMWARE}/{segment(name)}/login", claim, SealedDiscovery, repeatable=True)

    def note_discovery(self, name: str, report: DiscoveryReport) -> DiscoveryStanding:
        """Report what a discovery found. Raises NotFound. If a report is lost, the discovery starts over."""
        return self._transport.post(f"{_VMWARE}/{segment(name)}", report, DiscoveryStanding, repeatable=True)

    def renew(self, request: RenewalRequest) -> Enrolment:
        """Return a new certificate for the same process server."""
        return self._transport.post("/v1/process-servers/self/certificate", request, Enrolment)
