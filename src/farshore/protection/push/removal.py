"""Remove the mobility service from a machine by SSH, if its agent does not do so itself. May be repeated."""

from __future__ import annotations

import asyncio

from cryptography import x509

from farshore.api_types.body import clean_line
from farshore.model.errors import Refused
from farshore.protection.installation import Reporter, SshTarget, TakenOff
from farshore.protection.push.bundle import UNIT
from farshore.protection.push.ssh import connect

_WHOSE = """\
cd /var/lib/farshore-mobility 2>/dev/null || exit 0
[ -e credentials.json ] || exit 0
program=$(readlink -f /opt/farshore/current/bin/farshore-mobility)
python=$(head -n 1 "$program" 2>/dev/null | sed -n 's/^#!.* \\(python[0-9.]*\\) -I$/\\1/p')
"${python:-python3}" -I -c 'import json; print(json.load(open("credentials.json"))["certificate"])'
"""
_REMOVE = f"""\
systemctl disable --now --quiet {UNIT} 2>/dev/null
rm -f /etc/systemd/system/{UNIT}
systemctl daemon-reload
rm -rf /opt/farshore/releases /opt/farshore/current /opt/farshore/.current /var/lib/farshore-mobility
rm -rf /run/farshore-mobility
rm -f /etc/farshore/mobility.conf
rmdir /opt/farshore /etc/farshore/app-consistent.d /etc/farshore 2>/dev/null
for place in /etc/systemd/system/{UNIT} /opt/farshore /etc/farshore /var/lib/farshore-mobility; do
  [ -e "$place" ] && echo "$place: $(ls -A "$place" | head -n 5 | tr '\\n' ' ')"
done
systemctl is-active --quiet {UNIT} && echo "{UNIT}: it still runs"
exit 0
"""


class PushRemover:
    """A protection.installation.Remover."""

    def __call__(self, target: SshTarget, machine: str, report: Reporter) -> TakenOff:
        """See Remover."""
        return asyncio.run(self._remove(target, machine, report))

    async def _remove(self, target: SshTarget, machine: str, report: Reporter) -> TakenOff:
        report(0.0, f"connecting to {target.host}")
        async with connect(target) as shell:
            certificate = (await shell.run(_WHOSE, "Checking which machine's agent is installed")).strip()
            if certificate and machine not in _names(certificate):
                raise Refused(
                    f"The agent on {target.host} belongs to another machine.",
                    remedy="Give the machine's own address with --host.",
                )
            report(0.5, "removing the mobility service")
            said = await shell.run(_REMOVE, "Removing the mobility service")
            return TakenOff(
                shell.fingerprint, tuple(clean_line(line).strip() for line in said.splitlines() if line.strip())
            )


def _names(certificate: str) -> list[str]:
    """Return the ids of machines that a certificate names; none for an invalid certificate."""
    try:
        found = x509.load_pem_x509_certificate(certificate.encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return []
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return [uri.rpartition("/")[2] for uri in uris]
