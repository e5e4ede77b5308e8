"""The token with which a process server or a master target enrols."""

from __future__ import annotations

from farshore.api_types.body import Body, Moment


class Invitation(Body):
    """A one-time token, shown once, and what its holder must know of the configuration server."""

    id: str
    name: str
    token: str
    authority_fingerprint: str
    expires: Moment
    server_url: str
