"""One SOAP request by HTTP to one judged address: no redirects, no proxies, no cookies, bounded answers. h11 does the HTTP.

By hand, because every HTTP client here resolves the name itself, after whoever has judged it (docs/libraries.md).
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from services.rtsp_capture.connection.camera_address import AddressPolicy, CameraAddress
from services.rtsp_capture.connection.dial import tls_context
from utils.exceptions import CaptureFailure, NotOnvif

MAX_BODY = 1_048_576  # bytes; a recorder with 64 channels lists its profiles in 300 KB
_MAX_HEAD = 16_384
_PORTS = {"http": 80, "https": 443}
_CHUNK = 65_536
Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of every header of that name (in small letters)."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.encode()]


def http_address(url: str) -> CameraAddress | None:
    """The parts of an http:// or https:// URL; None for anything else. A login in it is left out."""
    if not url.isprintable() or any(char in url for char in ' \\"<>'):
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not host or port == 0 or not url.isascii():
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return CameraAddress(scheme, host, port or _PORTS[scheme], target)


async def post(
    to: CameraAddress, policy: AddressPolicy, body: bytes, headers: Headers, timeout: float, *, tls_verify: bool
) -> HttpAnswer:
    """The answer, whatever its status but a redirect. `timeout` in seconds, for all of it.

    Raises CaptureFailure (a connection's codes, redirect_refused, read_timeout), NotOnvif for what is no HTTP or too large.
    """
    connected = False
    try:
        async with asyncio.timeout(timeout):
            addresses = await policy.resolve(to, timeout)
            context = tls_context(tls_verify) if to.scheme == "https" else None
            reader, writer = await asyncio.open_connection(
                addresses[0], to.port, ssl=context, server_hostname=to.host if context else None, limit=_CHUNK
            )
            connected = True
            try:
                answer = await _talk(reader, writer, to, body, headers)
            finally:
                writer.transport.abort()
    except TimeoutError:
        if connected:
            raise CaptureFailure("read_timeout", "The device did not answer in time.") from None
        raise CaptureFailure("connect_timeout", "The device did not accept a connection in time.") from None
    except ssl.SSLError:
        raise CaptureFailure("tls_error", "TLS with the device failed: its certificate is not trusted.") from None
    except ConnectionRefusedError:
        raise CaptureFailure("connection_refused", "Nothing listens at the device's address and port.") from None
    except OSError:
        if connected:
            raise NotOnvif("The device closed the connection without an answer.") from None
        raise CaptureFailure("connect_timeout", "The device's address cannot be reached.") from None
    except h11.RemoteProtocolError:
        raise NotOnvif("What answers there does not speak HTTP.") from None
    if 300 <= answer.status < 400:
        raise CaptureFailure("redirect_refused", "The device answered with a redirect; none is followed.")
    return answer


async def _talk(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: CameraAddress, body: bytes, headers: Headers
) -> HttpAnswer:
    """Raises h11.RemoteProtocolError, OSError, NotOnvif."""
    host = f"[{to.host}]" if ":" in to.host else to.host
    request = h11.Request(
        method="POST", target=to.target,
        headers=[
            ("Host", f"{host}:{to.port}"), ("Content-Length", str(len(body))), ("Connection", "close"),
            ("Accept-Encoding", "identity"), ("User-Agent", "trackshift-ingestion"), *headers,
        ],
    )  # fmt: skip
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    for part in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(part) or b"")
    await writer.drain()
    head: h11.Response | None = None
    received = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response):
            head = event
            if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in event.headers):
                raise NotOnvif("The device's answer is compressed, which was not asked for.")
        elif isinstance(event, h11.Data):
            received += event.data
            if len(received) > MAX_BODY:
                raise NotOnvif(f"The device's answer has more than {MAX_BODY} bytes.")
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return HttpAnswer(head.status_code, list(head.headers), bytes(received))
        elif not isinstance(event, h11.InformationalResponse):
            raise NotOnvif("The device closed the connection without an answer.")
