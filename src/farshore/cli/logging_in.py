"""SSH logins for the server: a private key, or a password that is prompted for and never an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from farshore.model.errors import Malformed, NotFound

SshKey = Annotated[
    Path | None,
    typer.Option(help="Private key file for SSH. Prompts for its passphrase if it has one.", show_default=False),
]
Password = Annotated[bool, typer.Option("--password", help="Log in with a password, which is prompted for.")]
Account = Annotated[str, typer.Option(help="Push account to log in with: see `farshore account list`.")]
User = Annotated[str, typer.Option(help="SSH user: root, or one with passwordless sudo.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="SSH port.")]
Jump = Annotated[str, typer.Option(help="Jump host, [USER@]HOST[:PORT]. Uses the same key or password.")]
HostKey = Annotated[
    str, typer.Option(help="Expected host key fingerprint, SHA256:… Default: trust the key on first use.")
]


def credentials(ssh_key: Path | None, password: bool, account: str = "") -> tuple[str, SecretStr]:
    """Return the private key and the password, one of them empty, or both if a push account is named. Prompts for the
    key's passphrase and removes it from the key. Raises Malformed, NotFound."""
    given = (ssh_key is not None) + password + bool(account)
    if given != 1:
        raise Malformed(
            "Give only one way to log in by SSH." if given else "No way to log in by SSH was given.",
            remedy="Give one of --ssh-key FILE, --password (which prompts), --account NAME and --ssh-agent.",
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
            f"The encryption of {file} is not supported ({error}).",
            remedy="Copy the key, convert the copy (ssh-keygen -p -m PKCS8 -f COPY), and give the copy.",
        ) from error
    except (ValueError, TypeError) as error:
        raise Malformed(
            f"{file} cannot be opened with this passphrase.", remedy="Try again, or give another key."
        ) from error
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, plain).decode()


def _has_passphrase(text: bytes) -> bool:
    """Return whether a key is encrypted. The server refuses a file that is not a key."""
    try:
        load = serialization.load_ssh_private_key if b"OPENSSH" in text else serialization.load_pem_private_key
        load(text, None)
    except TypeError:  # both are raised if a passphrase is needed
        return True
    except (ValueError, UnsupportedAlgorithm):
        return b"ENCRYPTED" in text
    return False
