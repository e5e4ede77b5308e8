"""A vault in Azure Blob, S3, GCS or memory, through obstore. Foreign errors end here.

Conditional puts are single requests, so an object is at most what one request may carry; the vault's objects are
tens of MiB. obstore retries by itself within its retry configuration; what still fails is Unreachable.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from typing import Iterator, Sequence

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from farshore.formats.batch import Buffer
from farshore.model.errors import (
    Busy,
    Damaged,
    FarshoreError,
    Forbidden,
    NoSpace,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)
from farshore.vault.stores.port import Listed

_MORE_ROOM = "Free space there, or raise the account's quota."
COALESCE = 128 << 10
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_FULL = re.compile(r"StorageFull|QuotaExceeded|InsufficientStorage|InsufficientCapacity|QuotaExceed", re.IGNORECASE)
_CAUSES: tuple[tuple[str, type[Forbidden | NotFound | Unsupported | Refused], str, str], ...] = (
    (
        "RequestTimeTooSkewed|RequestExpired|AuthenticationFailed.*time",
        Forbidden,
        "The store refuses the request, for this machine's clock and the store's differ too much",
        "Set the clock of this machine (chronyc tracking, timedatectl).",
    ),
    (
        "ExpiredToken|TokenRefreshRequired|InvalidToken",
        Forbidden,
        "The store's credentials have expired",
        "Renew the session token, or use credentials that are renewed by themselves.",
    ),
    (
        "InvalidObjectState|BlobArchived|ArchivedObject",
        Refused,
        "The store has archived the object, and does not give it out",
        "Restore it from the archive, and keep the vault in a storage class that is read at once.",
    ),
    (
        "NoSuchBucket|ContainerNotFound|InvalidBucketName",
        Refused,
        "There is no such bucket or container",
        "Check the vault's URL; make the bucket, for it is not made here.",
    ),
    (
        "PermanentRedirect|BareRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraintException",
        Refused,
        "The bucket is in another region",
        "Set its region (AWS_REGION) and endpoint.",
    ),
    ("NotImplemented", Unsupported, "The store does not support this", "Use a store with conditional puts."),
)
"""What a store's own code of an error means, the kind of error it is here, and what to do."""


