"""A double of Azure Resource Manager and of the login service: the real REST shapes, for the real SDKs.

Every request is held against the SDK's own types (strict.py). Whatever takes long is an operation that the answer
names: Azure-AsyncOperation says how it goes, Location what came of it. It ends by being looked at, not by a clock.
"""

from __future__ import annotations

import copy
import struct
import urllib.parse
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.azure import resources as rules
from tests.azure.faults import Fault, Faults, problem
from tests.azure.resources import SIZES, Resource, Resources
from tests.azure.strict import TYPES, complaints
from tests.contract.page_blobs import Blobs

SUBSCRIPTION, GROUP, TENANT = "11111111-2222-3333-4444-555555555555", "recovery", "99999999-2222-3333-4444-555555555555"
CLIENT, SECRET, REGION = "77777777-2222-3333-4444-555555555555", "a-secret-of-the-tests", "westeurope"
_GROUP = "/subscriptions/{subscription}/resourceGroups/{group}"
_KIND = _GROUP + "/providers/{namespace}/{kind}"
_ONE = _KIND + "/{name}"
_OPERATIONS = "providers/Microsoft.Compute/locations/westeurope"
_PAGE = 2
_ASYNC_202 = frozenset({"disks"})
"""Kinds whose PUT answers 202; the others 201 and 200."""
_POWER = {"start": "running", "deallocate": "deallocated", "powerOff": "stopped"}


