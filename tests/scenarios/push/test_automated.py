"""The mobility service comes to a real Debian machine by the Ansible role, and by cloud-init at the machine's first
boot, as docs/operate/automated.md has it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.contract.places import short_folder
from tests.waiting import until

from farshore.lab.cache import cache_folder, only_one
from farshore.lab.command import HOST_SEEN_FROM_GUEST, GuestSettings
from farshore.lab.demo.operator import Operator
from farshore.lab.guest import Guest
from farshore.lab.image import ensure_image
from farshore.lab.ports import free_ports
from farshore.lab.recipe import GuestRecipe

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[3]
ANSIBLE = "ansible-core==2.19.14"
PAGE = ROOT / "docs/operate/automated.md"
SNIPPET = ROOT / "deploy/cloud-init/farshore-mobility.yaml"
PROGRAMS = Path(sys.executable).parent
_DATA = 16 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


class Site:
    """An installation that guests of the lab reach, and the agent's archive."""

    def __init__(self, folder: Path) -> None:
        self.operator, (port, data_port) = Operator(folder / "home"), free_ports(2)
        self.operator.run(
            *("up", "--detach", "--port", str(port), "--process-server-port", str(data_port)),
            *("--advertise", HOST_SEEN_FROM_GUEST, "--advertise", "127.0.0.1"),
        )
        self.url = f"https://{HOST_SEEN_FROM_GUEST}:{port}"
        self.archive = folder / "farshore-agent.tar.gz"
        self.operator.run("machine", "package", "--output", str(self.archive))

    def token(self, name: str) -> Any:
        return self.operator.ask("token", "create", "--name", name)

    def state(self, name: str) -> str:
        machines = self.operator.ask("machine", "list")
        return "".join(str(one["state"]) for one in machines if one["name"] == name)


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    made = Site(folder)
    with contextlib.ExitStack() as held:
        held.callback(made.operator.run, "down")
        yield made


def ansible() -> Path:
    """ansible-playbook, in an environment of its own that is made once. Skips where it cannot be had."""
    place = cache_folder() / "doubles" / ANSIBLE.replace("==", "-")
    place.parent.mkdir(exist_ok=True)
    program = place / "bin" / "ansible-playbook"
    with only_one(place.with_suffix(".lock")):
        if not program.exists():
            uv = str(PROGRAMS / "uv")
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
            install = [uv, "pip", "install", "--quiet", "--python", str(place / "bin/python"), ANSIBLE]
            if subprocess.run(install, check=False).returncode:
                pytest.skip("the package index does not give ansible-core")
    return program


