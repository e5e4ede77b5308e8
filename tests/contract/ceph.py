"""A real S3 server from the distribution's packages: one Ceph monitor, one OSD that keeps objects in memory, and the
RADOS Gateway in front of them, on free ports of the loopback, gone afterwards.

Chosen because it is what sites run beside MinIO, it comes with Debian and Ubuntu (60 MB, 15 seconds), and it decides a
conditional create in the OSD, atomically. Of the others that were tried, rclone's S3 server takes `If-None-Match` and
overwrites all the same.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import urllib3

PROGRAMS = ("ceph-mon", "ceph-osd", "ceph", "monmaptool", "radosgw", "radosgw-admin")
_SECRET = "not-a-secret"

_CONFIGURATION = """[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/none
run dir = {folder}
admin socket = {folder}/$name.sock
pid file = {folder}/$name.pid
log file = {folder}/$name.log
crash dir = {folder}
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
paxos propose interval = 0.05
paxos min wait = 0.01
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw enable gc threads = false
rgw enable lc threads = false
rgw thread pool size = 16
"""


@contextlib.contextmanager
def gateway(folder: Path, bucket: str, free_port: int, mon_port: int) -> Iterator[tuple[str, dict[str, str]]]:
    """A bucket's URL and the environment that opens it. Raises FileNotFoundError where Ceph is not installed."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is not installed: packages ceph-mon, ceph-osd and radosgw")
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    configuration = folder / "ceph.conf"
    configuration.write_text(_CONFIGURATION.format(fsid=fsid, folder=folder, mon=mon_port, port=free_port))
    for part in ("mon", "osd"):
        (folder / part).mkdir()
    running: list[subprocess.Popen[bytes]] = []

    def once(program: str, *arguments: str) -> None:
        command = [program, "-c", str(configuration), *arguments]
        done = subprocess.run(command, capture_output=True, timeout=60, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")

    def keep(program: str, *arguments: str) -> None:
        with (folder / f"{program}.out").open("wb") as output:
            command = [program, "-c", str(configuration), *arguments, "-f"]
            running.append(subprocess.Popen(command, stdout=output, stderr=output, cwd=folder))

    try:
        monmap = str(folder / "monmap")
        once("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
        once("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        keep("ceph-mon", "-i", "a")
        once("ceph", "--connect-timeout", "30", "osd", "new", osd)
        once("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        keep("ceph-osd", "-i", "0")
        user = ["--uid=farshore", "--display-name=farshore", "--access-key=farshore", f"--secret-key={_SECRET}"]
        once("radosgw-admin", "user", "create", *user)
        keep("radosgw", "-n", "client.admin")
        _wait(free_port, running)
        _make_bucket(f"http://127.0.0.1:{free_port}", bucket)
        yield (
            f"s3://{bucket}",
            {
                "AWS_ENDPOINT": f"http://127.0.0.1:{free_port}",
                "AWS_ACCESS_KEY_ID": "farshore",
                "AWS_SECRET_ACCESS_KEY": _SECRET,
                "AWS_REGION": "us-east-1",
                "AWS_ALLOW_HTTP": "true",
            },
        )
    finally:
        for process in reversed(running):
            process.kill()
            process.wait(120)


def _wait(port: int, running: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + 60
    with urllib3.PoolManager(retries=False, timeout=2) as pool:
        while True:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if pool.request("GET", f"http://127.0.0.1:{port}/").status == 200:
                    return
            if time.monotonic() > until or any(process.poll() is not None for process in running):
                raise RuntimeError("the RADOS Gateway did not start")
            time.sleep(0.1)


def _make_bucket(endpoint: str, bucket: str) -> None:
    """obstore makes no buckets: one request signed in the old way, which needs five lines."""
    date = email.utils.formatdate(usegmt=True)
    signed = hmac.digest(_SECRET.encode(), f"PUT\n\n\n{date}\n/{bucket}".encode(), hashlib.sha1)
    headers = {"Date": date, "Authorization": f"AWS farshore:{base64.b64encode(signed).decode()}"}
    answer = urllib3.request("PUT", f"{endpoint}/{bucket}", headers=headers)
    if answer.status != 200:
        raise RuntimeError(f"the gateway did not make the bucket: {answer.status} {os.fsdecode(answer.data)}")
