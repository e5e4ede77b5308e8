"""One property filter over everything that discovery needs, and one long request after another for changes.

The server keeps the filter in our session and counts versions: the answer to WaitForUpdatesEx has the changes since the
version in the request. ``partialUpdates=False``: a changed property comes complete, not as a path into it. A lost
answer cannot be requested again reliably, so after any failure everything begins anew.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from pyVmomi import vim, vmodl

from farshore.vsphere.faults import translated
from farshore.vsphere.properties import MACHINE, PLACES
from farshore.vsphere.session import Session

_QUERY: Final = vmodl.query.PropertyCollector
PORTION: Final = 100
"""Objects in one answer: 1 MiB of XML. The rest comes with the next."""
_CANCEL_SECONDS: Final = 3.0


class Filter:
    """The filter of one session; it ends with the session."""

    def __init__(self, session: Session) -> None:
        """Create it at the server. Raises as ``translated``."""
        self._session = session
        kinds = [vim.VirtualMachine, *(sdk_type for sdk_type, _ in PLACES.values())]
        properties = [_QUERY.PropertySpec(type=vim.VirtualMachine, pathSet=list(MACHINE))]
        properties += [_QUERY.PropertySpec(type=one, pathSet=list(paths)) for one, paths in PLACES.values()]
        with translated(session.host):
            content = session.content
            view = content.viewManager.CreateContainerView(content.rootFolder, kinds, True)
            everything = _QUERY.TraversalSpec(name="all", path="view", skip=False, type=vim.view.ContainerView)
            start = _QUERY.ObjectSpec(obj=view, skip=True, selectSet=[everything])
            self._collector = content.propertyCollector.CreatePropertyCollector()
            self._collector.CreateFilter(_QUERY.FilterSpec(objectSet=[start], propSet=properties), False)

    def wait(self, version: str, seconds: int) -> Any:
        """Return the SDK's UpdateSet of the changes since a version ("": everything), or None if there are none. If it
        is truncated, ask for the rest at once. Raises as ``translated``."""
        options = _QUERY.WaitOptions(maxWaitSeconds=seconds, maxObjectUpdates=PORTION)
        with translated(self._session.host):
            return self._collector.WaitForUpdatesEx(version, options)

    def cancel(self) -> None:
        """End a ``wait`` of another thread, if the server still answers."""
        other = self._session.beside(_CANCEL_SECONDS)
        with contextlib.suppress(Exception):  # it would end by itself as well
            _QUERY(self._collector._moId, other).CancelWaitForUpdates()
        other.DropConnections()
