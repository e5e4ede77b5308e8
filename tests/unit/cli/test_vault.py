"""``farshore vault`` on the golden vault: no server, only the folder and the key."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.formats.make_golden import MACHINE
from typer.testing import CliRunner

from farshore.cli.grammar import parse_time
from farshore.cli.vault import app
from farshore.cli.vault_opening import show_time
from farshore.model.errors import Malformed, NotFound, WrongKey
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.objects.differences import Differing
from farshore.vault.upkeep import stored_retention

GOLDEN = Path(__file__).parents[2] / "formats" / "golden"
EXPECTED = json.loads((GOLDEN / "vault-1.json").read_text())["states"]


@pytest.fixture
def vault(tmp_path):
    shutil.copytree(GOLDEN / "vault-1", tmp_path / "vault")
    shutil.copy(GOLDEN / "owner.key", tmp_path / "owner.key")
    (tmp_path / "owner.key").chmod(0o600)
    return ["--vault", f"file://{tmp_path}/vault", "--key", str(tmp_path / "owner.key")]


@pytest.fixture
def newest_vault(tmp_path):
    """Of today's format."""
    shutil.copytree(GOLDEN / "vault-3", tmp_path / "vault-3")
    shutil.copy(GOLDEN / "owner-3.key", tmp_path / "owner-3.key")
    (tmp_path / "owner-3.key").chmod(0o600)
    return ["--vault", f"file://{tmp_path}/vault-3", "--key", str(tmp_path / "owner-3.key")]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_vault_is_made_and_its_key_with_it(tmp_path):
    where = ["--vault", f"file://{tmp_path}/new", "--key", str(tmp_path / "new.key")]
    made = json.loads(run("init", *where, "--json"))
    assert made["url"] == f"file://{tmp_path}/new"
    assert json.loads(run("ls", *where, "--json")) == []


def test_a_vault_that_is_refused_leaves_no_key(tmp_path):
    done = CliRunner().invoke(app, ["init", "--vault", "s3://bucket//v", "--key", str(tmp_path / "new.key")])
    assert isinstance(done.exception, Malformed)
    assert list(tmp_path.iterdir()) == []


def test_a_new_vault_has_a_key_or_a_passphrase_and_not_both(tmp_path):
    """Else the passphrase would open nothing, and nobody would hear of it."""
    (tmp_path / "word").write_text("geheim")
    both = ["--key", str(tmp_path / "new.key"), "--passphrase-file", str(tmp_path / "word")]
    done = CliRunner().invoke(app, ["init", "--vault", f"file://{tmp_path}/new", *both])
    assert isinstance(done.exception, Malformed)
    assert "either" in done.exception.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["word"]


def test_machines_and_points_are_listed(vault):
    (machine,) = json.loads(run("ls", *vault, "--json"))
    assert machine["host"] == "web1"
    assert [disk["number"] for disk in machine["disks"]] == [0, 1]
    points = json.loads(run("points", *vault, "--json"))
    assert len(points) == machine["points"]
    assert [point["name"] for point in points if point["kind"] == "app-consistent"] == ["quiet"]
    assert len(json.loads(run("points", *vault, "--limit", "3", "--json"))) == 3
    some = json.loads(run("points", *vault, "--after", points[18]["time"], "--before", points[14]["time"], "--json"))
    assert [point["id"] for point in some] == [point["id"] for point in points[15:19]]


