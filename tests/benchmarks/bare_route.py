"""What a user would write instead: bare FastAPI routes with the same SELECTs by asyncpg, and no more.

`python -m tests.benchmarks.bare_route DSN CLIENTS` listens on a port of loopback and prints it. Served as `uvicorn` on the
command line serves it: with uvloop and httptools, and a socket of uvicorn's making. A socket of `socket.create_server` under
asyncio's own loop keeps Nagle's algorithm on, and every answer waits 40 ms for the client's delayed acknowledgement.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


class Capture(BaseModel):
    """As much of the service's body as its clients send."""

    camera_id: str
    rtsp_url: str
    capture_mode: str


_TABLE = """
CREATE TABLE IF NOT EXISTS bare_captures (
    id uuid PRIMARY KEY, camera_id text NOT NULL, body jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
)
"""


def make_app(dsn: str, clients: int) -> FastAPI:
    """A pool as large as the benchmark's clients are many."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(dsn, min_size=clients, max_size=clients) as pool:
            app.state.pool = pool
            await pool.execute(_TABLE)
            yield

    app = FastAPI(lifespan=lifespan)

    async def status(request_id: UUID) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection:
            row = await connection.fetchrow("SELECT * FROM ingestion_requests WHERE id = $1", request_id)
            if row is None:
                raise HTTPException(404)
            frames = await connection.fetch("SELECT * FROM frames WHERE request_id = $1 ORDER BY sequence", request_id)
        shown = {name: value for name, value in row.items() if not name.startswith(("dropped_", "idle_"))}
        return {**shown, "frames": [dict(frame) for frame in frames]}

    async def frames(limit: int = 50) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM frames ORDER BY capture_timestamp, id LIMIT $1", limit)
        return {"items": [dict(row) for row in rows]}

    @app.post("/captures", status_code=202)
    async def submit(body: Capture) -> dict[str, Any]:
        insert = "INSERT INTO bare_captures (id, camera_id, body) VALUES ($1, $2, $3) RETURNING id, camera_id, created_at"
        async with app.state.pool.acquire() as connection:
            row = await connection.fetchrow(insert, uuid4(), body.camera_id, body.model_dump_json())
        return {"status": "pending", **row}

    for path, work in (("/status/{request_id}", status), ("/frames", frames)):
        app.get(path)(work)  # its return type lets pydantic write the answer
        app.get(f"/untyped{path}", response_model=None)(work)  # without one, FastAPI's jsonable_encoder and json do
    return app


def main() -> None:
    config = uvicorn.Config(make_app(sys.argv[1], int(sys.argv[2])), port=0, log_level="error", access_log=False)
    listening = config.bind_socket()
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