class Double:
    """``known``: the resources; ``faults``: what goes wrong. ``tokens``: the bearers that are taken."""

    def __init__(self, blobs: Blobs) -> None:
        self.known = Resources(blobs)
        self.faults = Faults()
        self.tokens: set[str] = set()
        self.logins = 0
        self.actions = ["*"]
        """What the caller may do, by Azure's names."""
        self.state = "Enabled"
        """Of the subscription."""
        self.accounts: dict[str, dict[str, Any]] = {}
        """Storage accounts, by name: what is shown of each."""

    def app(self) -> Starlette:
        verbs = ("PUT", "GET", "DELETE")
        return Starlette(
            routes=[
                Route("/{tenant}/v2.0/.well-known/openid-configuration", self.discover),
                Route("/{tenant}/oauth2/v2.0/token", self.login, methods=["POST"]),
                Route(f"/subscriptions/{{subscription}}/{_OPERATIONS}/operations/{{number}}", self.operation),
                Route(f"/subscriptions/{{subscription}}/{_OPERATIONS}/results/{{number}}", self.result),
                Route("/subscriptions/{subscription}/providers/Microsoft.Compute/locations/{l}/usages", self.usages),
                Route("/subscriptions/{subscription}/providers/Microsoft.Compute/skus", self.skus),
                Route("/subscriptions/{subscription}", self.subscription),
                Route(_GROUP, self.group),
                Route(_GROUP + "/providers/Microsoft.Storage/storageAccounts/{name}", self.account),
                Route(_GROUP + "/providers/Microsoft.Authorization/permissions", self.permissions),
                *(Route(_ONE, getattr(self, verb.lower()), methods=[verb]) for verb in verbs),
                Route(_KIND, self.page),
                Route(_ONE + "/beginGetAccess", self.begin_access, methods=["POST"]),
                Route(_ONE + "/endGetAccess", self.end_access, methods=["POST"]),
                Route(_ONE + "/instanceView", self.instance_view),
                Route(_ONE + "/subnets/{subnet}", self.subnet),
                Route(_ONE + "/retrieveBootDiagnosticsData", self.diagnostics, methods=["POST"]),
                Route(_ONE + "/{action}", self.act, methods=["POST"]),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self.gate)],
            exception_handlers={Fault: _fault},
        )

    async def gate(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        instead = self.faults.of(request)
        if instead is not None:
            return instead
        if request.url.path.startswith("/subscriptions/"):
            if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
                return problem(401, "ExpiredAuthenticationToken", "The access token has expired.")
            if "api-version" not in request.query_params:
                return problem(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
            if f"/subscriptions/{SUBSCRIPTION}" not in request.url.path:
                return problem(404, "SubscriptionNotFound", "The subscription could not be found.")
        return await call_next(request)

    # --- the login service

    async def discover(self, request: Request) -> Response:
        base = f"{request.base_url}{request.path_params['tenant']}"
        return JSONResponse({
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "issuer": f"{base}/v2.0",
        })  # fmt: skip

    async def login(self, request: Request) -> Response:
        form = dict(urllib.parse.parse_qsl((await request.body()).decode()))
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT, SECRET):
            said = {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}
            return JSONResponse(said, 401)
        self.logins += 1
        token = f"token-{self.logins}"
        self.tokens.add(token)
        return JSONResponse({"token_type": "Bearer", "expires_in": 3600, "access_token": token})

    # --- long operations

    def begin(
        self, request: Request, status: int, body: Any, end: Callable[[], None], *, path: str, location: Any = None
    ) -> Response:
        """``location``: what came of it, where the answer has no body; None: nothing."""
        fails = next((part for part in self.faults.failing if part in path), None)
        if fails is not None:
            self.faults.failing.remove(fails)
        number = self.known.begin(path, end, location, fails=fails is not None)
        base = f"{request.base_url}subscriptions/{SUBSCRIPTION}/{_OPERATIONS}"
        headers = {"Azure-AsyncOperation": f"{base}/operations/{number}?api-version=2024-07-01", "Retry-After": "0"}
        if body is None:
            headers["Location"] = f"{base}/results/{number}?api-version=2024-07-01"
            return Response(status_code=status, headers=headers)
        return JSONResponse(body, status, headers)

    async def operation(self, request: Request) -> Response:
        one = self.known.operations[request.path_params["number"]]
        one.look()
        told: dict[str, Any] = {"status": "InProgress"}
        if one.done:
            told = {"status": "Succeeded"} if one.error is None else {"status": "Failed", "error": one.error}
        return JSONResponse(told)

    async def result(self, request: Request) -> Response:
        one = self.known.operations[request.path_params["number"]]
        one.look()
        if not one.done:
            return Response(status_code=202, headers={"Location": str(request.url), "Retry-After": "0"})
        return JSONResponse(one.result) if one.result is not None else Response(status_code=204)

    # --- resources

    async def put(self, request: Request) -> Response:
        path, at = request.url.path.lower(), request.path_params
        kind = at["kind"].lower()
        body = await request.json()
        if kind not in TYPES:
            raise Fault(404, "InvalidResourceType", kind)
        if wrong := complaints(at["namespace"], TYPES[kind], body):
            raise Fault(400, "InvalidRequestContent", "; ".join(wrong))
        if not body.get("location"):
            raise Fault(400, "LocationRequired", "The location property is required.")
        self._unless_busy(path)
        fails = any(part in path for part in self.faults.failing)
        new = path not in self.known.held
        body.setdefault("properties", {})
        rules.PUT[kind](self.known, path, body)
        body |= {"id": request.url.path, "name": at["name"], "type": f"{at['namespace']}/{at['kind']}"}
        body["properties"]["provisioningState"] = "Creating" if new else "Updating"
        self.known.held[path] = body

        def end() -> None:
            body["properties"]["provisioningState"] = "Succeeded"

        if fails:
            body["properties"]["provisioningState"] = "Failed"
            if kind == "virtualmachines":
                body["power"] = "failed"
        shown = copy.deepcopy(body)
        status = 202 if kind in _ASYNC_202 else 201 if new else 200
        return self.begin(request, status, _shown(shown), end, path=path)

    async def get(self, request: Request) -> Response:
        found = self.known.get(request.url.path)
        if request.query_params.get("$expand") == "instanceView":
            found["properties"]["instanceView"] = _view(found)
        return JSONResponse(_shown(found))

    async def page(self, request: Request) -> Response:
        """In small pages, as lists come."""
        path = request.url.path.lower() + "/"
        every = [
            one for where, one in sorted(self.known.held.items()) if where.startswith(path) and "/subnets/" not in where
        ]
        first = int(request.query_params.get("$skiptoken", "0"))
        for one in every[first : first + _PAGE]:
            self.known.look(one["id"])
        told: dict[str, Any] = {"value": [_shown(copy.deepcopy(one)) for one in every[first : first + _PAGE]]}
        if first + _PAGE < len(every):
            version = request.query_params["api-version"]
            base = str(request.url).partition("?")[0]
            told["nextLink"] = f"{base}?api-version={version}&$skiptoken={first + _PAGE}"
        return JSONResponse(told)

    async def delete(self, request: Request) -> Response:
        path = request.url.path.lower()
        if path not in self.known.held:
            return Response(status_code=204)
        self._unless_busy(path)
        end = rules.delete(self.known, request.path_params["kind"].lower(), path)
        return self.begin(request, 202, None, end, path=path)

    def _unless_busy(self, path: str) -> None:
        if self.known.busy(path):
            self.known.look(path)
            raise Fault(409, "AnotherOperationInProgress", "Another operation on this resource is in progress.")

    async def subnet(self, request: Request) -> Response:
        return JSONResponse(self.known.get(request.url.path))

    # --- disks

    async def begin_access(self, request: Request) -> Response:
        path = request.url.path.lower().rpartition("/")[0]
        asked = await request.json()
        if wrong := complaints("Microsoft.Compute", "GrantAccessData", asked):
            raise Fault(400, "InvalidRequestContent", "; ".join(wrong))
        self._unless_busy(path)
        self.known.get(path)
        properties = self.known.held[path]["properties"]
        state, writing = properties["diskState"], asked["access"] == "Write"
        if state not in (("ReadyToUpload", "ActiveUpload") if writing else ("Unattached", "ActiveSAS")):
            raise Fault(409, "OperationNotAllowed", f"The disk is {state}.")
        name = properties["uniqueId"]
        if state == "ReadyToUpload":
            self.known.blobs.make(properties["diskSizeBytes"], name)
        properties["diskState"] = "ActiveUpload" if writing else "ActiveSAS"
        address = self.known.blobs.grant(name, asked["durationInSeconds"], "rw" if writing else "r")
        return self.begin(request, 202, None, lambda: None, path=path, location={"accessSAS": address})

    async def end_access(self, request: Request) -> Response:
        path = request.url.path.lower().rpartition("/")[0]
        self._unless_busy(path)
        self.known.get(path)
        properties = self.known.held[path]["properties"]
        if properties["diskState"] == "ActiveUpload":
            blob = self.known.blobs.direct(properties["uniqueId"])
            if not blob.download_blob(properties["diskSizeBytes"], 512).readall().startswith(b"conectix"):
                properties["hyperVGeneration"] = "none: it has no footer"
        if properties["diskState"] in ("ActiveUpload", "ActiveSAS"):
            properties["diskState"] = "Unattached"
        return self.begin(request, 202, None, lambda: None, path=path)

    # --- machines

    async def instance_view(self, request: Request) -> Response:
        return JSONResponse(_view(self.known.get(request.url.path.rpartition("/")[0])))

    async def act(self, request: Request) -> Response:
        path, action = request.url.path.lower().rpartition("/")[0], request.path_params["action"]
        self._unless_busy(path)
        self.known.get(path)
        if action not in _POWER:
            raise Fault(404, "InvalidResourceType", action)
        machine = self.known.held[path]

        def end() -> None:
            if path in self.known.held:
                machine["power"] = _POWER[action]

        return self.begin(request, 202, None, end, path=path)

    async def diagnostics(self, request: Request) -> Response:
        machine = self.known.get(request.url.path.rpartition("/")[0])
        if not machine["properties"].get("diagnosticsProfile", {}).get("bootDiagnostics", {}).get("enabled"):
            raise Fault(409, "BootDiagnosticsNotEnabled")
        unique = machine["properties"]["vmId"]
        screen, console = (self.known.blobs.put(f"{unique}.{end}", data) for end, data in _DIAGNOSTICS.items())
        return JSONResponse({"consoleScreenshotBlobUri": screen, "serialConsoleLogBlobUri": console})

    # --- what there is

    async def usages(self, request: Request) -> Response:
        used = sum(
            SIZES[one["properties"]["hardwareProfile"]["vmSize"]][0] for _, one in self.known.of("virtualMachines")
        )
        name = {"value": "cores", "localizedValue": "Total Regional vCPUs"}
        return JSONResponse(
            {"value": [{"unit": "Count", "currentValue": used, "limit": self.known.cores, "name": name}]}
        )

    async def skus(self, request: Request) -> Response:
        return JSONResponse({"value": [_sku(name, *size) for name, size in SIZES.items()]})

    async def group(self, request: Request) -> Response:
        if request.path_params["group"].lower() != GROUP:
            raise Fault(404, "ResourceGroupNotFound", "The resource group could not be found.")
        return JSONResponse({"id": request.url.path, "name": GROUP, "location": REGION, "properties": {}})

    async def subscription(self, request: Request) -> Response:
        return JSONResponse({"subscriptionId": SUBSCRIPTION, "displayName": "Recovery", "state": self.state})

    async def account(self, request: Request) -> Response:
        found = self.accounts.get(request.path_params["name"])
        if found is None:
            raise Fault(404, "ResourceNotFound", "The storage account was not found.")
        return JSONResponse(found)

    async def permissions(self, request: Request) -> Response:
        return JSONResponse({"value": [{"actions": self.actions, "notActions": []}]})


async def _fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)
    return error.answer


