"""A VMware server that was taken over: what it answers cannot fill this host's memory, end a server's work, drive the
terminal of whoever looks, lead to another place on a disk, or get a secret once its certificate is another one."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pyVmomi import vim
from tests.scenarios.vsphere.test_discovery import change, following, login_to
from tests.unit.configuration_server.offices import Office
from tests.vcenter.running import GUEST_PASSWORD, PASSWORD, USER, Vcenter, vcenter
from tests.waiting import until

from farshore.api_types.users import Role
from farshore.api_types.vmware import VmwareServerRequest
from farshore.catalog import vmware
from farshore.configuration_server.discoveries import login_at, try_login
from farshore.model.errors import FarshoreError, Refused, TryLater, Unreachable, WrongKey
from farshore.sites.vsphere import devices
from farshore.vsphere.certificates import look
from farshore.vsphere.disks import disks_of
from farshore.vsphere.guest import Guest
from farshore.vsphere.session import session

CONTROL = set(map(chr, (*range(32), *range(127, 160))))
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    with vcenter(tmp_path_factory.mktemp("vcenter"), 2, guest="sh -c") as running:
        yield running


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


def asked(server: Vcenter) -> VmwareServerRequest:
    return VmwareServerRequest(
        name="dc1",
        host=server.host,
        port=server.port,
        user=USER,
        password=PASSWORD,
        fingerprint=look(server.host, server.port).fingerprint,
    )


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("kind", ["endless", "bomb", "odd", "cookie"])
@pytest.mark.parametrize("method", ["RetrieveServiceContent", "Login", "HasPrivilegeOnEntities"])
def test_an_answer_of_no_good_ends_the_login_alone(server: Vcenter, method: str, kind: str) -> None:
    before = peak_mib()
    server.fault(method, kind)
    with pytest.raises(TryLater) as refused:
        try_login(asked(server))
    assert not CONTROL & set(str(refused.value))
    # An object of the SDK's for each element is what an answer costs.
    assert peak_mib() - before < 2048
    try_login(asked(server))


@pytest.mark.parametrize("kind", ["endless", "bomb", "odd", "cookie"])
def test_discovery_goes_on_afterwards(server: Vcenter, kind: str) -> None:
    server.fault("WaitForUpdatesEx", kind)
    with following(login_to(server)) as kept:
        until(lambda: kept.wholes)
    assert len(kept.errors) == 1
    assert isinstance(kept.errors[0], TryLater)


def test_what_it_calls_itself_drives_no_terminal(server: Vcenter, office: Office) -> None:
    server.fault("RetrieveServiceContent", "terminal")
    request = asked(server)
    body = {**request.model_dump(mode="json"), "password": PASSWORD}
    answer = office.call("POST", "/v1/vmware", body, office.user("ann", Role.CONTRIBUTOR))
    assert answer.status == 201
    assert "VMware vCenter Server" in answer.body["product"]
    assert not CONTROL & set(answer.body["product"])
    assert PASSWORD not in str(answer.body)


def test_a_certificate_that_changed_under_way_gets_nothing(tmp_path: Path) -> None:
    """A session is open; the next connection meets another server at that address."""
    with vcenter(tmp_path, 1, guest="sh -c") as server, session(login_to(server)) as opened:
        machine = opened.content.rootFolder.childEntity[0].vmFolder.childEntity[0]._moId
        guest = Guest(opened, machine, "web1", "root", GUEST_PASSWORD)
        assert guest.run("echo here", b"", 60).output == b"here\n"
        server.stop()
        (tmp_path / "vcenter.pem").unlink()
        server.start()
        for act in (lambda: guest.put("/tmp/x", b"secret"), opened.missing):
            opened.stub.DropConnections()
            with pytest.raises(WrongKey, match="not the pinned one"):
                act()
        with pytest.raises(Unreachable):
            guest._transfer("PUT", "https://*/guestFile?token=1", b"secret")
        assert server.calls() == {}, "not a byte of a request came to it"


@pytest.mark.parametrize("url", ["https://[::1/x", "https://h:99999/x", "https://h/\r\nX-Header: y", "https://h/é"])
def test_an_address_for_a_file_that_is_none(server: Vcenter, url: str) -> None:
    with session(login_to(server)) as opened, pytest.raises(TryLater, match="returned an invalid URL for a file"):
        Guest(opened, "vm-1", "web1", "root", GUEST_PASSWORD)._transfer("GET", url, b"")


def test_a_disk_leads_nowhere_but_to_the_folder_of_disks(
    server: Vcenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Datastore paths and UUIDs are the server's words: neither names a file here."""
    path = "[LocalDS_0] ../../../../etc/passwd"
    described = vim.vm.device.VirtualDisk.FlatVer2BackingInfo

    def hostile(machine: object, _centre: object) -> None:
        with session(login_to(server)) as opened:
            found = opened.content.rootFolder.childEntity[0].vmFolder.childEntity[0]
            (disk,) = [one for one in found.config.hardware.device if isinstance(one, vim.vm.device.VirtualDisk)]
            assert isinstance(disk.backing, described)
            disk.backing.uuid, disk.backing.fileName = "../../../etc/passwd", path
            monkeypatch.setattr("farshore.vsphere.disks.read", lambda *_: {"config.hardware.device": [disk]})
            (told,) = disks_of(opened, found._moId)
            assert set(told.uuid) <= set("0123456789abcdef")
            assert told.file == path

    change(server, hostile)
    monkeypatch.setattr(devices, "_SECONDS", 0.0)
    (tmp_path / "passwd").touch()
    inside = tmp_path / "disks"
    inside.mkdir()
    with pytest.raises(FarshoreError):
        devices.device_of(inside, "../passwd")
    with pytest.raises(Refused):
        devices.device_of(inside, "")


