"""Disks that are served over TLS: to the machine that they were delivered for, at the same place after a restart of
the export, and to nobody else, whatever is shown."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.guests import POLITE, SIZE, image
from tests.contract.places import short_folder
from tests.loopdisks import require_root
from tests.scenarios.recovery.test_media import runs_from
from tests.unit.export.test_negotiation import tls_is_due

from farshore.delivery import served
from farshore.delivery.access import drop, make, reached_at
from farshore.delivery.port import Consignment
from farshore.delivery.served import ServedDelivery
from farshore.export.launch import ExportLauncher
from farshore.export.nbd import wire
from farshore.export.settings import ExportSettings, FileDisk
from farshore.model.errors import NotFound, Refused
from farshore.model.identifiers import DiskNumber
from farshore.sites.port import ServedDisk, TcpAddress, TlsAccess, Way

pytestmark = pytest.mark.root
ADDRESS = "127.0.0.3"
MINE, ANOTHER = "6f1c52c1-3a64-4bb5-9d0c-000000000001", "6f1c52c1-3a64-4bb5-9d0c-000000000002"


class Shore:
    """A consignment of one disk, served at ADDRESS by an export process."""

    def __init__(self, folder: Path, code: bytes, patch: pytest.MonkeyPatch) -> None:
        self.disk = image(folder / "disk", code)
        made = served.export_settings

        def of_the_file(consignment: Consignment) -> ExportSettings:
            settings = made(consignment)
            (one,) = settings.disks
            return settings.model_copy(update={"disks": (one.model_copy(update={"source": FileDisk(path=self.disk)}),)})

        patch.setattr(served, "export_settings", of_the_file)
        sizes = {DiskNumber(0): SIZE}
        self.consignment = Consignment(folder / "f" / MINE, "web1", "m", "1:1", sizes, "memory:///", "", ADDRESS)
        self.exports = ExportLauncher()
        self.delivery = ServedDelivery(self.exports)
        self.delivery.deliver(self.consignment, lambda *_: None)

    @property
    def medium(self) -> ServedDisk:
        found = self.delivery.media(self.consignment)[DiskNumber(0)]
        assert isinstance(found, ServedDisk)
        return found

    @property
    def address(self) -> TcpAddress:
        assert isinstance(self.medium.address, TcpAddress)
        return self.medium.address


@pytest.fixture
def shore(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shore]:
    require_root()
    with short_folder() as folder:
        made = Shore(folder, POLITE, monkeypatch)
        yield made
        made.exports.stop(made.consignment.folder)


def read(address: TcpAddress, access: TlsAccess | None, target: Path) -> str:
    """Copy export 0; what the client complained of, "" if nothing."""
    node = {"driver": "nbd", "export": "0", "server": {"type": "inet", "host": address.host, "port": str(address.port)}}
    shown: list[str] = []
    if access is not None:
        node |= {"tls-creds": "tls", "tls-hostname": access.name}
        shown = ["--object", f"tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir={access.folder}"]
    command = ["qemu-img", "convert", *shown, "-O", "raw", "json:" + json.dumps(node), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def first_word(address: TcpAddress, trusted: TlsAccess, shown: TlsAccess) -> bytes:
    """What the export answers to a question over TLS, by a client that looks at nothing of its own."""
    context = ssl.create_default_context(cafile=trusted.folder / "ca-cert.pem")
    context.load_cert_chain(shown.folder / "client-cert.pem", shown.folder / "client-key.pem")
    with socket.create_connection((address.host, address.port), timeout=60) as peer:
        tls_is_due(peer)
        with context.wrap_socket(peer, server_hostname=trusted.name) as tls:
            tls.sendall(struct.pack(">QII", wire.OPTION_MAGIC, wire.Option.LIST, 0))
            return tls.recv(4)


def test_the_machine_runs_from_it_and_still_does_when_the_export_was_started_anew(shore: Shore) -> None:
    runs_from(shore.medium, Way.SERVED)
    before = shore.address
    shore.exports.stop(shore.consignment.folder)
    assert not shore.delivery.stands(shore.consignment.folder)
    shore.delivery.restore(shore.consignment)
    assert shore.address == before
    runs_from(shore.medium, Way.SERVED)


def test_it_opens_to_its_own_certificate_alone(shore: Shore, tmp_path: Path) -> None:
    own, target = shore.address.tls, tmp_path / "copy"
    assert own is not None
    assert read(shore.address, own, target) == ""
    assert target.read_bytes() == shore.disk.read_bytes()
    # Another failover's certificate, of an authority that signs in the same way.
    other = tmp_path / "g" / ANOTHER
    other.mkdir(parents=True)
    make(other, ADDRESS)
    stranger = reached_at(other, ADDRESS).tls
    assert stranger is not None
    assert first_word(shore.address, own, own)
    with pytest.raises(ssl.SSLError, match="unknown ca"):  # the export's own answer
        first_word(shore.address, own, stranger)
    # A server that is another failover's is not believed, whatever its address.
    assert "does not match" in read(shore.address, TlsAccess(own.folder, stranger.name), target)
    assert read(shore.address, None, target)


def test_nothing_is_said_in_clear(shore: Shore) -> None:
    with socket.create_connection((shore.address.host, shore.address.port), timeout=90) as peer:
        tls_is_due(peer)
        # What follows the last word in clear counts for nothing.
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while peer.recv(4096):
            pass


def test_keys_are_made_once_and_go_with_the_consignment(shore: Shore) -> None:
    folder = shore.consignment.folder
    assert not [
        path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077 and "tls" in str(path)
    ]
    shore.delivery.withdraw(folder)
    assert not (folder / "tls").exists()
    with pytest.raises(NotFound):
        shore.delivery.media(shore.consignment)
    drop(folder)
    with pytest.raises(Refused, match=r"cannot be served at 192\.0\.2\.1"):
        make(folder, "192.0.2.1")
