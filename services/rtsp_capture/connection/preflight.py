"""The check before a reader is opened: DESCRIBE in asyncio, so that every failure has its own code, in time.

FFmpeg opens are serialised in the process, follow redirects with the Authorization header and give no reason.
RTSP/1.0 (RFC 2326), Basic (RFC 7617) and Digest with MD5 (RFC 7616; FFmpeg knows no SHA-256), SDP (RFC 8866).
One connection, closed before the stream is opened.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import ssl
from dataclasses import dataclass

from services.rtsp_capture.connection.address import AddressPolicy, CameraAddress
from utils.exceptions import CaptureCode, CaptureFailure

MAX_HEAD_BYTES = 32 * 1024
MAX_SDP_BYTES = 256 * 1024
SUPPORTED_CODECS = {"H264": "h264", "H265": "hevc", "HEVC": "hevc", "JPEG": "mjpeg"}
_SCHEME = re.compile(r",\s*(?=(?:Digest|Basic)\s)", re.IGNORECASE)  # several challenges may share one header field
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]*))')


@dataclass(frozen=True, slots=True)
class Described:
    """The answer to DESCRIBE: the address that sent it, and the first video track's codec."""

    address: str
    codec: str


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: dict[str, list[str]]
    body: bytes


def authorization(challenges: list[str], method: str, uri: str, username: str, password: str, cnonce: str) -> str | None:
    """The Authorization value for the strongest challenge that we and FFmpeg know; None when there is none."""
    challenges = [part.strip() for challenge in challenges for part in _SCHEME.split(challenge)]
    for digest in (c for c in challenges if c.lower().startswith("digest")):
        fields = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(digest[6:])}
        if fields.get("algorithm", "MD5").upper() == "MD5" and "nonce" in fields:
            return _digest(fields, method, uri, username, password, cnonce)
    if any(c.lower().startswith("basic") for c in challenges):
        return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    return None


def _digest(fields: dict[str, str], method: str, uri: str, username: str, password: str, cnonce: str) -> str:
    """RFC 7616, section 3.4.1, with the qop of RFC 2617 when the server offers `auth`."""

    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    realm, nonce = fields.get("realm", ""), fields["nonce"]
    ha1, ha2 = md5(f"{username}:{realm}:{password}"), md5(f"{method}:{uri}")
    qop = "auth" if "auth" in [item.strip() for item in fields.get("qop", "").split(",")] else None
    answer = md5(f"{ha1}:{nonce}:00000001:{cnonce}:{qop}:{ha2}") if qop else md5(f"{ha1}:{nonce}:{ha2}")
    name = username.replace("\\", "\\\\").replace('"', '\\"')
    value = f'Digest username="{name}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{answer}"'
    if qop:
        value += f', qop={qop}, nc=00000001, cnonce="{cnonce}"'
    if "opaque" in fields:
        value += f', opaque="{fields["opaque"]}"'
    return value


def video_codec(sdp: str) -> str:
    """The codec of the first video track in FFmpeg's name. Raises CaptureFailure no_video, unsupported_codec."""
    names: dict[str, str] = {}
    wanted: str | None = None
    for line in sdp.splitlines():
        if line.startswith("m="):
            if wanted is not None:
                break
            kind, _, _, payload = [*line[2:].split(), "", "", "", ""][:4]  # port and protocol between
            wanted = payload if kind == "video" and payload else None
        elif wanted is not None and line.startswith("a=rtpmap:"):
            payload, _, encoding = line[9:].partition(" ")
            names[payload] = encoding.partition("/")[0].upper()
    if wanted is None:
        raise CaptureFailure("no_video", "The camera's stream has no video track.")
    name = names.get(wanted, "JPEG" if wanted == "26" else "?")  # 26: RFC 3551, section 6
    if name not in SUPPORTED_CODECS:
        raise CaptureFailure("unsupported_codec", "The video is neither H.264, H.265 nor Motion JPEG.")
    return SUPPORTED_CODECS[name]