class RemoteStore:
    """A Store (see stores.port) over an obstore object. ``url`` must hold no credentials."""

    def __init__(self, inner: ObjectStore, url: str) -> None:
        self._inner = inner
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def signed(self, name: str, lasting: datetime.timedelta) -> str:
        """An address at which anybody may read the object for so long: a secret. Raises ValueError where the store's
        credentials sign nothing."""
        if not isinstance(self._inner, (AzureStore, S3Store, GCSStore)):
            raise ValueError("the store signs nothing")
        try:
            return obstore.sign(self._inner, "GET", name, lasting)
        except exceptions.BaseError as error:
            raise ValueError("the store's credentials sign nothing") from error

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        with _translated(name):
            obstore.put(self._inner, name, b"".join(buffers), mode="overwrite", use_multipart=False)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        with _translated(name):
            data = b"".join(buffers)
            try:
                obstore.put(self._inner, name, data, mode="create", use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                # It may be ours: the answer to an earlier try of this request was lost, and the library tried again.
                return self._holds(name, data)
            return True

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return (
                obstore.head(self._inner, name)["size"] == len(data) and obstore.get(self._inner, name).bytes() == data
            )
        except (FileNotFoundError, exceptions.NotFoundError):
            return False  # deleted since

    def get(self, name: str) -> Buffer:
        with _translated(name):
            return memoryview(obstore.get(self._inner, name).bytes())

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        with _translated(name):
            return _whole(memoryview(obstore.get_range(self._inner, name, start=start, length=length)), length, name)

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        with _translated(name):
            found = obstore.get_ranges(self._inner, name, starts=starts, lengths=lengths, coalesce=COALESCE)
            return [_whole(memoryview(data), length, name) for data, length in zip(found, lengths, strict=True)]

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        with _translated(prefix):
            last = ""
            for page in obstore.list(self._inner, prefix, offset=after or None, chunk_size=1000):
                for meta in page:
                    if meta["path"] <= last:
                        raise Unsupported("The store lists its objects out of order.", remedy="Use another store.")
                    last = meta["path"]
                    if last <= after:  # not every store begins behind the offset: some ignore it, some include it
                        continue
                    yield Listed(last, meta["size"], int(meta["last_modified"].timestamp() * 1e9))

    def folders(self, prefix: str) -> Sequence[str]:
        with _translated(prefix):
            found = obstore.list_with_delimiter(self._inner, prefix)
            return sorted(folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"])

    def delete(self, name: str) -> None:
        with _translated(name), contextlib.suppress(FileNotFoundError, exceptions.NotFoundError):
            obstore.delete(self._inner, name)


def _whole(view: memoryview, length: int, name: str) -> memoryview:
    if len(view) != length:
        raise Damaged(f"{name} is cut short.", remedy="Run `farshore vault verify`.")
    return view


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, exceptions.NotFoundError) as cause:
        raise _by_code(str(cause)) or NotFound(
            f"{name} is not in the vault.", remedy="Run `farshore vault verify`."
        ) from cause
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as cause:
        raise _by_code(str(cause)) or _refused() from cause
    except (exceptions.NotSupportedError, NotImplementedError) as cause:
        raise Unsupported(
            f"The store does not support this: {cause}", remedy="Use a store with conditional puts."
        ) from cause
    except (exceptions.BaseError, OSError, ValueError) as cause:
        raise _by_status(name, _brief(cause), str(cause)) from cause


def _by_code(whole: str) -> FarshoreError | None:
    """The error that the store's own code names, or None if it is none of those."""
    for codes, kind, message, remedy in _CAUSES:
        found = re.search(rf"\b({codes})\b", whole)
        if found is not None:
            return kind(f"{message} ({found[1][:60]}).", remedy=remedy)
    if _FULL.search(whole):
        return NoSpace("The store is full.", remedy=_MORE_ROOM)
    return None


def _refused() -> Forbidden:
    return Forbidden(
        "The store refuses these credentials.", remedy="Check the account, its key and its rights on the vault."
    )


def _by_status(name: str, brief: str, whole: str) -> FarshoreError:
    """What the library leaves unnamed, by the status that the store answered; with what to do if it does not pass."""
    found = _STATUS.search(whole)
    named = _by_code(whole)
    if named is not None and not isinstance(named, NoSpace):
        return named
    if found is None:
        told = brief.rpartition(" - ")[2]
        return Unreachable(
            f"The store did not answer for {name}: {told}.", remedy="Check the network and the store's address."
        )
    code = _CODE.search(whole)
    status = f"{found[1]} {code[1]}" if code else found[1]
    if found[1] == "507" or _FULL.search(status):
        return NoSpace(f"The store is full ({status}).", remedy=_MORE_ROOM)
    if found[1] == "501":
        return Unsupported(f"The store does not support this ({status}).", remedy="Use a store with conditional puts.")
    if found[1] in ("301", "307"):
        return Refused(
            f"The bucket is in another region ({status}).", remedy="Set its region (AWS_REGION) and endpoint."
        )
    if found[1] == "401" or found[1] == "403":  # of a listing, for one
        return _refused()
    if found[1] in ("429", "503"):
        return Busy(
            f"The store is busy or limits requests ({status}).",
            remedy="The request is retried by itself. If this lasts, raise the account's limits or limit the upload.",
        )
    return Unreachable(
        f"The store returned an error for {name} ({status}).", remedy="Try again, and check the status of the store."
    )


def _brief(cause: Exception) -> str:
    """The first line: what follows can be whole responses."""
    return str(cause).strip().partition("\n")[0][:300]
