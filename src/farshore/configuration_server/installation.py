"""Set an installation up, and repair it: create everything that its folder must hold if it is missing.

Each file is written completely or not at all, and each step checks before it acts, so an interrupted set-up is
completed by the next one. Certificates are renewed when the advertised names change or their end is near.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import re
from pathlib import Path

from cryptography import x509

from farshore.api_types.users import Role
from farshore.catalog import policies, process_servers, users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import UserRow
from farshore.catalog.upgrade import upgrade
from farshore.client.credentials import Credentials, read_private, write_private
from farshore.clock import utc
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.owning import ensure_owner, identity
from farshore.configuration_server.pki import replacement
from farshore.configuration_server.pki.authority import LEAF_DAYS, Authority, general_name
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.pki.replacement import Authorities
from farshore.configuration_server.sealing import KEY_BYTES
from farshore.configuration_server.settings import CREDENTIALS_FILE_NAME, Settings
from farshore.configuration_server.vault_access import ensure_vault, noted
from farshore.model.errors import Malformed, Refused, TryLater
from farshore.model.identifiers import new_id
from farshore.model.ports import Clock
from farshore.protection import master_target_enrolment
from farshore.protection.push.signing import ReleaseKey
from farshore.protection.server_enrolment import normal

log = logging.getLogger(__name__)
RENEW_BEFORE = datetime.timedelta(days=30)
RENEW_AUTHORITY_BEFORE = datetime.timedelta(days=2 * LEAF_DAYS)
"""Every holder of the authority's old certificate renews its own at least once before that ends, and gets the new one
with it."""
ADMIN = "admin"
AUTHORITY_FILE = replacement.SIGNER
SERVER_FILE = "server.json"
SEALING_FILE = "sealing.key"
VAULT_FILE = "vault.json"
"""Which vault is at which place, so that an unmounted disk is not taken for an empty place."""
EXECUTOR_FILE, EXECUTOR = "executor.id", re.compile("[0-9a-f-]{36}")


def set_up(settings: Settings, clock: Clock) -> None:
    """Create or complete an installation."""
    os.umask(0o077)
    settings.home.mkdir(parents=True, exist_ok=True)
    settings.home.chmod(0o700)
    settings.pki.mkdir(exist_ok=True)
    settings.process_server_home.mkdir(exist_ok=True)
    settings.master_target_home.mkdir(exist_ok=True)
    settings.save()
    _ensure_authority(settings, clock)
    _ensure_sealing_key(settings)
    executor(settings)
    release_key(settings).ensure()
    catalog = Catalog(settings.catalog)
    upgrade(catalog.engine)
    issuer = Issuer(load_authorities(settings), clock)
    with catalog.writing() as tx:
        policies.ensure_default(tx)
    _check_names(settings, catalog)
    _ensure_credentials(settings.pki / SERVER_FILE, Kind.SERVER, settings, catalog, issuer, clock)
    process_server = settings.process_server_home / CREDENTIALS_FILE_NAME
    _ensure_credentials(process_server, Kind.PROCESS_SERVER, settings, catalog, issuer, clock)
    _ensure_master_target(settings, catalog, issuer, clock)
    _ensure_admin(settings, catalog, issuer, clock)
    record = settings.home / VAULT_FILE
    known = bool(noted(record, settings.vault))
    generation = identity(settings, catalog).generation
    try:
        opened = ensure_vault(settings.vault, settings.owner_key_file, record, generation)
        ensure_owner(opened, settings, catalog, clock, known=known)
    except TryLater as error:
        if not known:
            raise
        # The servers wait for it, and report that: a host that starts while its store is unreachable must start all the
        # same.
        log.warning("The vault cannot be opened yet: %s", error)
    finally:
        catalog.close()


def load_authorities(settings: Settings) -> Authorities:
    """Return the authorities of an installation. Raises NotFound, Refused, Malformed."""
    return replacement.load(settings.pki)


def load_authority(settings: Settings) -> Authority:
    """Return the signing authority. Raises NotFound, Refused, Malformed."""
    return load_authorities(settings).signer


def load_server_credentials(settings: Settings) -> Credentials:
    """Return the configuration server's own certificate and key."""
    return Credentials.load(settings.pki / SERVER_FILE)


def load_sealing_key(settings: Settings) -> bytes:
    """Return the key with which secrets of running jobs are sealed."""
    return read_private(settings.home / SEALING_FILE)


def executor(settings: Settings) -> str:
    """Return this server's own id among those that share a job database; create it if it is missing. It never changes,
    because interrupted jobs are recorded under it. Raises Malformed."""
    path = settings.home / EXECUTOR_FILE
    if not path.exists():
        write_private(path, f"{new_id()}\n".encode())
    found = path.read_text(errors="replace").strip()
    if not EXECUTOR.fullmatch(found):
        raise Malformed(
            f"{path} does not hold this server's id.",
            remedy="Restore the file. Or delete it, and resume the jobs of the old id: farshore job recover OLD-ID",
        )
    return found


def release_key(settings: Settings) -> ReleaseKey:
    """Return the key that signs the agent's releases."""
    return ReleaseKey(settings.releases, settings.release_key)


def _ensure_authority(settings: Settings, clock: Clock) -> None:
    path = settings.pki / AUTHORITY_FILE
    if not path.exists():
        replacement.save(path, Authority.create("Farshore authority", utc(clock)))
    else:
        renew_authority(settings, load_authority(settings), clock)


