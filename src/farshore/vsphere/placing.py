"""Resolve names that people use to the SDK's objects, for the place of a new machine.

A name that is not given is chosen if there is only one; if there are several, the error lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from farshore.model.errors import Refused
from farshore.vsphere.faults import translated
from farshore.vsphere.reading import read_all
from farshore.vsphere.session import Session

_SHOWN = 10


@dataclass(frozen=True)
class Names:
    """Names at a VMware server; empty: the only one. An empty ``host``: the cluster chooses."""

    datacenter: str = ""
    cluster: str = ""
    host: str = ""
    folder: str = ""
    datastore: str = ""
    network: str = ""


@dataclass(frozen=True)
class Places:
    """The objects of ``Names``; ``networks`` by name, of the datacenter."""

    folder: Any
    pool: Any
    host: Any
    datastore: str
    network: Any
    networks: dict[str, Any]
    accessible: bool
    free: int
    """Free bytes in the datastore."""


def find_places(session: Session, names: Names) -> Places:
    """Resolve the names. Raises Refused for a name that does not exist or is not unique, and as ``translated``."""
    with translated(session.host):
        centre = _one(session, vim.Datacenter, session.content.rootFolder, names.datacenter, "datacenter")
        compute = _one(session, vim.ComputeResource, centre.hostFolder, names.cluster, "cluster")
        host = None
        if names.host:
            host = _named(session, compute.host, names.host, "host")
        folder = centre.vmFolder
        if names.folder:
            folder = _one(session, vim.Folder, centre.vmFolder, names.folder, "folder")
        datastore = _named(session, centre.datastore, names.datastore, "datastore")
        networks = {str(found["name"]): one for one, found in read_all(session, centre.network, ["name"])}
        usable = {name: one for name, one in networks.items() if not name.endswith("DVUplinks")}
        if names.network and names.network not in networks:
            raise _missing("network", names.network, networks)
        if not names.network and len(usable) != 1:
            raise _several("network", usable)
        network = networks[names.network] if names.network else next(iter(usable.values()))
        summary = datastore.summary
        return Places(
            folder=folder,
            pool=compute.resourcePool,
            host=host,
            datastore=str(summary.name),
            network=network,
            networks=networks,
            accessible=bool(summary.accessible),
            free=int(summary.freeSpace or 0),
        )


def _one(session: Session, kind: Any, below: Any, name: str, what: str) -> Any:
    view = session.content.viewManager.CreateContainerView(below, [kind], True)
    try:
        return _named(session, list(view.view), name, what)
    finally:
        view.Destroy()


def _named(session: Session, found: Sequence[Any], name: str, what: str) -> Any:
    named = {str(values["name"]): one for one, values in read_all(session, found, ["name"])}
    if name:
        if name not in named:
            raise _missing(what, name, named)
        return named[name]
    if len(named) != 1:
        raise _several(what, named)
    return next(iter(named.values()))


def _missing(what: str, name: str, there: dict[str, Any]) -> Refused:
    return Refused(f"There is no {what} {name!r}.", remedy=f"There are: {_shown(there)}. See farshore vmware places.")


def _several(what: str, there: dict[str, Any]) -> Refused:
    if not there:
        return Refused(
            f"There is no {what}.", remedy=f"Create one, or let the account see it: System.View on the {what}."
        )
    return Refused(f"There are several of the kind {what}: {_shown(there)}.", remedy=f"Name one: --setting {what}=NAME")


def _shown(there: dict[str, Any]) -> str:
    names = sorted(there)
    more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more"
    return f"{', '.join(names[:_SHOWN]) or 'none'}{more}"
