"""A camera's keyframe in a file of its own, as it came: MP4 with one sample. Not decoded, so not judged by a decoder.

FFmpeg's muxer writes the file, from memory to memory (0.1 ms); what it is given is one access unit of a whole picture, with
every parameter set that the stream has named. The same picture always becomes the same bytes. Any thread.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache

import av

from models.values import Integrity
from services.rtsp_capture.media import h264
from services.rtsp_capture.media.decoder import refuse_incomplete, silent
from services.rtsp_capture.media.ffmpeg import FFmpegError
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import PictureFile, StreamInfo
from services.rtsp_capture.media.parameter_sets import MOST
from services.rtsp_capture.media.sps import PictureFormat, picture_format
from utils.exceptions import CaptureFailure

_VPS = 32
_TICKS = 90_000  # a second
_FPS = 25.0  # where the camera names none: the file shows its picture for so long
_FORMATS = {"h264": "h264", "hevc": "h265"}
# Kinds of NAL units by codec (tables 7-1): parameter sets in the order in which they refer to each other; and what is no
# part of the picture: delimiters, ends of sequence and stream, filler, which some cameras send by the kilobyte.
_SETS = {"h264": (7, 8), "hevc": (_VPS, 33, 34)}
_LEFT_OUT = {"h264": frozenset((9, 10, 11, 12)), "hevc": frozenset((35, 36, 37, 38))}
# The boxes around what a player is told of a picture, and how many of their bytes come before the next one.
_PATH = (
    ((b"moov",), 8), ((b"trak",), 8), ((b"mdia",), 8), ((b"minf",), 8), ((b"stbl",), 8), ((b"stsd",), 16),
    ((b"avc1", b"hvc1"), 0),
)  # fmt: skip
_SPS = {"h264": 7, "hevc": 33}


def source_file(info: StreamInfo, picture: Picture, *, lossy: bool) -> PictureFile:
    """The file of a keyframe of H.264 or H.265. `lossy`: the transport may lose data without a word (UDP).

    Raises CaptureFailure decode_failed for a picture that is not whole by itself, or known not to be whole at all.
    """
    refuse_incomplete(picture)
    if not picture.packet.key or picture.needs_previous:
        raise _failed("The picture is no keyframe that is whole by itself.")
    sets, units = _Sets(info.codec), _nals(picture.packet.data)
    sets.take(_nals(h264.annex_b(info.extradata)))
    sets.take(units)
    try:
        form, field = sets.used_by(units)
    except (ValueError, LookupError, StopIteration):
        raise _failed("The picture's parameter sets never came, or make no sense.") from None
    if field is not None:
        raise _failed("The camera sends a picture as two interlaced fields: only encoding jpeg stores them.")
    body = [nal for nal in units if sets.kind(nal) not in sets.left_out]
    data = _mp4(info, form, b"".join(b"\0\0\0\1" + nal for nal in (*sets.all(), *body)))
    return PictureFile(
        data, form.width, form.height, hashlib.sha256(data).hexdigest(), Integrity.UNDECODED, _FORMATS[info.codec],
        silent=lossy and silent(info),
    )  # fmt: skip


def _failed(message: str) -> CaptureFailure:
    return CaptureFailure("decode_failed", message)


def _nals(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B access unit, without the zeros after them."""
    return [nal for part in data.split(b"\0\0\1")[1:] if len(nal := part.rstrip(b"\0")) > 1]


# A stream's parameter sets are the same for hours.
_format = lru_cache(256)(picture_format)
_sequence = lru_cache(256)(h264.parse_sps)


@lru_cache(1024)
def _id(codec: str, kind: int, nal: bytes) -> int | None:
    """The parameter set's; None for one that makes no sense: what refers to it finds nothing."""
    try:
        if kind == _SPS[codec]:
            return _format(codec, nal).id
        if codec == "h264":
            return h264.parse_pps(nal)[0]
        return h264.Bits(nal[2:18]).u(4) if kind == _VPS else h264.Bits(nal[2:18]).ue()
    except ValueError:
        return None


