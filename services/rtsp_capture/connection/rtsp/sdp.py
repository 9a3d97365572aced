"""What a camera says of its tracks: SDP (RFC 8866), read as tolerantly as FFmpeg reads it. Pure.

Cameras write control bytes, double spaces, negative ports and tracks that nobody can decode; only what is needed of a
line is looked at.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from utils.exceptions import CaptureFailure

MAX_TRACKS = 64
_MAX_LINES = 4096
_MAX_FORMATS = 64
_CODECS = {"H264": "h264", "H265": "hevc", "HEVC": "hevc", "JPEG": "mjpeg"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MAP = re.compile(r"rtpmap:\s*(\d{1,3})\s+([\w.+-]+)\s*(?:/\s*(\d{1,9}))?")
_FORMAT = re.compile(r"fmtp:\s*(\d{1,3})\s+(.*)")
_EXTENSION = re.compile(r"extmap:\s*(\d{1,5})\S*\s+(\S+)")
_RATE = re.compile(r"framerate:\s*(\d{1,4}(?:\.\d{1,6})?)")
_CAPTURE_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"


@dataclass(slots=True)
class _Media:
    kind: str
    formats: list[str]
    control: str = ""
    maps: dict[str, tuple[str, int]] = field(default_factory=dict)  # payload type: encoding, clock rate
    parameters: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, int] = field(default_factory=dict)
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class VideoTrack:
    """The track that is captured."""

    codec: str  # h264, hevc, mjpeg
    payload_type: int
    others: frozenset[int]  # payload types of the same track that are something else
    clock_rate: int
    control: str
    base: str  # the session's own control URL; empty where it has none
    sets: tuple[bytes, ...] = ()  # parameter sets: NAL units with their header
    fps: float | None = None
    capture_time: int | None = None  # id of the RTP header extension abs-capture-time
    don: bool = False  # H.265: decoding order numbers stand in the packets (RFC 7798, section 4.4)


def video_track(data: bytes) -> VideoTrack:
    """The first video that can be decoded. Raises CaptureFailure no_video, unsupported_codec; stream_ended, which is tried
    again, of a camera that describes nothing at all: GStreamer's server does so while its pipeline starts."""
    base, tracks = _tracks(data)
    if not tracks:
        raise CaptureFailure("stream_ended", "The camera describes no media. It may be starting.")
    videos = [media for media in tracks if media.kind == "video" and media.formats]
    if not videos:
        raise CaptureFailure("no_video", "The camera's stream has no video track.")
    for media in videos:
        for payload in _candidates(media):
            name, rate = media.maps.get(payload, ("JPEG" if payload == "26" else "", 90_000))  # RFC 3551, section 6
            if (codec := _CODECS.get(name)) is not None:
                return _track(media, payload, codec, rate, base)
    raise CaptureFailure("unsupported_codec", "The video is neither H.264, H.265 nor Motion JPEG.")


def _candidates(media: _Media) -> list[str]:
    """The payload types in the order of the m= line; those that only an rtpmap names come last."""
    return [*media.formats, *(payload for payload in media.maps if payload not in media.formats)]


def _tracks(data: bytes) -> tuple[str, list[_Media]]:
    base, tracks = "", list[_Media]()
    for raw in re.split(r"[\r\n]+", data.decode("utf-8", "replace"))[:_MAX_LINES]:
        line = _CONTROL.sub("", raw).strip()
        if re.match(r"m\s*=", line):
            if len(tracks) == MAX_TRACKS:
                break
            words = line.partition("=")[2].split()
            tracks.append(_Media(words[0].lower() if words else "", words[3 : 3 + _MAX_FORMATS]))
        elif re.match(r"a\s*=", line):
            value = line.partition("=")[2].strip()
            if tracks:
                _attribute(tracks[-1], value)
            elif value.lower().startswith("control:"):
                base = value[8:].strip()
    return base, tracks


def _attribute(media: _Media, value: str) -> None:
    if value.lower().startswith("control:"):
        media.control = media.control or value[8:].strip()
    elif found := _MAP.match(value):
        media.maps.setdefault(found[1], (found[2].upper(), int(found[3] or 0) or 90_000))
    elif found := _FORMAT.match(value):
        media.parameters.setdefault(found[1], found[2])
    elif found := _EXTENSION.match(value):
        media.extensions.setdefault(found[2], int(found[1]))
    elif found := _RATE.match(value):
        media.fps = float(found[1]) or None


def _track(media: _Media, payload: str, codec: str, rate: int, base: str) -> VideoTrack:
    fields: dict[str, str] = {}
    for part in media.parameters.get(payload, "").split(";"):
        name, _, value = part.partition("=")
        fields.setdefault(name.strip().lower(), value.strip())
    names = ("sprop-parameter-sets",) if codec == "h264" else ("sprop-vps", "sprop-sps", "sprop-pps")
    sets = [_base64(one) for name in names for one in fields.get(name, "").split(",")[:16]] if codec != "mjpeg" else []
    others = frozenset(int(one) for one in media.formats if one != payload and re.fullmatch(r"[0-9]{1,3}", one))
    don = any(fields.get(name, "").strip("0") for name in ("sprop-max-don-diff", "sprop-depack-buf-nalus"))
    return VideoTrack(
        codec, int(payload), others, rate, media.control, base, tuple(one for one in sets if one), media.fps,
        media.extensions.get(_CAPTURE_TIME), codec == "hevc" and don,
    )  # fmt: skip


def _base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text)
    except ValueError:
        return b""


def control_urls(track: VideoTrack, asked: str, content_base: str) -> list[str]:
    """The track's URL, the likeliest first. `asked`: DESCRIBE's; `content_base`: its answer's Content-Base, or empty.

    RFC 2326, section C.1.1, as FFmpeg does it: queries stay in front, byte for byte. Whatever host they name, requests
    go to the connection that stands; so the second choice is the same with the host that was asked.
    """
    control, session = track.control, track.base if _absolute(track.base) else ""
    base = session or content_base or asked
    found = []
    for each in (base, asked):
        if not control or control == "*":
            found.append(each)
        elif _absolute(control):
            found.append(control)
        else:
            found.append(f"{each.rstrip('/')}/{control.lstrip('/')}")
    found.append(_moved(found[0], asked))
    path, mark, query = asked.partition("?")
    if mark and control and not _absolute(control):
        found.append(f"{path.rstrip('/')}/{control}?{query}")
    return [url for url in dict.fromkeys(found) if url.isprintable() and " " not in url]


def aggregate_urls(track: VideoTrack, asked: str, content_base: str, chosen: str) -> list[str]:
    """What PLAY names, the likeliest first; `chosen`: the track's URL that SETUP took."""
    session = track.base if _absolute(track.base) else ""
    found = [session or content_base or asked, asked, chosen]
    return [url for url in dict.fromkeys(found) if url.isprintable() and " " not in url]


def _absolute(url: str) -> bool:
    return url.lower().startswith(("rtsp://", "rtsps://", "rtspu://"))


def _moved(url: str, asked: str) -> str:
    """The URL on the host that was asked."""
    try:
        there = urlsplit(asked).netloc
    except ValueError:
        return url
    scheme, _, rest = url.partition("://")
    _, slash, path = rest.partition("/")
    return f"{scheme}://{there}{slash}{path}"