def playbook(site: Site, folder: Path) -> Path:
    """The one of the page, for this installation."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    fingerprint = site.token("another")["authority_fingerprint"]
    text = block.replace("https://dr.example.com", site.url).replace("FINGERPRINT", fingerprint)
    text = text.replace("farshore-agent.tar.gz", str(site.archive))
    text = text.replace("      vars:\n", "      vars:\n        farshore_disks: [/dev/vdb]\n")
    path = folder / "playbook.yaml"
    path.write_text(text)
    return path


def play(site: Site, guest: Guest, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    host_key = guest.image.host_key.read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{guest.ports.ssh} {host_key[0]} {host_key[1]}\n")
    (folder / "hosts").write_text(
        f"web1 ansible_host=127.0.0.1 ansible_port={guest.ports.ssh} ansible_user=root "
        f"ansible_ssh_private_key_file={guest.image.ssh_key} ansible_python_interpreter=/usr/bin/python3 "
        f"ansible_ssh_common_args='-o UserKnownHostsFile={folder}/known_hosts -o StrictHostKeyChecking=yes'\n"
    )
    environment = {
        **os.environ,
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "FARSHORE_HOME": str(site.operator.home),
        "ANSIBLE_ROLES_PATH": str(ROOT / "deploy/ansible/roles"),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_SSH_TIMEOUT": "120",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    command = [str(ansible()), "-vvv", "-i", str(folder / "hosts"), str(playbook(site, folder)), *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)


def test_the_role_brings_it_and_changes_nothing_again(site: Site, folder: Path) -> None:
    data = folder / "data.raw"
    data.write_bytes(bytes(_DATA))
    with Guest(ensure_image(GuestRecipe()), folder / "guest", GuestSettings(data_disks=(data,))) as guest:
        guest.start()
        guest.wait_until_up()
        # What cannot be protected is refused before anything is enrolled.
        refused = play(site, guest, folder, "--extra-vars", '{"farshore_disks": ["/dev/vdz"]}')
        assert refused.returncode == 2, refused.stdout[-3000:]
        assert guest.shell.run("ls /var/lib/farshore-mobility/credentials.json", check=False).status != 0
        odd = play(site, guest, folder, "--extra-vars", '{"farshore_disks": ["/dev/vdb\\"\\nX=y"]}')
        assert "Set farshore_server_url" in odd.stdout
        done = play(site, guest, folder)
        assert done.returncode == 0, done.stdout[-3000:]
        assert '"token": "' not in done.stdout
        until(lambda: site.state("web1") == "protected", "its first copy", pause=2.0)
        assert guest.shell.run("systemctl is-enabled farshore-mobility").output.strip() == "enabled"
        assert guest.shell.run("cat /etc/farshore/mobility.conf").output == 'FARSHORE_OPTIONS="--disk /dev/vdb"\n'
        started = guest.shell.run("systemctl show -P ActiveEnterTimestamp farshore-mobility").output
        again = play(site, guest, folder)
        assert re.search(r"web1 +: ok=\d+ +changed=0 +unreachable=0 +failed=0", again.stdout), again.stdout[-3000:]
        assert guest.shell.run("systemctl show -P ActiveEnterTimestamp farshore-mobility").output == started
        tokens = [one for one in site.operator.ask("token", "list") if one["name"] == "web1"]
        assert len(tokens) == 1, "the second run made no token"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[int]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def seed(folder: Path, user_data: str) -> Path:
    """A disk that cloud-init's NoCloud takes for its data."""
    (folder / "user-data").write_text(user_data)
    (folder / "meta-data").write_text("instance-id: web1-1\nlocal-hostname: web1\n")
    made = folder / "seed.raw"
    subprocess.run(["mkfs.vfat", "-n", "CIDATA", "-C", str(made), "2048"], check=True, capture_output=True)
    for name in ("user-data", "meta-data"):
        subprocess.run(["mcopy", "-i", str(made), str(folder / name), f"::{name}"], check=True)
    return made


def test_cloud_init_brings_it_at_the_first_boot(site: Site, folder: Path) -> None:
    (folder / "web").mkdir()
    site.archive.rename(folder / "web" / site.archive.name)
    digest = hashlib.sha256((folder / "web" / site.archive.name).read_bytes()).hexdigest()
    token = site.token("web1")
    with served(folder / "web") as port:
        text = SNIPPET.read_text().split("TOKEN (good", 1)
        filled = text[0] + "TOKEN (good" + text[1].replace("TOKEN", token["token"])
        for name, value in (
            ("https://dr.example.com", site.url),
            ("=FINGERPRINT", f"={token['authority_fingerprint']}"),
            ("https://files.example.com", f"http://{HOST_SEEN_FROM_GUEST}:{port}"),
            ("=DIGEST", f"={digest}"),
        ):
            assert name in filled
            filled = filled.replace(name, value)
        # The lab logs in as root, and knows the guest by the key that it has.
        filled += "ssh_deletekeys: false\ndisable_root: false\n"
        image = ensure_image(GuestRecipe(packages=(*GuestRecipe().packages, "cloud-init")))
        settings = GuestSettings(data_disks=(seed(folder, filled),))
        with Guest(image, folder / "guest", settings) as guest:
            guest.start()
            guest.wait_until_up()
            done = guest.shell.run("cloud-init status --wait --long", check=False, seconds=1800)
            said = guest.shell.run("cat /var/log/cloud-init-output.log").output
            assert "status: done" in done.output, f"{done.output}\n{said[-3000:]}"
            assert guest.shell.run("systemctl is-active farshore-mobility").output.strip() == "active", said[-3000:]
            assert guest.shell.run("ls -A /run/farshore-token /opt/farshore", check=False).output.split() == [
                *("/opt/farshore:", "current", "releases")
            ]
            until(lambda: site.state("web1") in ("initial-replication", "protected"), "its first report", pause=2.0)
            assert token["token"] not in said
