"""The check before a reader of FFmpeg's is opened: DESCRIBE in asyncio, so that every failure has its own code, in time.

FFmpeg opens are serialised in the process, follow redirects with the Authorization header and give no reason. One
connection, closed before the stream is opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.rtsp_capture.connection.address import AddressPolicy, CameraAddress
from services.rtsp_capture.connection.dial import dial
from services.rtsp_capture.connection.rtsp.conversation import Conversation
from services.rtsp_capture.connection.rtsp.login import Login
from services.rtsp_capture.connection.rtsp_client import RtspClient
from utils.exceptions import CaptureFailure


@dataclass(frozen=True, slots=True)
class Described:
    """The answer to DESCRIBE: the address that sent it, and the codec of the video that can be decoded."""

    address: str
    codec: str


def conversation_with(camera: CameraAddress, *, proven: bool = False) -> Conversation:
    login = Login(camera.username, camera.password or "") if camera.username is not None else None
    return Conversation(camera.url(), login, proven)


async def preflight(camera: CameraAddress, policy: AddressPolicy, timeout: float, *, tls_verify: bool = True) -> Described:
    """Resolves, connects, asks DESCRIBE. `timeout` in seconds, for each of resolving, connecting and answering.

    Raises CaptureFailure with one of the documented codes; its message holds neither URL nor credentials.
    """
    address, client = await dial(camera, policy, timeout, lambda: RtspClient(timeout), tls_verify=tls_verify)
    try:
        track = await client.run(conversation_with(camera).describe())
    except ConnectionError:
        raise CaptureFailure(
            "stream_ended", "The camera closed the connection or answered something that is not RTSP."
        ) from None
    finally:
        client.close()
    return Described(address, track.codec)
