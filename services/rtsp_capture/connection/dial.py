"""Connections to cameras: to an address that was judged, and to no other."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from services.rtsp_capture.connection.camera_address import CameraAddress
from utils.exceptions import CaptureFailure

P = TypeVar("P", bound=asyncio.Protocol)
# OpenSSL's numbers (X509_V_ERR_*), of which its own texts name the host.
_WHY = {10: "has expired", 9: "is not valid yet", 62: "is for another name", 64: "is for another address"}


async def dial(
    camera: CameraAddress, addresses: list[str], timeout: float, make: Callable[[], P], context: ssl.SSLContext | None
) -> tuple[str, P]:
    """The address that took the connection, and its protocol. `addresses`: judged ones. `timeout` in seconds.

    `context`: for rtsps. Raises CaptureFailure; its message holds neither URL nor credentials.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _first(addresses, camera, context, make)
    except TimeoutError:
        raise CaptureFailure("connect_timeout", "The camera did not accept a connection in time.") from None
    except ssl.SSLCertVerificationError as error:
        why = _WHY.get(error.verify_code, "is not trusted")
        raise CaptureFailure("tls_error", f"TLS with the camera failed: its certificate {why}.") from None
    except ssl.SSLError:
        raise CaptureFailure("tls_error", "TLS with the camera failed: it does not speak TLS as we do.") from None
    except ConnectionRefusedError:
        raise CaptureFailure("connection_refused", "Nothing listens at the camera's address and port.") from None
    except OSError:
        raise CaptureFailure("connect_timeout", "The camera's address cannot be reached.") from None


async def _first(
    addresses: list[str], camera: CameraAddress, context: ssl.SSLContext | None, make: Callable[[], P]
) -> tuple[str, P]:
    """Raises OSError, of the last address."""
    loop = asyncio.get_running_loop()
    name = camera.host if context else None
    for address in addresses:
        try:
            _, protocol = await loop.create_connection(make, address, camera.port, ssl=context, server_hostname=name)
            return address, protocol
        except ssl.SSLError:
            raise
        except OSError:
            if address == addresses[-1]:
                raise
    raise AssertionError("no address")


@cache
def tls_context(verify: bool, ca_file: Path | None = None) -> ssl.SSLContext:
    """With hostname and certificate checked, or neither (RTSP__TLS_VERIFY). Made once: it reads all trusted certificates.

    `ca_file`: PEM, trusted beside those of the system. Raises OSError when it cannot be read.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
