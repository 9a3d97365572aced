"""Files that are two things at once: a picture that decodes whole, and a page or a script that runs if taken for one.

And a page that has them run, if a browser lets it.
"""

from __future__ import annotations

import asyncio
import io
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
from PIL import Image

from tests.kits.service_support import jpeg

SIZE = (64, 48)
COMMENT = 0x2F2A  # "/*" as the length of a JPEG's first segment


@dataclass(frozen=True)
class Polyglot:
    name: str  # also its file name
    data: bytes
    as_type: str  # what it is besides: what a server would have to call it for it to run


def polyglots(mark: str) -> list[Polyglot]:
    """Each asks for `mark` with its name behind it, when it runs."""

    def page(name: str) -> bytes:
        return f"<html><body><script>new Image().src = '{mark}{name}'</script>".encode()

    def script(name: str) -> bytes:
        return f"fetch('{mark}{name}', {{mode: 'no-cors'}})".encode()

    return [
        Polyglot("page.jpg", _with_segment(jpeg(SIZE), page("page.jpg")), "text/html"),
        Polyglot("tail.jpg", jpeg(SIZE) + page("tail.jpg"), "text/html"),
        Polyglot("page.png", _with_text(jpeg(SIZE, "PNG"), page("page.png")), "text/html"),
        Polyglot("script.jpg", _jpeg_script(script("script.jpg")), "text/javascript"),
        Polyglot("script.bmp", _bmp_script(script("script.bmp")), "text/javascript"),
        Polyglot("zip.jpg", jpeg(SIZE) + _zip(page("zip.jpg")), "text/html"),
    ]


def _with_segment(data: bytes, text: bytes) -> bytes:
    """A JPEG with a comment."""
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + data[2:]


def _with_text(data: bytes, text: bytes) -> bytes:
    """A PNG with a text chunk behind its header."""
    body = b"tEXtComment\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


def _jpeg_script(code: bytes) -> bytes:
    """The first bytes are a name of JavaScript, the first segment's length begins a comment, which ends within the segment;
    everything after it is another one."""
    data = jpeg(SIZE)
    first = 4 + struct.unpack(">H", data[4:6])[0]
    body = data[6:first] + b"*/=1;" + code + b"/*"
    segment = b"\xff\xe0" + struct.pack(">H", COMMENT) + body.ljust(COMMENT - 2, b"\0")
    return data[:2] + segment + data[first:] + b"*/"


def _bmp_script(code: bytes) -> bytes:
    """`BM` is the name, the file's size (which readers ignore) begins the comment, and the pixels hold the code."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "BMP")
    data = bytearray(out.getvalue())
    data[2:6] = b"/*\0\0"
    code = b"*/=1;" + code + b"//"
    data[200 : 200 + len(code)] = code
    return bytes(data)


def _zip(page: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.html", page)
    return out.getvalue()


# Every way in which a page lets another file act.
WAYS = """<script src="{url}"></script><iframe src="{url}"></iframe><object data="{url}"></object><embed src="{url}">
<link rel="stylesheet" href="{url}"><img src="{url}">"""


class Attacker:
    """A page that embeds what it is told to, and hears what runs: `ran` has the names of those that did."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.served: dict[str, tuple[str, bytes]] = {}
        self.url = ""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        parts = urlsplit(target)
        if parts.path == "/ran":
            self.ran.append(unquote(parts.query))
        kind, body = self.served.get(parts.path, ("text/plain", b""))
        if parts.path == "/embed":
            kind = "text/html"
            body = "".join(WAYS.format(url=url.replace("&", "&amp;")) for url in parse_qs(parts.query)["url"]).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    def embedding(self, *urls: str) -> str:
        return f"{self.url}/embed?{httpx.QueryParams([('url', url) for url in urls])}"


@asynccontextmanager
async def attacking() -> AsyncIterator[Attacker]:
    """An attacker's server, on loopback."""
    made = Attacker()
    server = await asyncio.start_server(made._answer, "127.0.0.1")
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
