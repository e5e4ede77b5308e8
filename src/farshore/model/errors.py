"""Errors, in three families that say what the caller can do.

``TryLater``: the same call may succeed later. ``Refused``: it will not succeed until something is changed. ``Damaged``:
data failed its check. Each class has a stable ``code``, which gives the REST problem type, the exit status and the row
in docs/errors.md. Every error carries a remedy that says what to do next. Messages never contain secrets.
"""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Optional, Tuple, Type


class FarshoreError(Exception):
    """Base of all errors of Farshore. ``exit_status`` is that of a command, ``http_status`` that of a REST answer."""

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"

    def as_json(self) -> Dict[str, str]:
        """Return the JSON fields that commands print for scripts."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    def __reduce__(self) -> Tuple[Any, ...]:
        """Pickle the keyword arguments too, as durable workflows store pickled errors."""
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(kind: Type[FarshoreError], fields: Dict[str, Any]) -> FarshoreError:
    return kind(fields.pop("message"), **fields)


class TryLater(FarshoreError):
    """A temporary condition. ``after`` is the minimum wait in seconds, if it is known."""

    code = "try-later"
    exit_status = 75
    http_status = 503

    def __init__(self, message: str, *, remedy: str, after: Optional[float] = None) -> None:
        super().__init__(message, remedy=remedy)
        self.after = after


class Refused(FarshoreError):
    """The request cannot be carried out until something is changed."""

    code = "refused"
    exit_status = 2
    http_status = 409


class Damaged(FarshoreError):
    """Stored or received data failed its check. Nothing derived from it was used."""

    code = "damaged"
    exit_status = 3
    http_status = 500


class Unreachable(TryLater):
    """A server or store did not answer."""

    code = "unreachable"


class Busy(TryLater):
    """The receiver's spool or queue is full, or it gets too many requests."""

    code = "busy"
    http_status = 429


class Moved(TryLater):
    """Another process server takes over this stream."""

    code = "moved"
    http_status = 421


class NoSpace(TryLater):
    """A disk or store has no room left."""

    code = "no-space"
    http_status = 507


class Malformed(Refused):
    """The input does not match its format."""

    code = "malformed"
    http_status = 400


class NotFound(Refused):
    """The machine, point, job or other object does not exist."""

    code = "not-found"
    http_status = 404


class Forbidden(Refused):
    """The caller is known but lacks the permission."""

    code = "forbidden"
    exit_status = 77
    http_status = 403


class Displaced(Forbidden):
    """Another installation has taken over the vault; this one can only read it."""

    code = "displaced"


class Unauthenticated(Refused):
    """The caller has shown no valid certificate or token."""

    code = "unauthenticated"
    exit_status = 77
    http_status = 401


class WrongState(Refused):
    """The object's state does not allow this now."""

    code = "wrong-state"


class Cancelled(Refused):
    """A user cancelled the job, and its changes were undone."""

    code = "cancelled"


class Fenced(Refused):
    """The epoch was closed by another run of the agent or by a failover."""

    code = "fenced"
    http_status = 410


class Gap(Refused):
    """A batch does not follow the last one; ``expected`` is the sequence that must come next."""

    code = "gap"

    def __init__(self, message: str, *, remedy: str, expected: int) -> None:
        super().__init__(message, remedy=remedy)
        self.expected = expected


class TooSmall(Refused):
    """The target disk or file is too small."""

    code = "too-small"


class WrongKey(Refused):
    """The given key does not open this vault or object."""

    code = "wrong-key"
    exit_status = 77


class Unsupported(Refused):
    """A version, kernel or feature that this release does not support."""

    code = "unsupported"
    http_status = 501


def by_code() -> Dict[str, Type[FarshoreError]]:
    """Return every error class by its code; one without a code of its own is its parent to others."""
    found: Dict[str, Type[FarshoreError]] = {}
    waiting = [FarshoreError]
    while waiting:
        kind = waiting.pop()
        if "code" in vars(kind):
            found[kind.code] = kind
        waiting.extend(kind.__subclasses__())
    return found


def as_error(code: str, message: str, remedy: str) -> FarshoreError:
    """Rebuild the error of another process from its code and texts. An unknown code, or a class that needs more fields,
    becomes TryLater."""
    kind = by_code().get(code, TryLater)
    try:
        return kind(message, remedy=remedy)
    except TypeError:
        return TryLater(message, remedy=remedy)
