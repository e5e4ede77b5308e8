"""What every recovery site must promise (farshore.sites.port): QEMU on this host, libvirt, a simulated vSphere, and
the tests' double."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.azure_place import azure_place
from tests.contract.conftest import Double
from tests.contract.libvirt_place import libvirt_place
from tests.contract.places import FilePlace, Place, call_and_die, open_site, qemu_place, small_disk
from tests.contract.vsphere_place import vsphere_place

from farshore.lab.ports import free_port
from farshore.model.errors import FarshoreError, NoSpace, NotFound, Refused, TryLater
from farshore.sites.port import (
    Condition,
    FailoverId,
    HasScreen,
    Ingesting,
    RecoveredMachine,
    RecoveryOrder,
    RecoverySite,
    ServedDisk,
    UploadedDisk,
    Way,
    WrittenDisk,
)

pytestmark = pytest.mark.root
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.contract.places"])
SOAK = bool(os.environ.get("FARSHORE_SOAK"))
RUNNING, STOPPED, SHUT_DOWN, ABSENT = Condition.RUNNING, Condition.STOPPED, Condition.SHUT_DOWN, Condition.ABSENT


@pytest.fixture(
    scope="module",
    params=[
        "qemu served",
        "qemu written",
        "libvirt served",
        pytest.param("libvirt written", marks=pytest.mark.soak),
        "azure uploaded",
        "files served",
        "files written",
        "vsphere",
    ],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, double: Double) -> Iterator[Place]:
    name, _, way = request.param.partition(" ")
    if name == "azure":
        folder, disks = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("disks")
        with azure_place(folder, disks, double("azurite")[1]) as of_azure:
            yield of_azure
            return
    if name == "libvirt":
        if shutil.which("libvirtd") is None or shutil.which("virsh") is None:
            pytest.skip("libvirt is not installed: scripts/setup tests")
        with libvirt_place(way=Way(way)) as of_libvirt:
            yield of_libvirt
    elif name == "vsphere":
        with vsphere_place() as of_vsphere:
            yield of_vsphere
    elif name == "files":
        yield FilePlace(tmp_path_factory.mktemp("site"), Way(way), tmp_path_factory.mktemp("disks"))
    else:
        with qemu_place(way=Way(way)) as made:
            yield made


@pytest.fixture
def site(place: Place) -> Iterator[RecoverySite]:
    made = open_site(place.kind, place.folder)
    yield made
    for failover in made.present():
        made.destroy(failover)


def seen(place: Place, failover: FailoverId) -> Condition:
    """What another server finds."""
    return open_site(place.kind, place.folder).status(failover).condition


def says_what_to_do(error: FarshoreError) -> bool:
    return bool(error.message and error.remedy)


def nothing_left(place: Place, failover: FailoverId) -> bool:
    site = open_site(place.kind, place.folder)
    left: list[object] = [path for path in place.folder.rglob("*") if failover in str(path)]
    if place.kind.startswith("azure"):
        left += place.left(failover)  # type: ignore[attr-defined]
    return not left and not place.living(failover) and seen(place, failover) is ABSENT and not site.present()


def test_every_call_may_be_repeated(place: Place, site: RecoverySite) -> None:
    order = place.order()
    failover = order.failover
    for _ in range(2):
        site.check(order)
        site.create(order)
        assert site.status(failover) == RecoveredMachine(failover, STOPPED)
    for _ in range(2):
        assert site.start(failover).condition is RUNNING
        assert site.status(failover).address
        assert place.living(failover) == 1
        site.create(order)
    for _ in range(2):
        site.stop(failover, grace=0)
        assert (place.living(failover), seen(place, failover)) == (0, STOPPED)
    assert site.present() == (failover,)
    for _ in range(2):
        site.destroy(failover)
        assert nothing_left(place, failover)


def test_what_does_not_exist(place: Place, site: RecoverySite) -> None:
    failover = place.order().failover
    with pytest.raises(NotFound) as raised:
        site.start(failover)
    assert says_what_to_do(raised.value)
    site.stop(failover, grace=1)
    site.destroy(failover)
    assert nothing_left(place, failover)
    with pytest.raises(Refused):
        site.check(place.order(disks=()))


def test_another_order_under_the_same_id_replaces_what_does_not_run(place: Place, site: RecoverySite) -> None:
    order = place.order()
    other = replace(order, name="db2")
    site.create(order)
    site.create(other)
    site.start(order.failover)
    with pytest.raises(Refused, match="Stop it first") as raised:
        site.create(order)
    assert says_what_to_do(raised.value)
    site.create(other)
    assert place.living(order.failover) == 1
    place.shut_down(order.failover)
    site.create(other)
    assert seen(place, order.failover) is SHUT_DOWN
    site.create(order)
    assert (place.living(order.failover), seen(place, order.failover)) == (0, STOPPED)
    assert ordered(place, order.failover) == order


def ordered(place: Place, failover: FailoverId) -> RecoveryOrder:
    site = open_site(place.kind, place.folder)
    return site.order(failover)  # type: ignore[attr-defined,no-any-return]


def test_disks_come_as_the_site_asks_for_them_and_are_not_its_own(place: Place, site: RecoverySite) -> None:
    order = place.order()
    (disk,) = order.disks
    asked = {Way.WRITTEN: WrittenDisk, Way.SERVED: ServedDisk, Way.UPLOADED: UploadedDisk}
    assert isinstance(disk.medium, asked[site.delivery.way])
    site.create(order)
    site.start(order.failover)
    site.destroy(order.failover)
    if isinstance(disk.medium, ServedDisk):
        return
    if isinstance(disk.medium, UploadedDisk):
        assert isinstance(site, Ingesting)
        assert site.has_disk(order.failover, 0), "it goes with the delivery"
        lose, named = (lambda: place.lose(disk.medium)), disk.medium.id  # type: ignore[attr-defined]
    else:
        assert disk.medium.path.exists(), "it goes with the delivery"
        lose, named = disk.medium.path.unlink, str(disk.medium.path)
    if place.ingests:
        lose()
        with pytest.raises(NotFound, match=named):
            site.create(order)
        assert seen(place, order.failover) is ABSENT
        return
    site.create(order)
    lose()
    with pytest.raises(NotFound, match=named) as raised:
        site.start(order.failover)
    assert says_what_to_do(raised.value)
    assert (place.living(order.failover), seen(place, order.failover)) == (0, STOPPED)


def test_two_machines_may_have_one_name(place: Place, site: RecoverySite) -> None:
    first, second = place.order(), place.order()
    for order in (first, second):
        site.create(order)
        site.start(order.failover)
    assert site.present() == tuple(sorted((first.failover, second.failover)))
    site.destroy(first.failover)
    assert [place.living(order.failover) for order in (first, second)] == [0, 1]
    assert seen(place, second.failover) is RUNNING


def test_of_many_starts_at_once_one_machine_comes(place: Place, site: RecoverySite) -> None:
    order = place.order()
    outcomes: list[Condition] = []

    def bring_up() -> None:
        own = open_site(place.kind, place.folder)
        own.create(order)
        outcomes.append(own.start(order.failover).condition)

    threads = [threading.Thread(target=bring_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [RUNNING] * 4
    assert place.living(order.failover) == 1


def test_a_machine_that_died_is_stopped_and_starts_anew(place: Place, site: RecoverySite) -> None:
    order = place.order()
    site.create(order)
    site.start(order.failover)
    place.kill(order.failover)
    assert site.status(order.failover).condition is seen(place, order.failover) is STOPPED
    assert site.start(order.failover).condition is RUNNING
    assert place.living(order.failover) == 1


def test_a_guest_that_shut_itself_down_is_not_a_machine_that_died(place: Place, site: RecoverySite) -> None:
    order = place.order()
    failover = order.failover
    site.create(order)
    site.start(failover)
    place.shut_down(failover)
    looks: list[Condition] = []
    threads = [threading.Thread(target=lambda: looks.extend(seen(place, failover) for _ in range(3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks == [SHUT_DOWN] * 12, "whoever looks first"
    assert site.status(failover) == RecoveredMachine(failover, SHUT_DOWN)
    place.kill(failover)  # what is left of it ends with its host
    for _ in range(2):
        assert seen(place, failover) is SHUT_DOWN
    assert site.start(failover).condition is RUNNING
    assert place.living(failover) == 1
    place.kill(failover)
    assert seen(place, failover) is STOPPED, "the end of the run before says nothing of this one"


@pytest.mark.parametrize("looked", [True, False])
def test_what_had_shut_itself_down_is_stopped_by_a_stop(place: Place, site: RecoverySite, looked: bool) -> None:
    order = place.order()
    site.create(order)
    site.start(order.failover)
    place.shut_down(order.failover)
    if looked:
        assert seen(place, order.failover) is SHUT_DOWN
    site.stop(order.failover, grace=60)
    assert (place.living(order.failover), seen(place, order.failover)) == (0, STOPPED)
    site.destroy(order.failover)
    assert nothing_left(place, order.failover)


def test_a_taken_port_is_named_and_later_free(place: Place, site: RecoverySite) -> None:
    port = free_port()
    order = place.order(forward={port: 22})
    if not place.forwards and not place.ingests:
        return  # what is forwarded is a port of the machine's own address
    if not place.forwards:
        with pytest.raises(Refused, match="own address") as refused:
            site.check(order)
        assert says_what_to_do(refused.value)
        return
    site.create(order)
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(TryLater, match=rf"Port {port} ") as raised:
            site.start(order.failover)
        assert says_what_to_do(raised.value)
        assert (place.living(order.failover), seen(place, order.failover)) == (0, STOPPED)
    assert site.start(order.failover).condition is RUNNING


def test_what_somebody_deleted_by_hand_is_made_again(place: Place, site: RecoverySite) -> None:
    order = place.order()
    failover = order.failover
    for part in place.parts:
        site.create(order)
        site.start(failover)
        place.delete(failover, part)
        if place.living(failover):
            assert seen(place, failover) is RUNNING, part
            assert site.present() == (failover,), part
            with contextlib.suppress(Refused):  # it runs: what it was made from cannot be told any more
                site.create(order)
            assert site.start(failover).condition is RUNNING
            assert place.living(failover) == 1, f"without {part} it was started twice"
        site.stop(failover, grace=0)
        assert place.living(failover) == 0, part
    site.create(order)
    site.start(failover)
    place.delete(failover, "folder")
    site.destroy(failover)
    assert nothing_left(place, failover)


def test_a_full_disk(place: Place) -> None:
    with small_disk(place.folder) as disk:
        site = open_site(place.kind, place.folder)
        order, another = place.order(), place.order()
        failover = order.failover
        site.create(order)
        disk.fill()
        start = (
            [] if place.ingests else [lambda: site.start(failover)]
        )  # where all of it is elsewhere, it needs no room
        for impossible in (
            lambda: site.create(replace(order, name="db" * 3000)),
            lambda: site.create(another),
            *start,
        ):
            with pytest.raises(NoSpace) as raised:
                impossible()
            assert says_what_to_do(raised.value)
            assert str(place.folder) in raised.value.message
        assert (ordered(place, failover), seen(place, failover)) == (order, STOPPED)
        assert place.living(failover) == place.living(another.failover) == 0
        site.destroy(another.failover)
        assert seen(place, another.failover) is ABSENT
        site.create(order)
        disk.free()
        assert site.start(failover).condition is RUNNING
        if not place.kind.startswith(("files", "vsphere")):
            place.wait_for_guest(failover)  # type: ignore[attr-defined]
        disk.fill()
        place.shut_down(failover)
        assert seen(place, failover) is SHUT_DOWN
        place.kill(failover)
        assert seen(place, failover) is SHUT_DOWN, "noted without room"
        site.destroy(failover)
        disk.free()
        assert nothing_left(place, failover)


@pytest.mark.parametrize("call", ["create", "start", "stop", "destroy"])
def test_a_call_that_was_killed_at_any_change_is_repeated_to_its_end(place: Place, tmp_path: Path, call: str) -> None:
    moments, at = 0, 0
    # A libvirtd takes seconds to start and end a machine: the gate looks at every fifth moment, the long set at each.
    # A call of Azure's is many requests: the gate looks before every third of them.
    strides = {"libvirt": 5, "azure": 3}
    stride = 1 if SOAK else strides.get(place.kind.partition(" ")[0], 1)
    while at <= moments:
        order = place.order()
        failover = order.failover
        site = open_site(place.kind, place.folder)
        task = (place.kind, place.folder, order, call, at, tmp_path / "passed")
        process = PROCESSES.Process(target=call_and_die, args=task)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"{call}, change {at}"
        if at == 0:
            moments = int((tmp_path / "passed").read_text())
            assert moments > 1
        if call == "stop":
            site.stop(failover, grace=0)
            assert (place.living(failover), seen(place, failover)) == (0, STOPPED), f"change {at} of {moments}"
        if call != "destroy":
            site.create(order)
            assert ordered(place, failover) == order, f"{call}, change {at} of {moments}"
        if call == "start":
            assert site.start(failover).condition is RUNNING, f"change {at} of {moments}"
            assert place.living(failover) == 1, f"change {at} of {moments}"
        site.destroy(failover)
        assert nothing_left(place, failover), f"{call}, change {at} of {moments}"
        at += stride


def test_the_screen_of_a_machine_is_a_picture(place: Place, site: RecoverySite) -> None:
    if not isinstance(site, HasScreen):
        return
    order = place.order()
    site.create(order)
    with pytest.raises(NotFound):
        site.screen(order.failover)
    site.start(order.failover)
    picture = site.screen(order.failover)
    assert picture.startswith(b"\x89PNG")
    assert site.screen(order.failover).startswith(b"\x89PNG"), "once more"