@pytest.mark.parametrize(
    ("choice", "position"),
    [
        ([], "2:72"),
        (["--latest"], "2:72"),
        (["--latest-processed"], "2:72"),
        (["--latest-app-consistent"], "2:30"),
        (["--point", "quiet"], "2:30"),
        (["--position", "2:36"], "2:36"),
    ],
)
def test_a_disk_is_restored(vault, tmp_path, choice, position):
    output = tmp_path / "disk.raw"
    told = json.loads(run("restore", *vault, *choice, "--disk", "0", "--output", str(output), "--json"))
    assert told["position"] == position
    assert hashlib.sha256(output.read_bytes()).hexdigest() == EXPECTED[position]["0"]


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")
@pytest.mark.parametrize("kind", ["qcow2", "vhd", "vmdk"])
def test_a_disk_is_written_as_an_image(vault, tmp_path, kind):
    output, back = tmp_path / f"disk.{kind}", tmp_path / "back.raw"
    run("restore", *vault, "--disk", "0", "--format", kind, "--output", str(output), "--json")
    qemu = {"vhd": "vpc"}.get(kind, kind)
    subprocess.run(["qemu-img", "convert", "-f", qemu, "-O", "raw", str(output), str(back)], check=True)
    size = 300 << 10
    data = back.read_bytes()
    assert hashlib.sha256(data[:size]).hexdigest() == EXPECTED["2:72"]["0"]
    assert not any(data[size:])
    if kind == "vhd":
        assert (output.stat().st_size - 512) % (1 << 20) == 0


def test_wrong_choices_are_refused(vault, tmp_path):
    def refused(kind: type[Exception], *arguments: str) -> None:
        with pytest.raises(kind):
            run(*arguments)

    output = ["--output", str(tmp_path / "x")]
    refused(Malformed, "restore", *vault, *output)  # two disks
    refused(Malformed, "restore", *vault, *output, "--disk", "0", "--latest", "--point", "quiet")
    refused(Malformed, "restore", *vault, *output, "--disk", "0", "--latest-processed", "--latest-app-consistent")
    refused(NotFound, "restore", *vault, *output, "--disk", "7")
    refused(NotFound, "points", *vault, "--machine", "other")
    refused(Malformed, "ls", *vault[:2])
    (tmp_path / "word").write_text("secret\n")
    refused(WrongKey, "ls", *vault[:2], "--passphrase-file", str(tmp_path / "word"))


def test_verify_usage_upkeep_and_keys(vault, tmp_path):
    assert "0 findings" in run("verify", *vault, "--data")
    assert json.loads(run("usage", *vault, "--json"))["total"] > 0
    run("maintain", *vault, "--grace", "0")
    run("add-key", *vault, "--new-key", str(tmp_path / "second.key"))
    run("remove-key", *vault, "--yes")
    second = [*vault[:3], str(tmp_path / "second.key")]
    assert len(json.loads(run("ls", *second, "--json"))) == 1
    victim = next(path for path in (tmp_path / "vault" / "chunks").rglob("*") if path.is_file())
    victim.write_bytes(victim.read_bytes()[:-1])
    result = CliRunner().invoke(app, ["verify", *second, "--json"], catch_exceptions=False)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["findings"]


def ids(vault):
    return {point["id"] for point in json.loads(run("points", *vault, "--machine", MACHINE, "--json"))}


def test_no_point_goes_that_nobody_was_asked_about(vault):
    listed = run("points", *vault, "--json")
    points = ids(vault)
    run("maintain", *vault, "--grace", "0")
    assert run("points", *vault, "--json") == listed
    retention = ["--hot-window", "0", "--keep-hourly", "0", "--keep-daily", "0"]
    told = json.loads(run("maintain", *vault, *retention, "--dry-run", "--json"))
    going = {point["id"] for mine in told["leaving"].values() for point in mine}
    assert going
    assert going < points
    assert "Points to delete" in run("maintain", *vault, *retention, "--dry-run")
    said = CliRunner().invoke(app, ["maintain", *vault, *retention, "--grace", "0"], input="n\n")
    assert said.exit_code == 1
    assert run("points", *vault, "--json") == listed
    for _ in range(2):  # condemned, then deleted
        run("maintain", *vault, *retention, "--grace", "0", "--yes")
    assert ids(vault) == points - going


