"""How the server is to log in to a machine by SSH: a private key, or a password, asked for and never an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from farshore.model.errors import Malformed, NotFound

SshKey = Annotated[
    Path | None, typer.Option(help="Private key for SSH; a passphrase is asked for.", show_default=False)
]
Password = Annotated[bool, typer.Option("--password", help="Ask for a password instead of a key.")]
Account = Annotated[str, typer.Option(help="Log in as this push account: see `farshore account`.")]
User = Annotated[str, typer.Option(help="root, or a user with sudo without a password.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="SSH port.")]
Jump = Annotated[str, typer.Option(help="[USER@]HOST[:PORT] in between; the same key or password.")]
HostKey = Annotated[str, typer.Option(help="Pin the host's key: SHA256:… Empty: trust the first contact.")]


def credentials(ssh_key: Path | None, password: bool, account: str = "") -> tuple[str, SecretStr]:
    """The private key and the password, one of them empty; both if a push account is named. A passphrase of the key is
    asked for, and what is sent has none. Raises Malformed, NotFound."""
    given = (ssh_key is not None) + password + bool(account)
    if given != 1:
        raise Malformed(
            "SSH needs one way to log in." if given else "SSH needs a way to log in.",
            remedy="Give one of --ssh-key FILE, --password (it is asked for), --account NAME and --ssh-agent.",
        )
    if password:
        return "", SecretStr(typer.prompt("Password", hide_input=True, err=True))
    return ("" if ssh_key is None else _key(ssh_key)), SecretStr("")


def _key(file: Path) -> str:
    try:
        text = file.expanduser().read_bytes()
    except OSError as error:
        raise NotFound(f"{file} cannot be read ({error.strerror}).", remedy="Give a private key file.") from error
    if not _has_passphrase(text):
        return text.decode(errors="replace")
    passphrase = typer.prompt(f"Passphrase of {file}", hide_input=True, err=True).encode()
    try:
        load = serialization.load_ssh_private_key if b"OPENSSH" in text else serialization.load_pem_private_key
        key = load(text, passphrase)
    except UnsupportedAlgorithm as error:  # OpenSSH's own form needs the module bcrypt
        raise Malformed(
            f"The passphrase of {file} cannot be used here ({error}).",
            remedy="Write a copy of the key in another form, ssh-keygen -p -m PKCS8 -f COPY, and give that.",
        ) from error
    except (ValueError, TypeError) as error:
        raise Malformed(
            f"{file} does not open with this passphrase.", remedy="Try again, or give another key."
        ) from error
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, plain).decode()


def _has_passphrase(text: bytes) -> bool:
    """Whether a key is closed. What is no key at all is the server's to refuse."""
    try:
        load = serialization.load_ssh_private_key if b"OPENSSH" in text else serialization.load_pem_private_key
        load(text, None)
    except TypeError:  # what both raise where a passphrase is needed
        return True
    except (ValueError, UnsupportedAlgorithm):
        return b"ENCRYPTED" in text
    return False
