"""Run recovered machines at a vCenter or an ESXi host.

The server decides what exists: a machine is the one that carries the failover's id (farshore.vsphere.recovered). The
site's own folder for the machine holds what the server cannot store: the order. One lock for each machine serializes
changes made here; the server itself guarantees that no machine runs twice.

Disks come in one of two ways. If this host is a machine at that server (the setting ``proxy``), disks are attached to
it and written in place (``attach``) before ``create`` gives them to the machine; at home these are the disks that the
machine left behind, if it left any. Otherwise ``create`` sends the written files of this host by the server's own
import.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from farshore.model.errors import Damaged, NotFound, Refused, TryLater
from farshore.sites.folder import alone, explained, home_of, remove_home, replace
from farshore.sites.orders import kept_order, not_created, write_order
from farshore.sites.port import (
    Capacity,
    Condition,
    DeliveryWish,
    FailoverId,
    RecoveredMachine,
    RecoveryOrder,
    Way,
    WrittenDisk,
)
from farshore.sites.vsphere.checks import check_import, check_networks, check_order, needed
from farshore.sites.vsphere.home_disks import HomeDisks
from farshore.sites.vsphere.images import stream_optimised
from farshore.sites.vsphere.machine import new_machine
from farshore.sites.vsphere.settings import VsphereSettings
from farshore.vsphere import making, power, recovered
from farshore.vsphere.certificates import pinned
from farshore.vsphere.disks import find_proxy
from farshore.vsphere.placing import Names, Places, find_places
from farshore.vsphere.recovered import Seen
from farshore.vsphere.session import Login, Session, session

_POLL_SECONDS = 1.0
_LOCK_SECONDS = 600.0
_LIVE = (Condition.RUNNING, Condition.PAUSED)
_HIDDEN = "."


class VsphereSite:
    """The site below ``folder``; ``password`` is the account's."""

    def __init__(self, folder: Path, settings: VsphereSettings, password: str, *, name: str = "vsphere") -> None:
        self.name = name
        self._settings, self._password = settings, password
        self._folder = folder.absolute()
        self.delivery = DeliveryWish(Way.WRITTEN)

    @property
    def attaches(self) -> bool:
        """See Attaching."""
        return bool(self._settings.proxy)

    @property
    def keeps_disks(self) -> bool:
        """See Keeping: the disks belong to the server."""
        return True

    def check(self, order: RecoveryOrder) -> None:
        check_order(order, attaches=self.attaches)
        with self._session() as opened:
            check_networks(order, self._places(opened))

    def examine(self) -> dict[str, str]:
        """See Examined."""
        with self._session() as opened:
            missing = opened.missing(needed(attaches=self.attaches))
            if missing:
                raise Refused(
                    f"The account at {opened.host} lacks {', '.join(missing)}.",
                    remedy="Give its role these privileges, on the vCenter or host itself, with propagation.",
                )
            places = self._places(opened)
            if self.attaches:
                find_proxy(opened, self._settings.proxy)
            return {
                "server": opened.product,
                "datastore": f"{places.datastore}, {places.free >> 30} GiB free",
                "networks": ", ".join(sorted(places.networks)),
                "disks": "attached to this machine" if self.attaches else "sent by the server's import",
            }

    def capacity(self) -> Capacity:
        """See Measured."""
        with self._session() as opened:
            return Capacity(disk_free=self._places(opened).free)

    def attach(self, order: RecoveryOrder) -> Mapping[int, Path]:
        """See Attaching."""
        check_order(order, attaches=True)
        with self._at_work(order.failover) as opened:
            places = self._places(opened)
            check_networks(order, places)
            seen = self._of(opened, order.failover, order) or self._left_at_home(opened, order)
            if seen is None:
                making.make(opened, places, new_machine(order, places))
                seen = self._made(opened, order)
            elif seen.power != "poweredOff":
                raise Refused(
                    f"{seen.name} at {opened.host} is not off: its disks cannot be written.",
                    remedy="Shut it down there: the failover brings it up from the vault.",
                )
            return self._disks(opened).bring(seen, order)

    def create(self, order: RecoveryOrder) -> None:
        failover = order.failover
        check_order(order, attaches=self.attaches)
        with self._at_work(failover) as opened:
            seen = self._of(opened, failover, order)
            same = seen is not None and self._is_ordered(order)
            if seen is not None and not same and self._condition(opened, seen) in _LIVE:
                raise Refused(
                    f"{order.name} runs already as failover {failover}, from another order or a deleted one.",
                    remedy="Stop it first.",
                )
            if same:
                return
            # Written before anything is created: without space for the order nothing is begun at the server.
            kept, new = self._home(failover) / "order.json", self._home(failover) / "order.next"
            replace({new: write_order(order)}, remove=self._home(failover) / "left-over")
            if seen is not None and self._disks(opened).are_here(seen, order):
                self._disks(opened).hand_over(seen, order)
            else:
                self._import(opened, order, seen)
            new.replace(kept)

    def start(self, failover: FailoverId) -> RecoveredMachine:
        with explained(self._home(failover)), self._session() as opened:
            if self._of(opened, failover) is None:
                raise not_created(failover)
        with self._at_work(failover) as opened:
            seen = self._of(opened, failover)
            if seen is None:
                raise not_created(failover)
            if self._condition(opened, seen) not in _LIVE:
                # Noted before the start: the end of the earlier run must not be taken for the end of this one.
                recovered.note(opened, seen.id, run=recovered.RUNNING)
                if not seen.made:
                    power.mark(opened, seen.id, "")
                power.power_on(opened, seen.id)
            return self._told(opened, failover, recovered.look_at(opened, seen.id))

    def status(self, failover: FailoverId) -> RecoveredMachine:
        with self._session() as opened:
            seen = self._of(opened, failover)
            if seen is None:
                return RecoveredMachine(failover, Condition.ABSENT)
            return self._told(opened, failover, seen)

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        with self._session() as opened:
            if self._of(opened, failover) is None:
                return
        with self._at_work(failover) as opened:
            seen = self._of(opened, failover)
            if seen is None:
                return
            if grace > 0 and seen.power == "poweredOn" and not power.shut_down_guest(opened, seen.id):
                end = time.monotonic() + grace
                while time.monotonic() < end and not power.is_off(opened, seen.id):
                    time.sleep(_POLL_SECONDS)
            if not power.is_off(opened, seen.id):
                power.power_off(opened, seen.id)
            if seen.run != recovered.STOPPED:
                recovered.note(opened, seen.id, run=recovered.STOPPED)

    def destroy(self, failover: FailoverId) -> None:
        home = self._home(failover)
        with explained(home), self._session() as opened:
            seen = self._of(opened, failover)
            if seen is None and not home.exists():
                return
            # Without its lock if there is no space for one: nothing else can begin there either.
            with alone(home, failover, make=False, seconds=_LOCK_SECONDS):
                if seen is not None:
                    self._remove(opened, seen)
                remove_home(home)

    def present(self) -> tuple[FailoverId, ...]:
        with explained(self._folder), self._session() as opened:
            paths = self._folder.iterdir() if self._folder.exists() else ()
            there = {path.name for path in paths if path.is_dir() and not path.name.startswith(_HIDDEN)}
            return tuple(FailoverId(one) for one in sorted(there | set(recovered.labels(opened).values())))

    def hardware_id(self, failover: FailoverId) -> str:
        """Return what its firmware shows; for a machine that comes home, in the form that its guest read before."""
        with self._session() as opened:
            seen = self._of(opened, failover)
        if seen is None:
            return ""
        with contextlib.suppress(NotFound, Damaged):
            order = self.order(failover)
            if order.home and seen.uuid in recovered.forms_of(order.machine.hardware_id):
                return order.machine.hardware_id.lower()
        return seen.uuid

    def order(self, failover: FailoverId) -> RecoveryOrder:
        """Return the machine's order. Raises NotFound, Damaged."""
        return kept_order(self._home(failover) / "order.json", failover)

    def _told(self, opened: Session, failover: FailoverId, seen: Seen) -> RecoveredMachine:
        condition = self._condition(opened, seen)
        live = condition in _LIVE
        return RecoveredMachine(failover, condition, (seen.address or seen.name) if live else "")

    def _condition(self, opened: Session, seen: Seen) -> Condition:
        """Return the machine's state; note in its configuration what the server's events may forget."""
        if seen.power == "poweredOn":
            return Condition.RUNNING
        if seen.power == "suspended":
            return Condition.PAUSED
        if seen.run == recovered.SHUT_DOWN:
            return Condition.SHUT_DOWN
        if seen.run != recovered.RUNNING or not recovered.guest_ended_it(opened, seen.id):
            return Condition.STOPPED
        recovered.note(opened, seen.id, run=recovered.SHUT_DOWN)
        return Condition.SHUT_DOWN

    def _left_at_home(self, opened: Session, order: RecoveryOrder) -> Seen | None:
        """Return what remains of a machine that comes home, if its disks may be used; from now on it belongs to the
        failover."""
        seen = recovered.with_uuid(opened, order.machine.hardware_id) if order.home else None
        if seen is None:
            return None
        if seen.snapshots:
            raise Refused(
                f"{seen.name} at {opened.host} has snapshots: its disks cannot be written in place.",
                remedy="Delete its snapshots there. Or give it another UUID (uuid.bios): then a new machine is made.",
            )
        if seen.power == "poweredOff":
            recovered.note(opened, seen.id, label=order.failover, run=recovered.STOPPED, made="")
        return recovered.look_at(opened, seen.id)

    def _import(self, opened: Session, order: RecoveryOrder, before: Seen | None) -> None:
        """Create the machine and send it its disks, in place of the one before. Raises NoSpace, NotFound, Refused,
        Unreachable; then nothing of it remains."""
        home = self._home(order.failover)
        places = self._places(opened)
        check_import(order)
        check_networks(order, places)
        with tempfile.TemporaryDirectory(prefix="import-", dir=home) as made:
            images = []
            for disk in order.disks:
                if not isinstance(disk.medium, WrittenDisk) or disk.medium.image:
                    raise Refused(f"Disk {disk.number} of {order.name} is not a raw disk.", remedy="Fail over again.")
                images.append(stream_optimised(disk.medium.path, Path(made) / f"disk-{disk.number}.vmdk"))
            if before is not None:
                self._remove(opened, before)
            try:
                making.make_with(opened, places, new_machine(order, places), images)
                self._made(opened, order)
            except BaseException:
                with contextlib.suppress(Exception), self._session() as another:  # whatever happened to the first
                    left = self._of(another, order.failover, order)
                    if left is not None:
                        self._remove(another, left)
                raise

    def _made(self, opened: Session, order: RecoveryOrder) -> Seen:
        seen = recovered.of_failover(opened, order.failover)
        if seen is None:
            raise TryLater(f"{opened.host} has not created {order.name}.", remedy="This is retried automatically.")
        return seen

    def _remove(self, opened: Session, seen: Seen) -> None:
        """Destroy a machine that was created here; one that existed before remains, off, without what was added to
        it."""
        if not power.is_off(opened, seen.id):
            power.power_off(opened, seen.id)
        self._disks(opened).take_off(seen)
        if seen.made:
            with contextlib.suppress(NotFound):
                recovered.destroy(opened, seen.id)
            return
        self._disks(opened).delete_added(seen)
        recovered.note(opened, seen.id, label="", run="")

    def _of(self, opened: Session, failover: FailoverId, order: RecoveryOrder | None = None) -> Seen | None:
        if order is None:
            with contextlib.suppress(NotFound, Damaged):
                order = self.order(failover)
        uuid = order.machine.hardware_id if order is not None and order.home else ""
        return recovered.of_failover(opened, failover, uuid)

    def _disks(self, opened: Session) -> HomeDisks:
        return HomeDisks(opened, self._settings, self._folder)

    def _is_ordered(self, order: RecoveryOrder) -> bool:
        try:
            return self.order(order.failover) == order
        except (NotFound, Damaged):
            return False

    def _places(self, opened: Session) -> Places:
        one = self._settings
        return find_places(opened, Names(one.datacenter, one.cluster, one.esx, one.folder, one.datastore, one.network))

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        one = self._settings
        shown = pinned(one.host, one.port, one.fingerprint)
        with session(Login(one.host, one.port, one.user, shown.pem, self._password)) as opened:
            yield opened

    @contextlib.contextmanager
    def _at_work(self, failover: FailoverId) -> Iterator[Session]:
        """Hold the machine's lock, in a session."""
        home = self._home(failover)
        with explained(home), alone(home, failover, make=True, seconds=_LOCK_SECONDS), self._session() as opened:
            yield opened

    def _home(self, failover: FailoverId) -> Path:
        return home_of(self._folder, failover)
