"""Connections to cameras: to an address that was judged, and to no other."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from services.rtsp_capture.connection.address import AddressPolicy, CameraAddress
from utils.exceptions import CaptureFailure

P = TypeVar("P", bound=asyncio.Protocol)


async def dial(
    camera: CameraAddress, policy: AddressPolicy, timeout: float, make: Callable[[], P], *, tls_verify: bool
) -> tuple[str, P]:
    """The address that took the connection, and its protocol. `timeout` in seconds, for resolving and for connecting.

    Raises CaptureFailure; its message holds neither URL nor credentials.
    """
    addresses = await policy.resolve(camera, timeout)
    context = tls_context(tls_verify) if camera.tls else None
    try:
        async with asyncio.timeout(timeout):
            return await _first(addresses, camera, context, make)
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
def tls_context(verify: bool) -> ssl.SSLContext:
    """With hostname and certificate checked, or neither (RTSP__TLS_VERIFY). Made once: it reads all trusted certificates."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