def renew_authority(settings: Settings, authority: Authority, clock: Clock) -> Authority | None:
    """Return the authority with a new, stored certificate if the old one's end is near; otherwise None."""
    if authority.ends - utc(clock) > RENEW_AUTHORITY_BEFORE:
        return None
    renewed = authority.renewed(utc(clock))
    replacement.save(settings.pki / AUTHORITY_FILE, renewed)
    return renewed


def _ensure_sealing_key(settings: Settings) -> None:
    path = settings.home / SEALING_FILE
    if not path.exists():
        write_private(path, os.urandom(KEY_BYTES))


def renew(settings: Settings, catalog: Catalog, issuer: Issuer, clock: Clock) -> Credentials | None:
    """Return a new certificate for the running configuration server if the old one's end is near; otherwise None.

    The administrator's is renewed as well; process servers renew their own."""
    path = settings.pki / SERVER_FILE
    before = Credentials.load(path)
    _ensure_credentials(path, Kind.SERVER, settings, catalog, issuer, clock)
    _ensure_admin(settings, catalog, issuer, clock)
    after = Credentials.load(path)
    return None if after.certificate == before.certificate else after


def _ensure_credentials(
    path: Path, kind: Kind, settings: Settings, catalog: Catalog, issuer: Issuer, clock: Clock
) -> None:
    holder = Identity(kind, new_id())
    names = () if kind is Kind.MASTER_TARGET else settings.names  # it does not listen on a port
    if path.exists():
        present = Credentials.load(path)
        certificate = x509.load_pem_x509_certificate(present.certificate.encode())
        good = _is_good(certificate, names, clock) and present.authority == issuer.bundle
        if good and not _is_revoked(certificate, catalog):
            _move(path, present, settings)
            return
        holder = Identity(kind, _holder(certificate))
    with catalog.writing() as tx:
        pem, key = issuer.issue(tx, holder, names)
    Credentials(settings.local_url, issuer.bundle, pem, key).save(path)


def _ensure_master_target(settings: Settings, catalog: Catalog, issuer: Issuer, clock: Clock) -> None:
    """Create the master target's credentials; if none should run, delete the one that did."""
    path = settings.master_target_home / CREDENTIALS_FILE_NAME
    if settings.master_target:
        _ensure_credentials(path, Kind.MASTER_TARGET, settings, catalog, issuer, clock)
    elif path.exists():
        with catalog.writing() as tx:
            master_target_enrolment.leave_out(tx, clock.now())
        path.unlink()


def _ensure_admin(settings: Settings, catalog: Catalog, issuer: Issuer, clock: Clock) -> None:
    """Create the administrator if there is no file. An administrator who was deleted or revoked is not created
    again."""
    path = settings.admin_credentials
    if path.exists():
        present = Credentials.load(path)
        certificate = x509.load_pem_x509_certificate(present.certificate.encode())
        with catalog.reading() as tx:
            gone = users.find(tx, ADMIN) is None
        good = _is_good(certificate, (), clock) and present.authority == issuer.bundle
        if gone or _is_revoked(certificate, catalog) or good:
            _move(path, present, settings)
            return
    with catalog.writing() as tx:
        if users.find(tx, ADMIN) is None:
            users.add(tx, UserRow(name=ADMIN, role=Role.CONTRIBUTOR.value, created=clock.now()))
        pem, key = issuer.issue(tx, Identity(Kind.USER, ADMIN))
    Credentials(settings.local_url, issuer.bundle, pem, key).save(path)


def _move(path: Path, present: Credentials, settings: Settings) -> None:
    """Update the address in the file: the server may have another port now."""
    if present.url != settings.local_url:
        dataclasses.replace(present, url=settings.local_url).save(path)


def _is_good(certificate: x509.Certificate, names: tuple[str, ...], clock: Clock) -> bool:
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasting = certificate.not_valid_after_utc - utc(clock) > RENEW_BEFORE
    return lasting and all(general_name(name) in held for name in names)


def _is_revoked(certificate: x509.Certificate, catalog: Catalog) -> bool:
    with catalog.reading() as tx:
        row = users.certificate(tx, f"{certificate.serial_number:x}")
    return row is not None and bool(row.revoked)


def _names_held(path: Path) -> set[str]:
    """Return the names in the certificate of a credentials file; empty if there is no file."""
    if not path.exists():
        return set()
    certificate = x509.load_pem_x509_certificate(Credentials.load(path).certificate.encode())
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = [*held.get_values_for_type(x509.DNSName), *map(str, held.get_values_for_type(x509.IPAddress))]
    return {normal(name) for name in names}


def _check_names(settings: Settings, catalog: Catalog) -> None:
    """Raise Refused if this server would take a name that an invited process server has a certificate for. Names that
    it already has remain: an installation may be older than this rule, and clients check the role as well."""
    own = {normal(name) for name in settings.names} - _names_held(settings.pki / SERVER_FILE)
    with catalog.reading() as tx:
        for row in process_servers.every(tx):
            taken = own & {normal(name) for name in row.host_names}
            if taken:
                raise Refused(
                    f"{min(taken)} is the name of process server {row.name}.",
                    remedy="Advertise another name for this server, or remove that process server first.",
                )


def _holder(certificate: x509.Certificate) -> str:
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = held.get_values_for_type(x509.UniformResourceIdentifier)
    return str(uri).rpartition("/")[2]
