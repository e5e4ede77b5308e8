"""Allow SSH after the failover, if the target asks for it: enable the service, and open its port in the guest's
firewall. Only enabled firewalls matter; each has its own file."""

from __future__ import annotations

import re

from farshore.export.preparation.edits import Edits

_UNITS = "/etc/systemd/system"
_SHIPPED = ("/lib/systemd/system", "/usr/lib/systemd/system")
_SERVICES = ("ssh.service", "sshd.service")
_REASON = "SSH after the failover"
_TUPLE = "### tuple ### allow tcp {port} {any} any {any} in\n-A {chain} -p tcp --dport {port} -j ACCEPT\n"
_INPUT = re.compile(r"type\s+filter\s+hook\s+input\s+priority[^;]*;(?:[ \t]*policy\s+\w+\s*;)?")


def allow_ssh(edits: Edits) -> None:
    """Enable SSH and open its port in the guest's firewall. Warns of a guest without an SSH server."""
    shipped = [(name, f"{folder}/{name}") for name in _SERVICES for folder in _SHIPPED if edits.has(f"{folder}/{name}")]
    if not shipped:
        edits.warnings.append("SSH was asked for, and the guest has no server for it.")
        return
    name, unit = shipped[0]
    if edits.target(f"{_UNITS}/{name}") == "/dev/null":
        edits.remove(f"{_UNITS}/{name}", f"{_REASON}: {name} was masked")
    if not edits.has(f"{_UNITS}/sockets.target.wants/ssh.socket"):
        wanted = f"{_UNITS}/multi-user.target.wants/{name}"
        if not edits.target(wanted):
            edits.link(wanted, unit, f"{_REASON}: {name} is enabled")
    edits.remove("/etc/ssh/sshd_not_to_be_run", _REASON)
    port = _port(edits)
    _ufw(edits, port)
    _nftables(edits, port)
    _iptables(edits, port)
    _firewalld(edits, port)


def _port(edits: Edits) -> str:
    found = re.search(r"^\s*Port\s+(\d{1,5})\s*$", edits.read("/etc/ssh/sshd_config"), re.MULTILINE | re.IGNORECASE)
    return found[1] if found else "22"


def _ufw(edits: Edits, port: str) -> None:
    if not re.search(r"^ENABLED=yes", edits.read("/etc/ufw/ufw.conf"), re.MULTILINE):
        return
    for path, chain, anywhere in (("user", "ufw-user-input", "0.0.0.0/0"), ("user6", "ufw6-user-input", "::/0")):
        path = f"/etc/ufw/{path}.rules"
        rule = _TUPLE.format(port=port, any=anywhere, chain=chain)
        text = edits.read(path)
        if "### RULES ###\n" in text and f"### RULES ###\n\n{rule}" not in text:
            made = text.replace("### RULES ###\n", f"### RULES ###\n\n{rule}", 1)
            edits.write(path, made, f"{_REASON}: ufw lets port {port} in")


def _nftables(edits: Edits, port: str) -> None:
    path, rule = "/etc/nftables.conf", f"\n\t\ttcp dport {port} accept"
    text = edits.read(path)
    if text and edits.names(f"{_UNITS}/sysinit.target.wants", "nftables.service"):
        made = _INPUT.sub(lambda found: found[0] + rule, text.replace(rule, ""))
        if made != text:
            edits.write(path, made, f"{_REASON}: nftables lets port {port} in")


def _iptables(edits: Edits, port: str) -> None:
    rule = f"-I INPUT -p tcp --dport {port} -j ACCEPT\n"
    for path in ("/etc/iptables/rules.v4", "/etc/iptables/rules.v6", "/etc/sysconfig/iptables"):
        text = edits.read(path)
        table = re.search(r"^\*filter$.*?^COMMIT$", text, re.MULTILINE | re.DOTALL)
        if table is not None and rule not in table[0]:
            end = table.end() - len("COMMIT")
            edits.write(path, f"{text[:end]}{rule}{text[end:]}", f"{_REASON}: iptables lets port {port} in")


def _firewalld(edits: Edits, port: str) -> None:
    if not edits.names(f"{_UNITS}/multi-user.target.wants", "firewalld.service"):
        return
    chosen = re.search(r"^DefaultZone=(\S+)", edits.read("/etc/firewalld/firewalld.conf"), re.MULTILINE)
    zone = f"{chosen[1] if chosen else 'public'}.xml"
    own = f"/etc/firewalld/zones/{zone}"
    text = edits.read(own) or edits.read(f"/usr/lib/firewalld/zones/{zone}")
    rule = f'  <port port="{port}" protocol="tcp"/>\n'
    if "</zone>" not in text:
        edits.warnings.append(f"firewalld's zone {zone} was not found: it may keep port {port} closed.")
    elif rule not in text:
        edits.write(own, text.replace("</zone>", f"{rule}</zone>"), f"{_REASON}: firewalld lets port {port} in")
