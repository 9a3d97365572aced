"""The sharpest of several pictures: which are compared, and for how long. On the event loop.

Comparing costs a decode a picture. It never costs a slot: when the time is over, the best of those that were compared is
taken, and while a capture is behind, its slots get the nearest picture.
"""

from __future__ import annotations

from collections.abc import Iterable

from models.values import PickParams
from services.rtsp_capture.frames.encodings import PictureSource
from services.rtsp_capture.grid.sampler import Choice, Chosen
from services.rtsp_capture.media.gop_buffer import Picture
from utils.metrics import PICKS

PICK_SECONDS = 2.0  # for the pictures of one slot, at most; a third of RTSP__MAX_LAG where that is less
MAX_BEHIND = 2  # pictures of a capture that are not decoded yet, beyond which none are compared


async def picture_of(chosen: Chosen, source: PictureSource, *, max_lag: float, waiting: int) -> Picture:
    """The picture that fills a slot. `max_lag`: seconds that a picture may wait to be decoded. `waiting`: pictures of the
    capture that are not decoded yet, this one counted. Raises CaptureFailure decode_failed when none that was compared can
    be decoded."""
    if not chosen.candidates:
        return chosen.picture
    if waiting > MAX_BEHIND:
        PICKS.labels(outcome="behind").inc()
        return chosen.picture
    return await source.sharpest(chosen.candidates, min(PICK_SECONDS, max_lag / 3))


async def of_newest(
    newest: Picture, pictures: Iterable[Picture], pick: PickParams, source: PictureSource, *, keyframes: bool
) -> Picture:
    """The sharpest of a stream's pictures around its newest one. `keyframes`: of keyframes only. Raises CaptureFailure
    decode_failed."""
    usable = (one for one in pictures if one.usable and (one.packet.key or not keyframes))
    near = Choice(pick.of, pick.within_s).candidates(usable, newest.timestamp)
    return await source.sharpest(near, PICK_SECONDS) if len(near) > 1 else newest
