"""Translate the SDK's errors to ours, where they enter.

pyVmomi raises four families: faults of the server (``vmodl.MethodFault`` with a type for each); the errors of
http.client and ssl; for a truncated answer, any error of its XML parser; and for an answer of an unexpected form, any
error of Python. Only calls of the SDK may therefore be inside.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from farshore.api_types.body import clean_line
from farshore.model.errors import FarshoreError, Forbidden, Refused, TryLater, Unreachable
from farshore.vsphere.certificates import wrong_certificate


class SessionLost(TryLater):
    """The server no longer knows our session, or an object in it: log in again and begin anew."""


_NOT_UNDERSTOOD = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What the SDK raises for an answer of an unexpected form."""
_LOST = (vim.fault.NotAuthenticated, vmodl.fault.ManagedObjectNotFound, vmodl.query.InvalidCollectorVersion)


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Translate errors that the SDK raises inside the context to ours."""
    try:
        yield
    except FarshoreError:
        raise
    except (vmodl.MethodFault, vmodl.RuntimeFault) as error:
        raise of_server(host, error) from error
    except ssl.SSLCertVerificationError as error:
        raise wrong_certificate(host) from error
    except (OSError, http.client.HTTPException, ExpatError) as error:
        raise Unreachable(
            f"{host} did not answer ({clean_line(str(error)) or type(error).__name__}).",
            remedy="This is retried automatically. Check the network, and that the server's services run.",
        ) from error
    except _NOT_UNDERSTOOD as error:
        raise _not_understood(host, error) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise _not_understood(host, error) from error  # the answer to a failed call was not a fault


def _not_understood(host: str, error: Exception) -> TryLater:
    return TryLater(
        f"{host} gave an answer that is not understood ({type(error).__name__}: {clean_line(str(error))}).",
        remedy="This is retried automatically. If it recurs, report it with the server's version.",
    )


def of_server(host: str, error: Exception) -> FarshoreError:
    """Return our error for a fault that a server answered, or with which one of its tasks ended."""
    said = clean_line(str(getattr(error, "msg", "") or "")) or type(error).__name__.rsplit(".", 1)[-1]
    if isinstance(error, vim.fault.InvalidLogin):
        return Forbidden(
            f"{host} does not accept the user and password.",
            remedy="Check both, and that the account is not locked. Then remove the VMware server and add it again.",
        )
    if isinstance(error, _LOST):
        return SessionLost(f"{host} ended the session ({said}).", remedy="A new session is opened automatically.")
    if isinstance(error, vim.fault.NoPermission):
        return Forbidden(
            f"The account at {host} lacks the privilege {clean_line(str(error.privilegeId))}.",
            remedy="Give the account's role this privilege, on the vCenter or host itself, with propagation.",
        )
    if isinstance(error, vim.fault.TaskInProgress):
        return TryLater(f"{host} is busy with this: {said}", remedy="This is retried automatically.")
    if isinstance(error, vmodl.fault.RequestCanceled):
        return TryLater(f"{host} cancelled the request.", remedy="This is retried automatically.")
    if isinstance(error, (vmodl.fault.HostCommunication, vim.fault.Timedout)):
        return Unreachable(
            f"{host}: {said}", remedy="This is retried automatically. Check the host that the message names."
        )
    return Refused(f"{host}: {said}", remedy="Find the reason in the server's events.")
