"""Endpoints that FastAPI's solving of dependencies is spared: the same values, and FastAPI's own errors."""

from __future__ import annotations

import json
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Query
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.http.direct import directly
from api.http.params import Limit, RequestId

ID = "01a22007-c62a-7b4d-8d66-2bc7b07bc903"


async def _wanted(order: Annotated[str, Query(max_length=4)] = "asc", by: str | None = None) -> dict[str, Any]:
    return {"order": order, "by": by}


async def _endpoint(
    request_id: RequestId,
    request: Request,
    wanted: Annotated[dict[str, Any], Depends(_wanted)],
    needed: str,
    limit: Limit = 50,
) -> Response:
    return JSONResponse([str(request_id), type(request_id).__name__, request.url.path, wanted, needed, limit])


class _Direct(APIRoute):
    def get_route_handler(self) -> Any:
        return directly(self.dependant, super().get_route_handler())


def _app(route: type[APIRoute]) -> httpx.AsyncClient:
    router = APIRouter(route_class=route)
    router.get("/things/{request_id}")(_endpoint)
    app = FastAPI()
    app.include_router(router)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    "path",
    [
        f"{ID}?needed=a", f"{ID}?needed=a&limit=7&order=desc&by=x", ID, f"{ID}?needed=a&limit=0", f"{ID}?needed=a&limit=5.0",
        f"{ID}?needed=a&order=longer", "none?needed=a", "none?limit=x",
    ],
)  # fmt: skip
async def test_answers_and_errors_are_those_of_fastapi(path: str) -> None:
    async with _app(APIRoute) as usual, _app(_Direct) as spared:
        theirs, ours = await usual.get(f"/things/{path}"), await spared.get(f"/things/{path}")
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


async def test_the_usual_request_never_reaches_fastapis_handler() -> None:
    async def refuse(_: Request) -> Response:
        raise AssertionError("solved by FastAPI")

    class Alone(APIRoute):
        def get_route_handler(self) -> Any:
            return directly(self.dependant, refuse)

    async with _app(Alone) as client:
        answer = await client.get(f"/things/{ID}?needed=a&limit=7")
    assert answer.json() == [ID, "UUID", f"/things/{ID}", {"order": "asc", "by": None}, "a", 7]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    camera_id: str
    fps: float | None = Field(None, gt=0)


async def _posted(body: _Body, needed: str) -> Response:
    return JSONResponse([body.model_dump(), needed])


@pytest.mark.parametrize("solved", [APIRoute, _Direct])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"camera_id": "c", "fps": 2}', 200), (b'{"camera_id": "c"}', 200), (b'{"fps": 0}', 422),
        (b'{"camera_id": "c", "x": 1}', 422), (b"null", 422), (b"[]", 422), (b"7", 422),
    ],
)  # fmt: skip
async def test_a_body_is_validated_and_its_errors_are_fastapis(solved: type[APIRoute], body: bytes, status: int) -> None:
    class Read(solved):  # type: ignore[misc,valid-type]
        """As StrictRoute, which reads and parses the body before."""

        def get_route_handler(self) -> Any:
            handler = super().get_route_handler()

            async def read(request: Request) -> Response:
                await request.json()
                found: Response = await handler(request)
                return found

            return read

    router, app = APIRouter(route_class=Read), FastAPI()
    router.post("/things")(_posted)
    app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/things?needed=a", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == [{"fps": None, **json.loads(body)}, "a"]
    else:
        usual = TypeAdapter(_Body)
        with pytest.raises(ValidationError) as found:
            usual.validate_python(json.loads(body))
        wanted = [["body", *each["loc"]] for each in found.value.errors()]
        assert [each["loc"] for each in answer.json()["detail"]] == wanted


async def test_a_part_of_the_body_is_refused_when_its_route_is_made() -> None:
    async def takes_a_part(body: Annotated[_Body, Body(embed=True)]) -> Response:
        return JSONResponse(body.model_dump())

    with pytest.raises(TypeError, match="takes more"):
        APIRouter(route_class=_Direct).post("/")(takes_a_part)


def test_an_endpoint_that_takes_more_is_refused_when_its_route_is_made() -> None:
    async def takes_a_response(response: Response) -> Response:
        return response

    with pytest.raises(TypeError, match="takes more"):
        APIRouter(route_class=_Direct).get("/")(takes_a_response)