def test_upkeep_goes_by_the_policy_that_the_vault_knows(vault, tmp_path):
    opened = Vault.open(open_store(f"file://{tmp_path}/vault"), OwnerKey.from_file(tmp_path / "owner.key"))
    (machine,) = opened.machines()
    before = ids(vault)
    assert json.loads(run("maintain", *vault, "--dry-run", "--json"))["leaving"][machine] == []
    policy = ReplicationPolicy("tight", hot_window=0, keep_hourly=0, keep_daily=0)
    stored_retention.write(opened, machine, policy)
    told = json.loads(run("maintain", *vault, "--dry-run", "--json"))
    going = {point["id"] for point in told["leaving"][machine]}
    assert going
    said = CliRunner().invoke(app, ["maintain", *vault, "--grace", "0"], input="n\n")
    assert (said.exit_code, "policy tight" in said.output) == (1, True)
    assert ids(vault) == before, "it asks"
    wide = json.loads(run("maintain", *vault, "--hot-window", "30d", "--dry-run", "--json"))
    assert wide["leaving"][machine] == [], "an option replaces what the policy says"
    for _ in range(2):
        run("maintain", *vault, "--grace", "0", "--yes")
    assert ids(vault) == before - going


def test_a_pinned_point_is_marked_and_stays(newest_vault):
    vault, web1 = newest_vault, ["--machine", MACHINE]
    retention = ["--hot-window", "0", "--keep-hourly", "0", "--keep-daily", "0", "--grace", "0", "--yes"]
    told = json.loads(run("maintain", *vault, *retention[:6], "--dry-run", "--json"))
    chosen = max(told["leaving"].values(), key=len)[-1]
    assert chosen["position"] != "1:0"
    assert json.loads(run("pin", *vault, *web1, "--point", chosen["id"], "--json"))["pinned"] is True
    assert "pinned" in run("points", *vault, *web1)
    for _ in range(2):
        run("maintain", *vault, *retention)
    assert chosen["id"] in ids(vault)
    declined = CliRunner().invoke(app, ["unpin", *vault, *web1, "--point", chosen["id"]], input="n\n")
    assert declined.exit_code == 1
    run("unpin", *vault, *web1, "--point", chosen["id"], "--yes")
    for _ in range(2):
        run("maintain", *vault, *retention)
    assert chosen["id"] not in ids(vault)


def test_points_are_listed_newest_first_with_times_that_can_be_given_back(vault):
    listed = json.loads(run("points", *vault, "--json"))
    places = [tuple(int(part) for part in point["position"].split(":")) for point in listed]
    assert places == sorted(places, reverse=True)
    times = [point["time"] for point in listed]
    assert all(re.fullmatch(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{9}Z", time) for time in times)


def test_times_are_read_to_the_nanosecond():
    assert parse_time("2023-11-14T22:13:20Z") == 1_700_000_000 * 10**9
    assert parse_time("2023-11-14T22:13:20.000000001") == 1_700_000_000 * 10**9 + 1
    assert parse_time("2023-11-14T23:13:20.5+01:00") == 1_700_000_000_500_000_000
    assert show_time(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"
    with pytest.raises(Malformed):
        parse_time("yesterday")


def test_chunks_that_differed_are_listed_and_both_versions_written(newest_vault, tmp_path):
    opened = Vault.open(open_store(f"file://{tmp_path}/vault-3"), OwnerKey.from_file(tmp_path / "owner-3.key"))
    kept = Differing(DiskNumber(1), 2, Position(Epoch(4), Sequence(9)), None, 10**18, "a heal", b"disk", b"copy")
    lost = replace(kept, chunk=3, in_vault=None)
    for one in (kept, lost):
        opened.machine(MACHINE).proofs.put_difference(one)
    shown = run("damage", *newest_vault)
    assert "a heal" in shown
    assert "Noted damage: " in shown.splitlines()[-1], "as before"
    folder = tmp_path / "both"
    found = json.loads(run("damage", *newest_vault, "--both", str(folder), "--json"))["differences"]
    assert [(one["machine"], one["disk"], one["start"], one["length"], one["readable"]) for one in found] == [
        (MACHINE, 1, 2 * 65536, 4, True),
        (MACHINE, 1, 3 * 65536, 4, False),
    ]
    assert (found[0]["position"], found[0]["proven"], found[0]["cause"]) == ("4:9", None, "a heal")
    written = {one.name.removeprefix(f"{MACHINE}-4-9-"): one.read_bytes() for one in folder.iterdir()}
    assert written == {"1-2.disk": b"disk", "1-2.vault": b"copy", "1-3.disk": b"disk"}
    assert {one.stat().st_mode & 0o777 for one in folder.iterdir()} == {0o600}
