"""RTSP on the wire, as much as the proxy needs of it."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the client sent it; header names are in lower case."""

    method: str
    uri: str
    headers: Mapping[str, str]
    raw: bytes = field(repr=False)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """One RTSP message, or one interleaved packet."""
    first = await reader.readexactly(1)
    if first == b"$":
        head = await reader.readexactly(3)
        return first + head + await reader.readexactly(int.from_bytes(head[1:], "big"))
    head = first + await reader.readuntil(b"\r\n\r\n")
    length = parse_request(head).headers.get("content-length", "0")
    return head + await reader.readexactly(int(length) if length.isdigit() else 0)


def parse_request(message: bytes) -> Request:
    """The start line and headers of a message; of an answer only the headers mean anything."""
    start, *lines = message.split(b"\r\n\r\n", 1)[0].decode("utf-8", "replace").split("\r\n")
    method, _, rest = start.partition(" ")
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return Request(method, rest.partition(" ")[0], {k.strip().lower(): v.strip() for k, v in pairs}, message)


def response(request: Request, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"RTSP/1.0 {status} {reason}", f"CSeq: {request.headers.get('cseq', '0')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
