"""Tracks read from files: what the SDP tells about them, and their RTP payloads picture by picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from aio_rtsp_toolkit.server_media import (
    MediaTrackInfo,
    extract_nalus,
    parse_parameter_sets,
    profile_level_id_from_sps,
    to_base64,
)

from demo.rtp import aac_payload, jpeg_payloads, video_payloads
from demo.show import Sets

TICKS = 90_000  # a second of video on RTP's clock
_PCM_STEP = 160  # samples of 8 kHz in a packet: 20 ms (RFC 3551, section 4.2)
_PCM_TYPES = {"pcm_mulaw": ("pcmu", 0), "pcm_alaw": ("pcma", 8)}  # their static payload types


@dataclass(frozen=True, slots=True)
class Coded:
    """One coded picture of a film; times in seconds from the film's start."""

    sent: Fraction  # its place in decoding order
    shown: Fraction
    number: int
    key: bool
    payloads: tuple[bytes, ...]

    def moved(self, seconds: Fraction, pictures: int) -> "Coded":
        """The same, later: as part of a longer film."""
        return replace(self, sent=self.sent + seconds, shown=self.shown + seconds, number=self.number + pictures)


@dataclass(frozen=True, slots=True)
class Video:
    """A film's track, its pictures in decoding order, and seconds from one to the next."""

    track: MediaTrackInfo
    coded: Sequence[Coded]
    step: Fraction


def video_track(codec: str, parameter_sets: dict[str, bytes], sets: Sets = "both") -> MediaTrackInfo:
    """How the SDP describes pictures of this codec (h264, hevc, mjpeg); `parameter_sets` by sps, pps, vps."""
    if codec == "mjpeg":
        return MediaTrackInfo("video", "", "jpeg", 26, TICKS)
    told = {name: to_base64(data) for name, data in parameter_sets.items()} if sets != "band" else {}
    if codec == "hevc":
        fmtp = "; ".join(f"sprop-{name}={told[name]}" for name in ("vps", "sps", "pps") if told)
        return MediaTrackInfo("video", "", "h265", 96, TICKS, fmtp=fmtp)
    fmtp = f"packetization-mode=1; profile-level-id={profile_level_id_from_sps(parameter_sets['sps'])}"
    if told:
        fmtp += f"; sprop-parameter-sets={told['sps']},{told['pps']}"
    return MediaTrackInfo("video", "", "h264", 96, TICKS, fmtp=fmtp)


def read_video(path: Path, sets: Sets, limit: int) -> Video:
    """A film's pictures as payloads of at most `limit` bytes, with parameter sets before key pictures as `sets` says."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        codec = stream.codec_context.name
        step = 1 / Fraction(stream.average_rate or 25)
        size, found = parse_parameter_sets(codec, bytes(stream.codec_context.extradata or b""))
        before = [found[name] for name in ("vps", "sps", "pps") if name in found and sets != "sdp"]
        packets = [p for p in film.demux(stream) if p.size and p.pts is not None and p.dts is not None]
        base = Fraction(stream.time_base or 1)
        first = min(p.pts for p in packets if p.pts is not None)

        def payloads(packet: Any) -> tuple[bytes, ...]:
            if codec == "mjpeg":
                return jpeg_payloads(bytes(packet), limit)
            nalus = extract_nalus(codec, bytes(packet), size)
            return video_payloads(codec, [*(before if packet.is_keyframe else []), *nalus], limit)

        def seconds(value: Any) -> Fraction:
            return Fraction(value - first) * base

        coded = [
            Coded(seconds(p.dts), seconds(p.pts), round(seconds(p.pts) / step), p.is_keyframe, payloads(p)) for p in packets
        ]
    return Video(video_track(codec, found, sets), coded, step)


def read_sound(path: Path) -> tuple[MediaTrackInfo, list[bytes], Fraction]:
    """The track, one payload a packet, and seconds from one packet to the next."""
    with av.open(str(path)) as film:
        stream = film.streams.audio[0]
        context = stream.codec_context
        data = [bytes(packet) for packet in film.demux(stream) if packet.size]
        if context.name in _PCM_TYPES:
            name, number = _PCM_TYPES[context.name]
            whole = b"".join(data)
            cut = [whole[at : at + _PCM_STEP] for at in range(0, len(whole) - _PCM_STEP + 1, _PCM_STEP)]
            return MediaTrackInfo("audio", "", name, number, 8000), cut, Fraction(_PCM_STEP, 8000)
        fmtp = (
            "streamtype=5; profile-level-id=15; mode=AAC-hbr; SizeLength=13; IndexLength=3; IndexDeltaLength=3; "
            f"config={bytes(context.extradata or b'').hex()}"
        )
        rate = int(context.sample_rate)
        track = MediaTrackInfo("audio", "", "mpeg4-generic", 104, rate, context.layout.nb_channels, fmtp)
        return track, [aac_payload(frame) for frame in data], Fraction(1024, rate)
