"""Settings of a vSphere site; its secret is the account's password."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class VsphereSettings(BaseModel):
    """``fingerprint``: SHA-256 of the server's certificate, the only one that is trusted. ``datacenter`` to ``network``
    are names; empty: the only one that exists. ``esx`` is a host; empty: the cluster chooses. ``network`` is for every
    card for which the target names none. ``proxy``: the machine at this vSphere that this server runs in, by its UUID
    or name: disks are attached to it and written there; empty: they are sent by the server's import. ``devices``: the
    folder in which such disks appear."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Annotated[_Name, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 443
    user: Annotated[_Name, Field(min_length=1)]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9A-Fa-f:]{64,95}$")]
    datacenter: _Name = ""
    cluster: _Name = ""
    esx: _Name = ""
    folder: _Name = ""
    datastore: _Name = ""
    network: _Name = ""
    proxy: _Name = ""
    devices: Annotated[str, Field(max_length=400, pattern=r"^/[^\x00-\x1f]*$")] = "/dev/disk/by-id"
