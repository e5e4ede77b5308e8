"""A session at a vCenter or an ESXi host, with a pinned certificate and a check of the account's privileges.

All requests use the API of version 6.5, which every later release understands, so answers have one form. A session
belongs to one thread, except for ``cancel``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import SoapStubAdapter, vim, vmodl

from farshore.api_types.body import clean_line
from farshore.model.errors import Unsupported
from farshore.vsphere.answers import BoundedConnection
from farshore.vsphere.certificates import context_for
from farshore.vsphere.faults import translated

_VERSION = "vim.version.version11"
"""The API version of vSphere 6.5, the oldest supported release."""
_SECONDS = 120.0
"""For an answer: more than WaitForUpdatesEx waits, and more than a large vCenter needs for the first part."""

NEEDED = ("System.Anonymous", "System.View", "System.Read")
"""Privileges that discovery needs, on the root folder with propagation. The role *Read-only* has them."""


@dataclass(frozen=True)
class Login:
    """Address and account. ``certificate`` is the pinned one in PEM."""

    host: str
    port: int
    user: str
    certificate: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Session:
    """``content`` is the SDK's ServiceContent."""

    login: Login
    stub: Any
    content: Any
    key: str

    @property
    def host(self) -> str:
        """The server's name."""
        return self.login.host

    @property
    def product(self) -> str:
        """The product, for example ``VMware vCenter Server 8.0.2 build-22385739``."""
        return str(clean_line(str(self.content.about.fullName)))

    def missing(self, wanted: Sequence[str] = NEEDED) -> list[str]:
        """Return the privileges among ``wanted`` that the account lacks on the root folder, in their order. Raises as
        ``translated``."""
        with translated(self.host):
            try:
                granted = self._granted(wanted)
            except (vmodl.fault.NotSupported, vmodl.fault.MethodNotFound):
                granted = self._granted_by_roles()
        return [privilege for privilege in wanted if privilege not in granted]

    def _granted(self, wanted: Sequence[str]) -> set[str]:
        (answer,) = self.content.authorizationManager.HasPrivilegeOnEntities(
            [self.content.rootFolder], self.key, list(wanted)
        )
        return {one.privId for one in answer.privAvailability if one.isGranted}

    def _granted_by_roles(self) -> set[str]:
        """Return the privileges of the session's roles on the root folder, for hosts that do not answer the request
        itself."""
        roles = {role.roleId: role.privilege for role in self.content.authorizationManager.roleList}
        effective = self.content.rootFolder.effectiveRole or []
        return {privilege for role in effective for privilege in roles.get(role) or []}

    def beside(self, seconds: float) -> Any:
        """Return a stub of the SDK in this session for another thread; each call waits at most ``seconds``. The caller
        must drop its connections."""
        other = _stub(self.login, seconds)
        other.cookie = self.stub.cookie
        return other


@contextmanager
def session(login: Login) -> Iterator[Session]:
    """Log in, and log out at the end if the server still answers. Raises Forbidden, WrongKey, Unreachable,
    Unsupported."""
    stub = _stub(login, _SECONDS)
    try:
        with translated(login.host):
            content: Any = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
            _check_product(login.host, content.about)
            opened = content.sessionManager.Login(login.user, login.password, None)
        try:
            yield Session(login, stub, content, str(opened.key))
        finally:
            with contextlib.suppress(Exception):  # ignore any error: an idle session expires by itself
                content.sessionManager.Logout()
    finally:
        stub.DropConnections()


def _stub(login: Login, seconds: float) -> Any:
    made = SoapStubAdapter(
        host=login.host,
        port=login.port,
        version=_VERSION,
        sslContext=context_for(login.certificate),
        httpConnectionTimeout=seconds,
        acceptCompressedResponses=False,  # the SDK would decompress them without a limit
        customHeaders={"Accept-Encoding": "gzip"},
    )
    made.scheme = BoundedConnection
    return made


def _check_product(host: str, about: Any) -> None:
    major, _, rest = str(about.apiVersion).partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) >= (6, 5)):
        raise Unsupported(
            f"{host} is {clean_line(str(about.fullName))}; 6.5 is the oldest that is supported.", remedy="Upgrade it."
        )
