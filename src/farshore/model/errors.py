"""What can go wrong, in three families that tell the caller what to do.

``TryLater``: the same call may succeed later. ``Refused``: it will not, until somebody changes something.
``Damaged``: data is not what it should be. Each class has a stable ``code``: the REST problem type, the CLI's
exit status and the page in docs/errors.md follow from it. Every error carries a remedy, one sentence that says
what to do next. Messages never hold secrets.
"""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Optional, Tuple, Type


class FarshoreError(Exception):
    """Base of every error of ours. ``exit_status`` is what a command ends with, ``http_status`` what REST answers."""

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
        """Durable workflows store errors pickled; the keyword arguments would be lost otherwise."""
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(kind: Type[FarshoreError], fields: Dict[str, Any]) -> FarshoreError:
    return kind(fields.pop("message"), **fields)


class TryLater(FarshoreError):
    """A passing condition; ``after`` is how many seconds to wait at least, where that is known."""

    code = "try-later"
    exit_status = 75
    http_status = 503

    def __init__(self, message: str, *, remedy: str, after: Optional[float] = None) -> None:
        super().__init__(message, remedy=remedy)
        self.after = after


class Refused(FarshoreError):
    """The request cannot be carried out as it stands."""

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
    """Back-pressure: the receiver's spool or queue is full."""

    code = "busy"
    http_status = 429


class Moved(TryLater):
    """Another process server takes this stream now, or will in a moment."""

    code = "moved"
    http_status = 421


class NoSpace(TryLater):
    """A disk or store has no room left."""

    code = "no-space"
    http_status = 507


class Malformed(Refused):
    """Input that is not what its format says."""

    code = "malformed"
    http_status = 400


class NotFound(Refused):
    """There is no such machine, point, job …"""

    code = "not-found"
    http_status = 404


class Forbidden(Refused):
    """The caller is known and may not do this."""

    code = "forbidden"
    exit_status = 77
    http_status = 403


class Displaced(Forbidden):
    """Another installation has taken the vault over; this one may read it and not write to it."""

    code = "displaced"


class Unauthenticated(Refused):
    """The caller showed no certificate or token that we accept."""

    code = "unauthenticated"
    exit_status = 77
    http_status = 401


class WrongState(Refused):
    """The thing exists, but its state does not allow this now."""

    code = "wrong-state"


class Cancelled(Refused):
    """Somebody asked for an end of this; what it had done was undone."""

    code = "cancelled"


class Fenced(Refused):
    """The epoch is closed: another run of the agent, or a failover, has taken its place."""

    code = "fenced"
    http_status = 410


class Gap(Refused):
    """A batch does not follow the last one; ``expected`` is the sequence that must come next."""

    code = "gap"

    def __init__(self, message: str, *, remedy: str, expected: int) -> None:
        super().__init__(message, remedy=remedy)
        self.expected = expected


class TooSmall(Refused):
    """A disk or file is too small for what is to be written to it."""

    code = "too-small"


class WrongKey(Refused):
    """The key given does not open this vault or object."""

    code = "wrong-key"
    exit_status = 77


class Unsupported(Refused):
    """A version, kernel or feature that this release does not know."""

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
    """Return the error that another process ended with, by its code and words. What is not known, or has fields of its
    own, is TryLater: its text says it all."""
    kind = by_code().get(code, TryLater)
    try:
        return kind(message, remedy=remedy)
    except TypeError:
        return TryLater(message, remedy=remedy)
