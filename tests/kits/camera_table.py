"""The table of cameras: what owners report that cameras do with pictures and clocks, each as a script with its own log.

`CAMERAS` by name; each makes a script of about so many seconds. `Camera.opencv`: whether FFmpeg can read it at all.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from services.rtsp_capture.connection.rtsp.rtp import NTP_EPOCH
from tests.kits.scripted_camera import RATE, T0, Script, Shot, jpegs, of_film, reports_of, shots
from tests.unit.services.rtsp_capture.capture_films import FPS, Film, encode, film, scene

LOCAL_TIME = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Camera:
    """`made` of the seconds it runs. `source`: by whose clock the last frames are, by the reader `native`."""

    made: Callable[[float], Script]
    source: str = "receipt"
    opencv: bool = True  # whether FFmpeg can
    untimed: float = 0.0  # share of the pictures whose time cannot be known, by `native`
    within: float = 0.99  # share of the frames whose error is at most their stated uncertainty
    off: float = 0.025  # seconds: the largest error, once the clock is settled
    settled: float = 0.0  # seconds after the start
    film: int = 80  # pictures, each of which shows its number; 0: it is not looked at
    seen: int = 100  # pictures that are decoded and looked at: a whole round of the film, and the seam to the next


def _plain(seconds: float, name: str = "h264", **fields: object) -> Script:
    codec = name.split()[0]
    fps = float(fields.get("fps", FPS))  # type: ignore[arg-type]
    made = shots(of_film(film(name).packets, round(seconds * fps)), codec, **fields)  # type: ignore[arg-type]
    return Script(codec, made)


def _reported(seconds: float, every: float = 5.0, **fields: object) -> Script:
    error = fields.pop("error", lambda at: 0.0)
    script = _plain(seconds, **fields)  # type: ignore[arg-type]
    reports_of(script, every, error)  # type: ignore[arg-type]
    return script


def _ntp(at: float) -> bytes:
    return (round((at + NTP_EPOCH) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")


def _onvif(seconds: float) -> Script:
    script = _plain(seconds)
    for shot in script.shots:
        shot.extension = b"\xab\xac\x00\x03" + _ntp(shot.taken) + bytes(4)
    return script


def _abs_capture_time(seconds: float) -> Script:
    script = replace(_plain(seconds), capture_time=3)
    for shot in script.shots:
        shot.extension = b"\xbe\xde\x00\x03\x37" + _ntp(shot.taken) + bytes(3)
    return script


def _slow_clock(seconds: float, share: float = 0.84, reported: bool = False) -> Script:
    script = _plain(seconds, ticks=RATE * share)
    if reported:
        reports_of(script, 5.0, ticks=RATE * share)
    return script


def _stamped_hours_away(seconds: float) -> Script:
    script = _reported(seconds)
    for shot in script.shots:
        if shot.number % 40 == 17:
            shot.timestamp = (shot.timestamp + 4 * 3600 * RATE) & 0xFFFFFFFF
    return script


def _set_late(at: float) -> float:
    """Seconds by which its clock is ahead: until NTP answers it is 1970."""
    return -(T0 + at) if at < 30 else 0.0


def _new_ssrc(seconds: float) -> Script:
    script, rng = _plain(seconds), random.Random(3)
    ssrc, base = 7, 0
    for shot in script.shots:
        if shot.key:
            ssrc, base = rng.randrange(2**32), rng.randrange(2**32)
        shot.ssrc, shot.timestamp = ssrc, (shot.timestamp + base) & 0xFFFFFFFF
    return script


def _new_clock(seconds: float) -> Script:
    """The RTP clock begins anew in the middle, in the same source."""
    script = _reported(seconds)
    half = len(script.shots) // 2
    for shot in script.shots[half:]:
        shot.timestamp = (shot.timestamp + 2**31 + 12345) & 0xFFFFFFFF
    middle = script.shots[half].taken
    script.reports = [
        (at, data[:16] + struct.pack("!I", struct.unpack_from("!I", data, 16)[0] + 2**31 + 12345 & 0xFFFFFFFF) + data[20:])
        if at > middle else (at, data) for at, data in script.reports
    ]  # fmt: skip
    return script


def _sets_apart(seconds: float) -> Script:
    """Parameter sets have the marker and the time of the picture before."""
    script = _reported(seconds)
    made: list[Shot] = []
    for shot in script.shots:
        sets = [payload for payload in shot.payloads if payload[0] & 31 in (7, 8)]
        if sets and made:
            made += [replace(shot, payloads=[one], timestamp=made[-1].timestamp) for one in sets]
            shot = replace(shot, payloads=[payload for payload in shot.payloads if payload[0] & 31 not in (7, 8)])
        made.append(shot)
    script.shots = made
    return script


def _markers(seconds: float, markers: str, name: str = "h264 slices") -> Script:
    script = _plain(seconds, name)
    script.markers = markers
    reports_of(script, 5.0)
    return script


def _jpeg(
    seconds: float, width: int, height: int, subsampling: str = "420", *, extended: bool = False, restart: int = 0
) -> Script:
    """RFC 2435; `extended`: ONVIF's header extension says the size; `restart`: an interval of restart markers."""
    made = shots([(True, []) for _ in range(round(seconds * FPS))], "h264")
    pictures = jpegs(len(made), width, height, subsampling)
    for shot in made:
        tables, scan = jpeg_parts(with_restarts(pictures[shot.number], restart) if restart else pictures[shot.number])
        shot.payloads = jpeg_payloads(
            tables, scan, width, height, kind=0 if subsampling == "422" else 1, extended=extended, interval=restart
        )  # fmt: skip
        shot.key = True
        if extended:
            segment = struct.pack("!HHBHHB", 0xFFC0, 17, 8, height, width, 3) + b"\x01\x22\x00\x02\x11\x01\x03\x11\x01"
            body = b"\xff\xd8" + segment
            body += b"\xff" * (-len(body) % 4)
            shot.extension = struct.pack("!HH", 0xFFD8, len(body) // 4) + body
    return Script("mjpeg", made)


def with_restarts(picture: bytes, interval: int) -> bytes:
    """The same picture with restart markers after so many MCUs, as OpenCV writes it."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    _, made = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60, cv2.IMWRITE_JPEG_RST_INTERVAL, interval])
    return made.tobytes()


def jpeg_parts(picture: bytes) -> tuple[bytes, bytes]:
    """The quantization tables and the scan."""
    at, tables = 2, b""
    while True:
        size = 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
        if picture[at + 1] == 0xDB:
            body = picture[at + 4 : at + size]
            tables += b"".join(body[one + 1 : one + 65] for one in range(0, len(body), 65))
        at += size
        if picture[at - size + 1] == 0xDA:
            return tables, picture[at : picture.rindex(b"\xff\xd9")]


def jpeg_payloads(
    tables: bytes, scan: bytes, width: int, height: int, *, kind: int = 1, extended: bool = False, interval: int = 0,
    limit: int = 1400, quality: int = 255,
) -> list[bytes]:  # fmt: skip
    """RFC 2435, sections 3.1.1 to 3.1.8; `interval`: with restart markers of so many MCUs."""
    size = (0, 0) if extended and max(width, height) > 2040 else (-(-width // 8), -(-height // 8))
    payloads, at = [], 0
    while at < len(scan):
        head = at.to_bytes(4, "big") + bytes((kind + (64 if interval else 0), quality, *size))
        head += struct.pack("!HH", interval, 0xFFFF) if interval else b""
        head += struct.pack("!BBH", 0, 0, len(tables)) + tables if at == 0 and quality > 127 else b""
        payloads.append(head + scan[at : at + limit - len(head)])
        at += limit - len(head)
    return payloads


def _switching(seconds: float) -> Script:
    """Another size after a while, and back."""
    large = film("h264", 80, 480, 272)
    count = round(seconds * FPS)
    small, wide = of_film(film("h264").packets, count), of_film(large.packets, count)
    return Script("h264", shots([(wide if at // 160 % 2 else small)[at] for at in range(count)], "h264"))


def _other_pps(seconds: float) -> Script:
    """Only the picture parameter set changes: CABAC, then CAVLC."""
    fixed = "scenecut=0:keyint=25:min-keyint=25:threads=1:bframes=0:level=30:profile=high:8x8dct=1"
    made: list[Film] = [
        encode("h264", {"preset": "veryfast", "x264-params": f"{fixed}:cabac={cabac}"}, scene(80, 320, 180))
        for cabac in (1, 0)
    ]
    count = round(seconds * FPS)
    both = [of_film(one.packets, count) for one in made]
    return Script("h264", shots([both[at // 160 % 2][at] for at in range(count)], "h264"))


def _late_key(seconds: float, until: float) -> Script:
    """Who joins sees no keyframe for so long; the SDP has no parameter sets."""
    script = _plain(seconds + until)
    for shot in script.shots:
        if shot.key and shot.taken < T0 + until:
            shot.key = False
            shot.payloads = [b"\x41\x9a" + bytes(60)]
    return script


def _refresh(seconds: float) -> Script:
    return _plain(seconds, "h264 refresh")


# By opencv the first pictures of a slow clock come in FFmpeg's burst, before anything says that it is slow: three of 299.
CAMERAS: dict[str, Camera] = {
    "no reports": Camera(_plain),
    "reports": Camera(_reported, "rtcp"),
    "H.265, reports": Camera(lambda s: _reported(s, name="hevc"), "rtcp"),
    "every packet twice": Camera(lambda s: replace(_reported(s), twice=True), "rtcp"),
    "ONVIF's time in each packet": Camera(_onvif, "rtp"),
    "abs-capture-time": Camera(_abs_capture_time, "rtp"),
    "RTP clock 16 % slow": Camera(_slow_clock, within=0.98, settled=5.0, off=0.06),
    "RTP clock 16 % slow, reports": Camera(lambda s: _slow_clock(s, reported=True), within=0.98, settled=5.0, off=0.06),
    "RTP clock 8 % fast": Camera(lambda s: _slow_clock(s, 1.08), settled=5.0, off=0.06),
    "2 frames a second": Camera(lambda s: _reported(max(s, 40.0), fps=2.0), "rtcp"),
    "a frame in 2 seconds": Camera(lambda s: _reported(max(s, 80.0), fps=0.5), "rtcp"),
    "single frames stamped hours away": Camera(_stamped_hours_away, "rtcp", untimed=0.03),
    "reports of 1970": Camera(lambda s: _reported(s, error=lambda at: -(T0 + at))),
    "reports in local time": Camera(lambda s: _reported(s, error=lambda at: LOCAL_TIME)),
    "reports hours off": Camera(lambda s: _reported(s, error=lambda at: -5 * 3600.0 - 7)),
    "reports set after 30 s": Camera(lambda s: _reported(max(s, 45.0), error=_set_late), "rtcp"),
    "new SSRC at each keyframe": Camera(_new_ssrc, off=0.05),
    "RTP clock begins anew": Camera(lambda s: _new_clock(max(s, 30.0)), "rtcp", untimed=0.002, off=0.05),
    "parameter sets with marker and the former time": Camera(_sets_apart, "rtcp"),
    "marker on each slice": Camera(lambda s: _markers(s, "each"), "rtcp"),
    "markers never": Camera(lambda s: _markers(s, "never"), "rtcp"),
    "intra refresh": Camera(_refresh),
    "another size in mid-stream": Camera(_switching, seen=200),
    "only the PPS changed": Camera(_other_pps, seen=200),
    "first keyframe after 20 s": Camera(lambda s: _late_key(s, 20.0)),
    "first keyframe after 45 s": Camera(lambda s: _late_key(s, 45.0)),
    "JPEG": Camera(lambda s: _jpeg(min(s, 6.0), 640, 368), film=0),
    "JPEG, 4:2:2": Camera(lambda s: _jpeg(min(s, 6.0), 640, 368, "422"), film=0),
    "JPEG, restart markers": Camera(lambda s: _jpeg(min(s, 6.0), 640, 368, restart=4), film=0),
    "JPEG over 2040 pixels": Camera(lambda s: _jpeg(min(s, 1.6), 2304, 1296, extended=True), opencv=False, film=0),
}
