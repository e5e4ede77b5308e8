"""A master target's calls to the configuration server."""

from __future__ import annotations

from farshore.api_types.machines import Enrolment, RenewalRequest
from farshore.api_types.master_targets import (
    ErrandClaim,
    ErrandProgress,
    ErrandResult,
    ErrandStanding,
    HomeErrand,
    MasterTargetOrders,
    MasterTargetRegistration,
    MasterTargetReport,
    MasterTargetSettings,
)
from farshore.api_types.servers import MachineKeys
from farshore.client.certified import CertifiedClient
from farshore.client.transport import segment

_ROOT = "/v1/master-targets/self"
_ERRANDS = f"{_ROOT}/errands"


class MasterTargetSelf(CertifiedClient):
    """Calls with a master target's certificate."""

    def register(self, registration: MasterTargetRegistration) -> MasterTargetSettings:
        """Announce that the master target has started; return where the vault is."""
        return self._transport.post(_ROOT, registration, MasterTargetSettings, repeatable=True)

    def report(self, report: MasterTargetReport) -> MasterTargetOrders:
        """Announce that the master target runs; return what it has to do. Tried once: the next report follows within
        seconds."""
        return self._transport.post(f"{_ROOT}/report", report, MasterTargetOrders)

    def keys(self, machine: str) -> MachineKeys:
        """Return the keys of a machine that this master target has an errand for. Raises Forbidden, TryLater."""
        return self._transport.get(f"{_ROOT}/machines/{segment(machine)}/keys", MachineKeys)

    def begin_errand(self, errand: str, claim: ErrandClaim) -> HomeErrand:
        """Return what the errand consists of. Raises NotFound, and WrongState if it must not be started."""
        return self._transport.post(f"{_ERRANDS}/{segment(errand)}", claim, HomeErrand, repeatable=True)

    def note_errand(self, errand: str, progress: ErrandProgress) -> ErrandStanding:
        """Report how far an errand is. Tried once: the next report follows within a second."""
        return self._transport.post(f"{_ERRANDS}/{segment(errand)}/progress", progress, ErrandStanding)

    def end_errand(self, errand: str, result: ErrandResult) -> ErrandStanding:
        """Report the result of an errand."""
        return self._transport.put(f"{_ERRANDS}/{segment(errand)}/result", result, ErrandStanding)

    def renew(self, request: RenewalRequest) -> Enrolment:
        """Return a new certificate for the same master target."""
        return self._transport.post(f"{_ROOT}/certificate", request, Enrolment)
