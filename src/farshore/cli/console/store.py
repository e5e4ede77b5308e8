"""Where the appliance's vault is: its URL, and the store's credentials in the form that the store's own tools read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from farshore.cli.console.terminal import Terminal
from farshore.model.errors import Malformed

LOCAL = "local"
_BUCKET = re.compile(r"(s3|az)://[A-Za-z0-9][A-Za-z0-9._/-]{0,255}")
_VALUE = re.compile(r"[\x21\x23-\x26\x28-\x5b\x5d-\x7e]{0,1000}")
"""The values that systemd's EnvironmentFile reads unchanged: no space, quote, backslash or control character."""


@dataclass(frozen=True)
class Store:
    """``url`` is empty for a folder on the appliance itself."""

    url: str = ""
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    def environment_file(self) -> str:
        """Return the file /etc/farshore/store.env."""
        return "".join(f"{name}={value}\n" for name, value in self.environment.items() if value)


def ask_store(terminal: Terminal) -> Store:
    """Ask for the URL, and for what a store of its kind needs."""
    terminal.say("Vault")
    url = terminal.ask("  s3://BUCKET, az://CONTAINER, or local (for a trial)", parse_url, LOCAL)
    if url.startswith("s3:"):
        return Store(url, _ask_s3(terminal))
    if url.startswith("az:"):
        account = terminal.ask("  Storage account", parse_value)
        return Store(
            url, {"AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": _secret(terminal, "  Its key")}
        )
    return Store()


def _ask_s3(terminal: Terminal) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": terminal.ask("  Endpoint (empty: Amazon's own)", parse_value),
        "AWS_REGION": terminal.ask("  Region", parse_value, "us-east-1"),
        "AWS_ACCESS_KEY_ID": terminal.ask("  Access key", parse_value),
        "AWS_SECRET_ACCESS_KEY": _secret(terminal, "  Secret key"),
    }


def _secret(terminal: Terminal, question: str) -> str:
    while True:
        try:
            return parse_value(terminal.ask_secret(question))
        except Malformed as error:
            terminal.say(f"  {error.message} {error.remedy}")


def parse_url(text: str) -> str:
    """Parse ``local``, or the URL of a bucket or container. Raises Malformed."""
    if text != LOCAL and not _BUCKET.fullmatch(text):
        raise Malformed(
            "This console cannot set up such a vault.",
            remedy="For other stores, install Farshore on your own host: docs/operate/install.md.",
        )
    return text


def parse_value(text: str) -> str:
    """Check that a value fits on one line of an environment file, and return it. Raises Malformed."""
    if not _VALUE.fullmatch(text):
        raise Malformed(
            "The value has a character that cannot be stored.", remedy="Leave out spaces, quotes and backslashes."
        )
    return text