def classify(status: int) -> CaptureFailure | None:
    """The failure that an RTSP status (RFC 2326, section 7.1.1) means; None for success."""
    if 200 <= status < 300:
        return None
    table: dict[int, tuple[CaptureCode, str]] = {
        401: ("unauthorized_camera", "The camera refused the user name or password."),
        403: ("forbidden_camera", "The camera forbids this stream to this user."),
        404: ("stream_not_found", "The camera has no stream at this path."),
        410: ("stream_not_found", "The camera has no stream at this path any more."),
        453: ("camera_busy", "The camera has no bandwidth left for another viewer."),
        503: ("camera_busy", "The camera cannot serve the stream now."),
    }
    if 300 <= status < 400:
        return CaptureFailure("redirect_refused", "The camera redirects elsewhere; redirects are not followed.")
    if status in table:
        return CaptureFailure(*table[status])
    return CaptureFailure("stream_not_found", f"The camera answered with RTSP status {status}.")


async def preflight(camera: CameraAddress, policy: AddressPolicy, timeout: float, *, tls_verify: bool = True) -> Described:
    """Resolves, connects, asks DESCRIBE. `timeout` in seconds, for each of resolving, connecting and answering.

    Raises CaptureFailure with one of the documented codes; its message holds neither URL nor credentials.
    """
    addresses = await policy.resolve(camera, timeout)
    context: ssl.SSLContext | None = None
    if camera.tls:
        context = ssl.create_default_context()
        if not tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(timeout):
            address, reader, writer = await _connect(addresses, camera, context)
    except TimeoutError:
        raise CaptureFailure("connect_timeout", "The camera did not accept a connection in time.") from None
    except ssl.SSLError:
        raise CaptureFailure(
            "tls_error", "TLS with the camera failed: its certificate is not trusted or not valid."
        ) from None
    except ConnectionRefusedError:
        raise CaptureFailure("connection_refused", "Nothing listens at the camera's address and port.") from None
    except OSError:
        raise CaptureFailure("connect_timeout", "The camera's address cannot be reached.") from None
    try:
        async with asyncio.timeout(timeout):
            response = await _describe(reader, writer, camera)
    except TimeoutError:
        raise CaptureFailure("read_timeout", "The camera accepted the connection and did not answer in time.") from None
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError):
        raise CaptureFailure(
            "stream_ended", "The camera closed the connection or answered something that is not RTSP."
        ) from None
    finally:
        writer.close()
    if failure := classify(response.status):
        raise failure
    return Described(address, video_codec(response.body.decode("utf-8", "replace")))


async def _connect(
    addresses: list[str], camera: CameraAddress, context: ssl.SSLContext | None
) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first address that takes one. Raises OSError, of the last address."""
    name = camera.host if context else None
    for address in addresses:
        try:
            return address, *await asyncio.open_connection(
                address, camera.port, ssl=context, server_hostname=name, limit=MAX_HEAD_BYTES
            )
        except ssl.SSLError:
            raise
        except OSError:
            if address == addresses[-1]:
                raise
    raise AssertionError("no address")


async def _describe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, camera: CameraAddress) -> _Response:
    uri = camera.url()
    response = await _ask(reader, writer, uri, 1, None)
    if response.status != 401 or camera.username is None:
        return response
    answer = authorization(
        response.headers.get("www-authenticate", []),
        "DESCRIBE",
        uri,
        camera.username,
        camera.password or "",
        os.urandom(8).hex(),
    )
    return response if answer is None else await _ask(reader, writer, uri, 2, answer)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, uri: str, cseq: int, authorization_value: str | None
) -> _Response:
    head = f"DESCRIBE {uri} RTSP/1.0\r\nCSeq: {cseq}\r\nAccept: application/sdp\r\nUser-Agent: trackshift-ingestion\r\n"
    if authorization_value is not None:
        head += f"Authorization: {authorization_value}\r\n"
    writer.write((head + "\r\n").encode())
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, status, *_ = lines[0].split(" ")
    if not version.startswith("RTSP/"):
        raise ValueError("not RTSP")
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), []).append(value.strip())
    length = int(headers.get("content-length", ["0"])[0] or 0)
    if not 0 <= length <= MAX_SDP_BYTES:
        raise ValueError("too large")
    return _Response(int(status), headers, await reader.readexactly(length))