@contextlib.contextmanager
def showing(certificate: bytes, key: bytes, folder: Path) -> Iterator[int]:
    """A port that shows this certificate."""
    (folder / "shown.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "shown.pem")
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listening.accept()
                with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(60)


@pytest.mark.parametrize("odd", ["never", "terminal", "version"])
def test_an_odd_certificate_is_shown_all_the_same(office: Office, tmp_path: Path, odd: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vc\x1b[2J" if odd == "terminal" else "vc")])
    now = datetime.now(UTC)
    ends = datetime(9999, 12, 31, tzinfo=UTC) if odd == "never" else now + timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(ends)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    if odd == "version":
        der = ssl.PEM_cert_to_DER_cert(pem.decode())
        version = bytes.fromhex("a003020102")
        assert version in der
        pem = ssl.DER_cert_to_PEM_cert(der.replace(version, bytes.fromhex("a003020108"), 1)).encode()
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    with showing(pem, secret, tmp_path) as port:
        answer = office.call(
            "POST", "/v1/vmware-certificates", {"host": "127.0.0.1", "port": port}, office.user("ann", Role.CONTRIBUTOR)
        )
    assert answer.status == 200, answer.body
    assert len(answer.body["fingerprint"]) == 95
    assert not CONTROL & set(answer.body["subject"])
    assert answer.body["expires"] == ((1 << 63) - 1 if odd == "never" else answer.body["expires"])


def test_a_secret_of_one_server_is_none_of_another(office: Office, server: Vcenter) -> None:
    """Whoever can write to the catalog cannot let one server's password be sent to another one."""
    body = {**asked(server).model_dump(mode="json"), "password": PASSWORD}
    ann = office.user("ann", Role.CONTRIBUTOR)
    assert office.call("POST", "/v1/vmware", body, ann).status == 201
    with office.services.catalog.writing() as tx:
        row = vmware.server(tx, "dc1")
        row.name = "dc2"
    with pytest.raises(WrongKey):
        login_at(office.services.catalog, office.services.sealer, "dc2")
