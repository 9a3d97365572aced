"""Every route says whom it is for; the document says the same."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from api.http.access.rules import UndeclaredAccess, needs
from api.http.openapi import schema_of
from api.http.routing import declared_routes, make_router
from models.access import Scope
from tests.unit.api.support import Api
from tests.unit.api.support import api as api


def test_a_route_that_declares_nothing_does_not_start() -> None:
    router = make_router()

    async def forgotten() -> None:
        return None

    with pytest.raises(UndeclaredAccess, match="forgotten"):
        router.get("/forgotten")(forgotten)
    app = FastAPI(openapi_url=None)
    router.get("/declared")(needs(Scope.FRAMES_READ)(forgotten))
    app.include_router(router)
    assert [route.path for route in declared_routes(app)] == ["/declared"]
    app.get("/beside")(forgotten)
    with pytest.raises(UndeclaredAccess, match="/beside"):
        declared_routes(app)


async def test_the_document_names_each_operations_scopes(api: Api) -> None:
    schema = schema_of(api.app)
    assert schema["components"]["securitySchemes"].keys() == {"bearer", "session"}
    for route in declared_routes(api.app):
        if not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = schema["paths"][route.path_format][method.lower()]
            scopes = [scope.value for scope in route.rule.scopes]
            wanted = [] if route.rule.public else [{"bearer": scopes}, {"session": scopes}]
            assert operation["security"] == wanted, route.path
            assert route.rule.public or {"401", "403", "429"} <= operation["responses"].keys()