def _shown(resource: Resource) -> Resource:
    """Without what is ours alone."""
    return {name: value for name, value in resource.items() if name != "power"}


def _view(machine: Resource) -> dict[str, Any]:
    state = machine["properties"]["provisioningState"].lower()
    statuses = [{"code": f"ProvisioningState/{state}", "level": "Info"}]
    if machine["power"] != "failed":
        statuses.append({"code": f"PowerState/{machine['power']}", "level": "Info"})
    return {"statuses": statuses}


def _sku(name: str, cores: int, memory: int, cards: int, disks: int, generations: str) -> dict[str, Any]:
    capabilities = {
        "vCPUs": cores, "MemoryGB": memory, "MaxNetworkInterfaces": cards, "MaxDataDiskCount": disks,
        "HyperVGenerations": generations, "PremiumIO": "True", "CpuArchitectureType": "x64",
    }  # fmt: skip
    return {
        "resourceType": "virtualMachines", "name": name, "locations": [REGION], "restrictions": [],
        "family": name.split("_")[1], "capabilities": [{"name": k, "value": str(v)} for k, v in capabilities.items()],
    }  # fmt: skip


def _bitmap() -> bytes:
    """A screen of two by two pixels, as boot diagnostics have it."""
    rows = b"\x00\x00\xff\x00\xff\x00\0\0" * 2
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54 + len(rows), 0, 0, 54, 40, 2, 2, 1, 24, 0, len(rows), 0, 0, 0, 0)
        + rows
    )


_DIAGNOSTICS = {"bmp": _bitmap(), "log": b"Linux version 6.1\r\nhv_vmbus: Vmbus version:5.2\r\ndb1 login: "}
