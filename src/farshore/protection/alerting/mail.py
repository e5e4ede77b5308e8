"""E-mail by SMTP."""

from __future__ import annotations

import contextlib
import email.policy
import email.utils
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path

from farshore.api_types.sites import Setting
from farshore.model.errors import FarshoreError, Malformed, Refused, Unreachable
from farshore.protection.alerting.message import Message
from farshore.protection.alerting.port import WantedSetting, checked

_SECONDS = 15.0
_PORTS = {"tls": 465, "starttls": 587, "none": 25}
_WANTED = {
    "host": WantedSetting(str),
    "to": WantedSetting(str),
    "from": WantedSetting(str),
    "encryption": WantedSetting(str, "starttls"),
    "port": WantedSetting(int, 0),
    "user": WantedSetting(str, ""),
    "ca": WantedSetting(str, ""),
}


class Mail:
    """``encryption``: starttls (the default), tls or none. ``ca``: a PEM file on the server, for a mail server whose
    certificate no public authority signed. ``to``: addresses separated by commas."""

    def __init__(self, settings: Mapping[str, Setting], secret: str) -> None:
        found = checked(settings, _WANTED)
        self._host, self._user, self._ca = str(found["host"]), str(found["user"]), str(found["ca"])
        self._encryption = str(found["encryption"])
        if self._encryption not in _PORTS:
            raise Malformed(f"encryption={self._encryption} is not valid.", remedy=f"Choose of: {', '.join(_PORTS)}.")
        self._port = int(found["port"]) or _PORTS[self._encryption]
        self._from = _addresses(str(found["from"]), "from")[0]
        self._to = _addresses(str(found["to"]), "to")
        self._password = secret.strip("\r\n")
        if bool(self._user) != bool(self._password):
            raise Malformed(
                "A user needs a password, and a password needs a user.",
                remedy="Give --setting user=… and --secret-file.",
            )
        if self._password and self._encryption == "none":
            raise Malformed(
                "The password would be sent unencrypted.", remedy="Use encryption=starttls or encryption=tls."
            )

    def send(self, message: Message) -> str:
        """As in the port."""
        mail = EmailMessage(policy=email.policy.SMTP)
        mail["Subject"] = message.title()
        mail["From"] = self._from
        mail["To"] = ", ".join(self._to)
        mail["Date"] = email.utils.formatdate(message.time / 1e9)
        mail["Message-ID"] = email.utils.make_msgid(domain=self._from.rpartition("@")[2])
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text())
        with self._explained(), self._connected() as server:
            refused = server.send_message(mail, self._from, self._to)
        return f"{self._host} does not take mail for {', '.join(sorted(refused))}." if refused else ""

    @contextlib.contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context(cafile=str(Path(self._ca)) if self._ca else None)
        if self._encryption == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, timeout=_SECONDS, context=context)
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=_SECONDS)
        with server:
            if self._encryption == "starttls":
                server.starttls(context=context)
            if self._user:
                server.login(self._user, self._password)
            yield server

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        at = f"The mail server {self._host}:{self._port}"
        try:
            yield
        except FarshoreError:
            raise
        except smtplib.SMTPAuthenticationError as error:
            raise Refused(
                f"{at} does not accept the login of {self._user} ({error.smtp_code}).",
                remedy="Correct the user and password.",
            ) from error
        except smtplib.SMTPRecipientsRefused as error:
            raise Refused(
                f"{at} does not accept mail for {', '.join(sorted(error.recipients))}.",
                remedy="Correct the addresses, or let the mail server accept them.",
            ) from error
        except smtplib.SMTPNotSupportedError as error:
            raise Refused(
                f"{at} does not support a required feature ({error}).", remedy="Use another encryption or port."
            ) from error
        except smtplib.SMTPResponseException as error:
            words = (
                error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
            )
            kind = Unreachable if 400 <= error.smtp_code < 500 else Refused
            raise kind(f"{at} answered {error.smtp_code} {words[:200]}", remedy="See the mail server's log.") from error
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"{at} shows a certificate that is not trusted ({error.verify_message}).",
                remedy="Use the name in its certificate, or give the file of its authority: --setting ca=PATH",
            ) from error
        except (OSError, smtplib.SMTPException) as error:
            raise Unreachable(f"{at} does not answer ({error}).", remedy="Check host, port and firewall.") from error


def _addresses(text: str, what: str) -> list[str]:
    found = [address for _name, address in email.utils.getaddresses([text])]
    if (
        not found
        or not text.isprintable()
        or any(one.count("@") != 1 or not one.isprintable() or " " in one for one in found)
    ):
        raise Malformed(f"{what}={text} is not an e-mail address.", remedy="Write it as name@example.com.")
    return found
