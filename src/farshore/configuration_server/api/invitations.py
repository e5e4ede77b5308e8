"""The answer to who invites a process server or a master target."""

from __future__ import annotations

from typing import TypeVar

from farshore.api_types.invitations import Invitation
from farshore.catalog.tables import MasterTargetRow, ProcessServerRow
from farshore.configuration_server.web.callers import Installation
from farshore.protection.enrolment import NewToken

_I = TypeVar("_I", bound=Invitation)


def invitation(
    answer: type[_I], row: ProcessServerRow | MasterTargetRow, token: NewToken, installation: Installation
) -> _I:
    """Return the ``answer`` with the token's secret, which is not shown again."""
    return answer(
        id=row.id,
        name=row.name,
        token=token.secret,
        authority_fingerprint=installation.issuer.authority.fingerprint,
        expires=token.expires,
        server_url=installation.settings.base_url,
    )
