"""The decoding of one picture as a job of a worker process: packets in, a JPEG or its luma out (utils/process_pool.py).

The worker keeps nothing between two jobs: each brings all packets that its picture needs, from the keyframe on.
What a worker answers may be what a picture made it answer, so it is believed as little as a file from a stranger.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from models.values import Integrity
from services.rtsp_capture.media.damage import Damage
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.gop_buffer import Gop, Packet, Picture
from services.rtsp_capture.media.packets import Jpeg, StreamInfo
from utils.exceptions import CaptureFailure

if TYPE_CHECKING:
    from services.rtsp_capture.media.luma import Luma

DECODE = f"{__name__}:decode"
# What a worker imports before its first job; this module, which the service imports too, leaves it to the first picture.
PRELOAD = [f"services.rtsp_capture.media.{name}" for name in ("ffmpeg", "jpeg", "luma")]
AHEAD = 20  # packets after the picture that may have to push it out; decoders hold 16 at most
MOST = 268_435_456  # bytes that a JPEG may have
_MAX_SIDE = 65_535  # pixels of a JPEG
_MAX_TEXT = 120
_UNKNOWN = "The picture could not be decoded whole."


class DecodeRequest(NamedTuple):
    """What the job is called with, and the bytes beside it."""

    spec: dict[str, Any]
    attached: list[bytes]


def request(info: StreamInfo, picture: Picture, *, lossy: bool, wanted: dict[str, int]) -> DecodeRequest:
    """`wanted`: {"quality": 50-100} for a JPEG, {"width": pixels} for luma."""
    gop = picture.gop
    own = gop.packets[: picture.index + 1 + AHEAD]
    room = picture.index + 1 + AHEAD - len(own)
    groups = [gop.previous if picture.needs_previous else [], own, gop.following[:room]]
    if info.codec == "mjpeg":
        groups = [[], [picture.packet], []]
    damages = [gop.previous_damage, gop.damage, gop.following_damage]
    spec = {
        "info": [info.codec, len(info.extradata), info.width, info.height, info.tells_losses, info.max_pixels],
        "lossy": lossy,
        "groups": [[[len(p.data), p.pts, p.key, p.recovery] for p in packets] for packets in groups],
        "damage": [_finite(damage) for damage in damages],
        "index": 0 if info.codec == "mjpeg" else picture.index, "wanted": wanted,
    }  # fmt: skip
    return DecodeRequest(spec, [info.extradata, *(packet.data for packets in groups for packet in packets)])


def decode(spec: dict[str, Any], attached: bytes) -> tuple[dict[str, Any], bytes]:
    """In the worker. `jpeg` or `luma`, or `failed` (why); with what was learnt about damage."""
    codec, size, width, height, tells_losses, max_pixels = spec["info"]
    info, at = StreamInfo(codec, attached[:size], width, height, None, tells_losses, max_pixels), size
    groups: list[list[Packet]] = []
    for packets in spec["groups"]:
        group = []
        for length, pts, key, recovery in packets:
            group.append(Packet(attached[at : at + length], pts, key, 0.0, 0.0, 0.0, 0, recovery=recovery))
            at += length
        groups.append(group)
    damages = [Damage(*(math.inf if at is None else at for at in known)) for known in spec["damage"]]
    previous, own, following = groups
    gop = Gop(
        own, previous=previous, following=following,
        damage=damages[1], previous_damage=damages[0], following_damage=damages[2],
    )  # fmt: skip
    picture, wanted = Picture(own[spec["index"]], gop, spec["index"]), spec["wanted"]
    decoder, back = PictureDecoder(info, lossy=spec["lossy"]), b""
    answer: dict[str, Any]
    try:
        if "quality" in wanted:
            jpeg = decoder.decode(picture, wanted["quality"])
            answer, back = {"jpeg": [jpeg.width, jpeg.height, jpeg.integrity.value]}, jpeg.data
            if jpeg.measures is not None:
                from services.quality.measures import packed

                answer["measures"], view = packed(jpeg.measures)
                answer["view"], back = len(view), back + view
        else:
            luma = decoder.luma(picture, wanted["width"])
            answer, back = {"luma": list(luma.shape)}, luma.tobytes()
    except CaptureFailure as failure:
        answer = {"failed": failure.message}
    return {**answer, "damage": [_finite(damage) for damage in damages]}, back


def learn(answer: Any, picture: Picture) -> None:
    """Notes the damage that the worker found. Raises CaptureFailure decode_failed when it could not decode the picture."""
    gop = picture.gop
    try:
        for damage, (_, failed, leading) in zip(
            (gop.previous_damage, gop.damage, gop.following_damage), answer["damage"], strict=True
        ):
            if failed is not None:
                damage.failed(int(failed))
            if leading is not None:
                damage.failed(int(leading), leading=True)
        failed = answer.get("failed")
    except (AttributeError, KeyError, TypeError, ValueError):
        failed = _UNKNOWN
    if failed is not None:
        text = failed if isinstance(failed, str) and failed.isprintable() and len(failed) <= _MAX_TEXT else _UNKNOWN
        raise CaptureFailure("decode_failed", text)


def jpeg_of(answer: dict[str, Any], data: bytes) -> Jpeg:
    """In any thread. Raises CaptureFailure decode_failed."""
    try:
        width, height, told = answer["jpeg"]
        sound = 0 < int(width) <= _MAX_SIDE and 0 < int(height) <= _MAX_SIDE and told in ("verified", "unknown")
        integrity, view = Integrity(told), int(answer.get("view", 0))
        data, seen = (data[:-view], data[-view:]) if 0 < view < len(data) else (data, b"")
    except (KeyError, TypeError, ValueError):
        sound = False
    if not (sound and data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        raise CaptureFailure("decode_failed", _UNKNOWN)
    digest, silent = hashlib.sha256(data).hexdigest(), integrity is Integrity.UNKNOWN
    from services.quality.measures import unpacked

    measures = unpacked(answer.get("measures", ()), seen)
    return Jpeg(data, int(width), int(height), digest, integrity, silent=silent, measures=measures)


def luma_of(answer: dict[str, Any], data: bytes) -> Luma:
    """In the pool, which imports numpy with the first one. Raises CaptureFailure decode_failed."""
    import numpy as np

    try:
        height, width = answer["luma"]
        return np.frombuffer(data, np.uint8).reshape(int(height), int(width))
    except (KeyError, TypeError, ValueError):
        raise CaptureFailure("decode_failed", _UNKNOWN) from None


def _finite(damage: Damage) -> Sequence[float | None]:
    known = (damage.lost_at, damage.failed_at, damage.leading_failed_at)
    return [at if at < math.inf else None for at in known]