class _Sets:
    """The parameter sets that the picture may refer to: of each id the newest."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._found: dict[tuple[int, int], bytes] = {}  # by kind and id
        self.left_out = _LEFT_OUT[codec] | frozenset(_SETS[codec])

    def kind(self, nal: bytes) -> int:
        return nal[0] & 31 if self._codec == "h264" else nal[0] >> 1 & 63

    def take(self, nals: Iterable[bytes]) -> None:
        for nal in nals:
            kind = self.kind(nal)
            if kind not in _SETS[self._codec] or len(self._found) >= MOST:
                continue
            if (number := _id(self._codec, kind, nal)) is not None:
                self._found[kind, number] = nal

    def all(self) -> list[bytes]:
        """In the order in which they refer to each other."""
        return [nal for kind in _SETS[self._codec] for (of, _), nal in self._found.items() if of == kind]

    def used_by(self, units: list[bytes]) -> tuple[PictureFormat, int | None]:
        """The picture's size, and which field its first slice is of. Raises ValueError, LookupError, StopIteration."""
        if self._codec == "hevc":
            first = next(nal for nal in units if self.kind(nal) < 32)
            bits = h264.Bits(first[2:18])
            bits.u(1)
            if 16 <= self.kind(first) <= 23:
                bits.u(1)
            pps = h264.Bits(self._found[34, bits.ue()][2:18])
            pps.ue()
            return _format("hevc", self._found[33, pps.ue()]), None
        first = next(nal for nal in units if self.kind(nal) in (h264.SLICE, h264.IDR))
        _, sequence_id = h264.parse_pps(self._found[h264.PPS, h264.slice_pps(first)])
        sps = self._found[h264.SPS, sequence_id]
        return _format("h264", sps), h264.parse_slice(first[:64], _sequence(sps)).field


def _mp4(info: StreamInfo, form: PictureFormat, unit: bytes) -> bytes:
    out = io.BytesIO()
    base = Fraction(1, _TICKS)
    try:
        # `bitexact`: no version of FFmpeg inside, so that equal pictures are equal files.
        with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_mux_stream(info.codec, width=form.width, height=form.height)
            stream.time_base = base
            packet = av.Packet(unit)
            packet.pts = packet.dts = 0
            packet.duration = round(_TICKS / (info.fps if info.fps and 0.1 <= info.fps <= 1000 else _FPS))
            packet.time_base, packet.is_keyframe, packet.stream = base, True, stream
            container.mux_one(packet)
    except (FFmpegError, ValueError):
        raise _failed("The picture's parameter sets make no sense.") from None
    return with_appearance(out.getvalue() if info.codec == "h264" else _hvc1(out.getvalue()), form)


def _hvc1(data: bytes) -> bytes:
    """FFmpeg's `hev1` as `hvc1`, which Apple's players want: parameter sets in the sample entry alone (14496-15, 8.4.3).

    PyAV's streams without an encoder cannot be told it. The sample lies before the boxes, so that no offset changes.
    """
    at = 0
    while data[at + 4 : at + 8] != b"mdat":
        at += int.from_bytes(data[at : at + 4])
    end = at + int.from_bytes(data[at : at + 4])
    kept, place = [], at + 8
    while place < end:
        following = place + 4 + int.from_bytes(data[place : place + 4])
        if data[place + 4] >> 1 & 63 not in _SETS["hevc"]:
            kept.append(data[place:following])
        place = following
    size, boxes = sum(map(len, kept)), bytearray(data[end:])
    entry = boxes.index(b"hev1")
    boxes[entry : entry + 4] = b"hvc1"
    place = boxes.index(b"hvcC") + 4 + 22
    arrays, place = boxes[place], place + 1
    for _ in range(arrays):
        boxes[place] |= 0x80  # complete
        count, place = int.from_bytes(boxes[place + 1 : place + 3]), place + 3
        for _ in range(count):
            place += 2 + int.from_bytes(boxes[place : place + 2])
    sizes = boxes.rindex(b"stsz") + 8
    boxes[sizes : sizes + 4] = size.to_bytes(4)
    return b"".join((data[:at], (size + 8).to_bytes(4), b"mdat", *kept, boxes))


def with_appearance(data: bytes, form: PictureFormat) -> bytes:
    """The file with the shape of its pixels and its colours in its own boxes too (ISO/IEC 14496-12, 12.1.4 and 12.1.5).

    PyAV's streams without an encoder cannot be told them, and Chromium looks nowhere else. The boxes that hold these grow;
    the picture lies before them, so its place stays.
    """
    pixel, colour = form.appearance.pixel, form.appearance.colour
    extra = b""
    if pixel is not None and pixel[0] != pixel[1]:
        extra += struct.pack(">I4sII", 16, b"pasp", *pixel)
    if colour is not None:
        extra += struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", *colour[:3], colour.full << 7)
    if not extra:
        return data
    grown, at, end = bytearray(data), 0, len(data)
    for name, header in _PATH:
        while bytes(grown[at + 4 : at + 8]) not in name:
            at += int.from_bytes(grown[at : at + 4])
            if at >= end:
                raise _failed("The picture's file has no place for its colours.")
        size = int.from_bytes(grown[at : at + 4])
        grown[at : at + 4] = (size + len(extra)).to_bytes(4)
        at, end = at + header, at + size
    grown[end:end] = extra
    return bytes(grown)
