"""Create machines at a VMware server, with empty disks or with uploaded ones. Uploads use the server's own import: a
lease, under which each disk is sent as a stream-optimised VMDK to the host that will store it.

A machine whose disks did not arrive completely is destroyed. A lease expires if nobody reports progress.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyVmomi import vim

from farshore.model.errors import FarshoreError, Refused, TryLater, Unreachable
from farshore.vsphere.building import NewMachine, machine_spec
from farshore.vsphere.certificates import context_for, place_of
from farshore.vsphere.faults import of_server, translated
from farshore.vsphere.placing import Places
from farshore.vsphere.session import Session
from farshore.vsphere.tasks import finished

_SECONDS = 600.0
_READY_SECONDS = 300.0
_BLOCK = 1 << 20
_TELL_EVERY = 20.0
_STATE = vim.HttpNfcLease.State


def make(session: Session, places: Places, wanted: NewMachine) -> str:
    """Create a machine with empty disks, off. Return its id. Raises as ``finished``."""
    with translated(session.host):
        task = places.folder.CreateVM_Task(machine_spec(wanted), places.pool, places.host)
    return str(finished(session, task, _SECONDS)._moId)


def make_with(session: Session, places: Places, wanted: NewMachine, images: Sequence[Path]) -> None:
    """Create a machine whose disks are these stream-optimised VMDKs, in the order of ``wanted.disks``. Raises
    Unreachable, Refused, and as ``translated``; then the caller must look for remains."""
    spec = vim.vm.VmImportSpec(configSpec=machine_spec(wanted))
    with translated(session.host):
        lease = places.pool.ImportVApp(spec, places.folder, places.host)
    try:
        _await_ready(session, lease)
        _send_all(session, lease, images)
        with translated(session.host):
            lease.HttpNfcLeaseComplete()
    except BaseException:
        _abort(session, lease)
        raise


def _await_ready(session: Session, lease: Any) -> None:
    end = time.monotonic() + _READY_SECONDS
    while True:
        with translated(session.host):
            state, error = lease.state, lease.error if lease.state == _STATE.error else None
        if error is not None:
            raise of_server(session.host, error)
        if state == _STATE.ready:
            return
        if time.monotonic() > end:
            raise TryLater(f"{session.host} did not prepare the import.", remedy="This is retried automatically.")
        time.sleep(0.5)


def _send_all(session: Session, lease: Any, images: Sequence[Path]) -> None:
    with translated(session.host):
        urls = [one for one in lease.info.deviceUrl or [] if one.disk]
    if len(urls) != len(images):
        raise Refused(
            f"{session.host} requests {len(urls)} disks, but the machine has {len(images)}.",
            remedy="Report it, with the server's version.",
        )
    whole, before = sum(image.stat().st_size for image in images) or 1, 0
    with _Kept(session, lease) as kept:
        for target, image in zip(urls, images, strict=True):
            _send(session, target, image, lambda sent, before=before: kept.tell((before + sent) * 100 // whole))
            before += image.stat().st_size


class _Kept:
    """Keeps a lease alive by reporting the progress of the import. It uses its own stub of the session, because calls
    on one stub take turns."""

    def __init__(self, session: Session, lease: Any) -> None:
        self._percent, self._ended = 0, threading.Event()
        self._stub = session.beside(_TELL_EVERY)
        self._lease = vim.HttpNfcLease(lease._moId, self._stub)
        self._thread = threading.Thread(target=self._keep, name="nfc lease", daemon=True)

    def __enter__(self) -> _Kept:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._stub.DropConnections()

    def tell(self, percent: int) -> None:
        """Report the percentage that was sent."""
        self._percent = min(100, percent)

    def _keep(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # the transfer itself reports what is wrong
                self._lease.HttpNfcLeaseProgress(self._percent)
            if self._ended.wait(_TELL_EVERY):
                return


def _send(session: Session, target: Any, image: Path, sent: Any) -> None:
    """Send one disk to the host that asks for it; ``*`` is the server itself. A host has its own certificate, whose
    SHA-1 thumbprint the server has told us."""
    host, port, path = place_of(str(target.url), session.host)
    if host == "*":
        host, port = session.host, session.login.port
    context = context_for(session.login.certificate) if host == session.host else _by_thumbprint()
    connection = http.client.HTTPSConnection(host, port, timeout=120.0, context=context)
    try:
        connection.connect()
        if host != session.host:
            _check(connection, host, str(target.sslThumbprint or ""))
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/x-vnd.vmware-streamVmdk")
        connection.putheader("Content-Length", str(image.stat().st_size))
        connection.endheaders()
        with image.open("rb") as file:
            done = 0
            while block := file.read(_BLOCK):
                connection.send(block)
                done += len(block)
                sent(done)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(
            f"{host} interrupted the import of a disk ({error}).",
            remedy=f"Open TCP port {port} from here to {host}, and check that it has free space.",
        ) from error
    finally:
        connection.close()
    if answer.status not in (200, 201):
        raise Unreachable(
            f"{host} refused a disk ({answer.status} {answer.reason}).", remedy="Check the host's events."
        )


def _by_thumbprint() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # compared before a byte is sent
    return context


def _check(connection: http.client.HTTPSConnection, host: str, thumbprint: str) -> None:
    shown = hashlib.sha1(connection.sock.getpeercert(binary_form=True) or b"", usedforsecurity=False).hexdigest()
    if shown.lower() != thumbprint.replace(":", "").lower():
        raise Refused(
            f"{host} shows another certificate than its vCenter knows for it.",
            remedy="Check that no proxy is in between. Then reconnect the host in vCenter.",
        )


def _abort(session: Session, lease: Any) -> None:
    """Abort the lease, so that the server removes what it had made."""
    try:
        with translated(session.host):
            lease.HttpNfcLeaseAbort()
    except FarshoreError:
        return  # it expires by itself
