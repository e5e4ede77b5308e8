"""Makes the ASGI application of one installation."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from farshore import __version__
from farshore.configuration_server.api import (
    agents,
    alerts,
    audit,
    authority,
    description,
    enrolments,
    events,
    failovers,
    jobs,
    machines,
    master_target_self,
    master_targets,
    metrics,
    points,
    policies,
    process_server_pushes,
    process_server_self,
    process_server_vmware,
    process_servers,
    push_accounts,
    sites,
    targets,
    users,
    vault,
    vmware,
)
from farshore.configuration_server.services import Services
from farshore.configuration_server.web import problems
from farshore.configuration_server.web.bounds import BoundedBodies
from farshore.configuration_server.web.description import ERRORS, DescribedApplication

ROUTERS = (
    enrolments.router,
    agents.router,
    process_server_self.router,
    process_server_pushes.router,
    process_server_vmware.router,
    process_servers.router,
    master_target_self.router,
    master_targets.router,
    machines.router,
    machines.summaries,
    targets.router,
    points.router,
    policies.router,
    failovers.router,
    sites.router,
    push_accounts.router,
    jobs.router,
    events.router,
    alerts.router,
    audit.router,
    authority.router,
    metrics.router,
    users.router,
    vault.router,
    vmware.router,
    vmware.certificates,
    vmware.machines,
    description.router,
)
DESCRIPTION = """The management API of a Farshore installation. Every call but `/v1/status`, `/v1/authority`,
`/v1/authorities`, `/v1/enrolments`, `/v1/process-servers/enrolments` and `/v1/master-targets/enrolments` needs a client
certificate of an authority of the installation. Errors are problem documents (RFC 9457) whose `type` is
`urn:farshore:<code>`; docs/errors.md lists the codes."""


def create_application(services: Services | None) -> FastAPI:
    """Return the application; without services it can only describe itself."""
    app = DescribedApplication(
        title="Farshore",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # api/description.py serves it, to those who have a certificate
        generate_unique_id_function=_operation_id,
        responses=ERRORS,
    )
    app.state.services = services
    app.add_middleware(BoundedBodies)
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
