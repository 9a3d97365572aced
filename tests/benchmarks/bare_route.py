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
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import FastAPI, HTTPException


def make_app(dsn: str, clients: int) -> FastAPI:
    """A pool as large as the benchmark's clients are many."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(dsn, min_size=clients, max_size=clients) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/status/{request_id}")
    async def status(request_id: UUID) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection:
            row = await connection.fetchrow("SELECT * FROM ingestion_requests WHERE id = $1", request_id)
            if row is None:
                raise HTTPException(404)
            frames = await connection.fetch("SELECT * FROM frames WHERE request_id = $1 ORDER BY sequence", request_id)
        shown = {name: value for name, value in row.items() if not name.startswith(("dropped_", "idle_"))}
        return {**shown, "frames": [dict(frame) for frame in frames]}

    @app.get("/frames")
    async def frames(limit: int = 50) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM frames ORDER BY capture_timestamp, id LIMIT $1", limit)
        return {"items": [dict(row) for row in rows]}

    return app


def main() -> None:
    config = uvicorn.Config(make_app(sys.argv[1], int(sys.argv[2])), port=0, log_level="error", access_log=False)
    listening = config.bind_socket()
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
