"""Read properties of many objects in few requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pyVmomi import vmodl

from farshore.vsphere.session import Session

_QUERY = vmodl.query.PropertyCollector
_PORTION = 200


def read_all(session: Session, objects: Sequence[Any], paths: Sequence[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each object with those of its properties that are set and readable. All objects must be of one kind. Raises
    what the SDK raises."""
    for start in range(0, len(objects), _PORTION):
        some = objects[start : start + _PORTION]
        left = len(some)
        wanted = _QUERY.PropertySpec(type=_kind(some[0]), pathSet=list(paths))
        chosen = _QUERY.FilterSpec(objectSet=[_QUERY.ObjectSpec(obj=one) for one in some], propSet=[wanted])
        answer = session.content.propertyCollector.RetrievePropertiesEx([chosen], _QUERY.RetrieveOptions())
        while answer is not None:
            found = answer.objects or []
            left -= len(found) or bool(answer.token)
            if left < 0:  # an answer that never ends
                raise ValueError("more objects than were requested")
            for one in found:
                yield one.obj, {change.name: change.val for change in one.propSet or []}
            if not answer.token:
                break
            answer = session.content.propertyCollector.ContinueRetrievePropertiesEx(answer.token)


def read(session: Session, one: Any, paths: Sequence[str]) -> dict[str, Any]:
    """Return those of one object's properties that are set and readable. Raises what the SDK raises."""
    for _, found in read_all(session, [one], paths):
        return found
    return {}


def _kind(one: Any) -> Any:
    """Return the declared type that the server knows: the SDK's own class, not a subclass of ours."""
    return type(one)
