"""A client of the WebSocket, by the library that its users have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

SOCKET = "/api/v1/ws"
Message = dict[str, Any]


class Live:
    """One connection; every message that came is in `heard`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.heard: list[Message] = []

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def next(self, seconds: float = 20) -> Message:
        async with asyncio.timeout(seconds):
            message: Message = json.loads(await self.connection.recv())
        self.heard.append(message)
        return message

    async def until(self, wanted: Callable[[Message], bool], seconds: float = 20) -> Message:
        """The next message that is wanted; those before it are in `heard`."""
        async with asyncio.timeout(seconds):
            while not wanted(message := await self.next(seconds)):
                pass
        return message

    async def subscribe(self, name: str = "a", **wanted: Any) -> Message:
        await self.send(op="subscribe", id=name, **wanted)
        return await self.until(lambda message: message["op"] in ("subscribed", "error") and message.get("id") == name)

    async def event(self, seconds: float = 20) -> Message:
        """The next event, as CloudEvent; its cursor is checked to be its id."""
        message = await self.until(lambda item: item["op"] == "event", seconds)
        event: Message = message["event"]
        assert message["cursor"] == event["id"]
        return event

    async def closed(self, seconds: float = 20) -> int:
        """The code with which the server closes."""
        async with asyncio.timeout(seconds):
            await self.connection.wait_closed()
        assert self.connection.close_code is not None
        return self.connection.close_code


@asynccontextmanager
async def live(client: httpx.AsyncClient, path: str = SOCKET, **options: Any) -> AsyncIterator[Live]:
    """A connection to the service of `client`, with the client's Authorization header unless `headers` says another one.

    Raises websockets' InvalidStatus when the handshake is refused.
    """
    headers = options.pop("headers", None)
    if headers is None and "Authorization" in client.headers:
        headers = {"Authorization": client.headers["Authorization"]}
    url = str(client.base_url.join(path)).replace("http", "ws", 1)
    options = {"subprotocols": [Subprotocol("trackshift.v1")], "compression": None, **options}
    async with connect(url, additional_headers=headers, **options) as connection:
        yield Live(connection)
