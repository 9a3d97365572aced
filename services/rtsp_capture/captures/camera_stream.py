"""The shared stream of a capture's camera: its key, and waiting until it may be opened."""

from __future__ import annotations

import asyncio

from services.rtsp_capture.captures.context import CaptureContext
from services.rtsp_capture.streams.stream import Stream, StreamKey
from utils.exceptions import CaptureFailure, SecretUnreadable
from utils.logger import get_logger

log = get_logger(__name__)


def stream_key(context: CaptureContext) -> StreamKey | None:
    """Which stream; None when no secret key here opens the row's URL, which is then the capture's failure."""
    row, params = context.row, context.params
    try:
        url = context.deps.secrets.open(row.rtsp_url or "")
    except SecretUnreadable as error:
        context.state.failed(CaptureFailure("unauthorized_camera", error.message), context.clock.now())
        log.error("capture_secret_unreadable", ingestion_id=str(row.id), camera_id=row.camera_id, reason=error.message)
        return None
    return StreamKey(row.camera_id, url, params.transport.value, params.reader)


def open_stream(context: CaptureContext) -> Stream | None:
    """The camera's stream, if it is open already."""
    key = stream_key(context)
    return context.deps.hub.find(key) if key is not None else None


async def acquire_stream(context: CaptureContext, key: StreamKey) -> Stream | None:
    """The stream, which `hub.release` gives back; None when the capture was told to stop while it waited for room."""
    control = context.control
    # What ran before a restart goes on: the share is for what is new.
    beyond_share = context.claim.resumed
    acquiring = asyncio.ensure_future(context.deps.hub.acquire(key, context.row.owner, beyond_share=beyond_share))
    while not acquiring.done():
        waking = asyncio.ensure_future(control.wake.wait())
        await asyncio.wait({acquiring, waking}, return_when=asyncio.FIRST_COMPLETED)
        waking.cancel()
        control.wake.clear()
        if control.stopping and not acquiring.done():
            acquiring.cancel()
            await asyncio.gather(acquiring, return_exceptions=True)
            if acquiring.cancelled():
                return None
    return acquiring.result()
