"""People and programs that may call the API."""

from __future__ import annotations

import enum

from pydantic import Field

from farshore.api_types.body import Body, Moment, Pem


class Role(enum.Enum):
    """A user's rights; each role includes those after it."""

    CONTRIBUTOR = "contributor"
    """Everything, including users and policies."""
    OPERATOR = "operator"
    """Protect, create points, fail over."""
    READER = "reader"
    """Read only."""


class UserRequest(Body):
    """``POST /v1/users``. With a PEM PKCS#10 ``request`` the private key stays with the user; without one the server
    generates a key and returns it, once."""

    name: str = Field(max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    role: Role = Role.READER
    request: Pem = ""


class UserRenewal(Body):
    """``POST /v1/users/{name}/certificates``: a new certificate for an existing user; ``request`` as above."""

    request: Pem = ""


class User(Body):
    """A user. ``expires`` is when the newest certificate does."""

    name: str
    role: Role
    created: Moment
    expires: Moment = 0


class UserCredential(Body):
    """The answer to a UserRequest: PEM texts. ``key`` is empty if the request came with its own."""

    name: str
    role: Role
    certificate: str
    key: str
    authority: str
