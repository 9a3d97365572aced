"""From encoded packets to one picture.

One `PictureDecoder` per connection, reused: it continues from its position when that is on the way to the wanted
picture, else it starts at the keyframe; where keyframes alone are wanted, FFmpeg's decoder is shared (`contexts`). One
thread, no frame threads: they do not help, and H.265 can hang when such a decoder is drained. Calls come one at a time,
from any thread of the decode pool.

What decodes (cv2, av, numpy: 0.4 s of CPU) is imported by the first call, so in the pool: a start does not wait for it, nor
does the event loop.

Longer than 250 lines: planning what to feed and taking what comes out share the decoder's position.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.values import Integrity
from services.rtsp_capture.media.contexts import DecoderContexts, Key, key_of
from services.rtsp_capture.media.damage import Damage
from services.rtsp_capture.media.gop_buffer import Packet, Picture
from services.rtsp_capture.media.packets import Jpeg, StreamInfo
from utils.exceptions import CaptureFailure

if TYPE_CHECKING:
    from services.rtsp_capture.media.luma import Luma

__all__ = ["Jpeg", "PictureDecoder"]

KEPT = 2  # decoded frames kept for callers that want the same picture: 3.3 MB each at 1080p
KEPT_SECONDS = 0.5
_BEST_SECONDS = 5.0  # that the sharpest frame of several is kept, should nobody fetch it
_AHEAD = 4  # frames that came out before they were asked for
_PENDING = 64  # packets whose frame may still come out


@dataclass(slots=True)
class _Fed:
    """A packet that the decoder was fed, and the damage that its errors are noted in."""

    packet: Packet
    damage: Damage
    index: int  # in its GOP
    leading: bool
    blind: bool  # its references were not decoded, so its errors mean nothing
    label: int = 0  # counts packets up


@dataclass(frozen=True, slots=True)
class _Kept:
    packet: Packet
    frame: Any
    at: float


class PictureDecoder:
    """Decodes pictures of one connection. Not to be used by two threads at once."""

    def __init__(
        self, info: StreamInfo, *, lossy: bool = False, monotonic: Callable[[], float] = time.monotonic,
        contexts: DecoderContexts | None = None,
    ) -> None:  # fmt: skip
        """`lossy`: the transport may lose data without a word (UDP). `contexts`: shared with other streams."""
        self._info = info
        self._contexts = contexts
        self._shared: Key | None = None  # under which others may have the context, once it has decoded one keyframe alone
        self._integrity = Integrity.UNKNOWN if lossy and silent(info) else Integrity.VERIFIED
        self._monotonic = monotonic
        self._context: Any = None
        self._last: Packet | None = None  # the packet fed last; None: it has to begin at a keyframe
        self._whole_from: Packet | None = None  # the keyframe it began with
        self._goes_on = False  # the last picture was no keyframe: then the pictures after it are likely to be wanted, too
        self._pending: dict[int, _Fed] = {}  # packets whose frame has not come out, by label
        self._label = 0
        # The first packet that was damaged: what was fed after it may show that, even a keyframe.
        self._stained: int | None = None
        self._kept: dict[int, _Kept] = {}  # frames by the identity of their packet, the newest last
        self._best: _Kept | None = None  # the sharpest of those that were compared

    def decode(self, picture: Picture, quality: int) -> Jpeg:
        """The picture as JPEG of `quality` (50-100). Raises CaptureFailure decode_failed when it is not whole."""
        from services.rtsp_capture.media.jpeg import encode_jpeg, received_jpeg

        if self._info.codec == "mjpeg":
            return received_jpeg(picture.packet.data)
        return encode_jpeg(self.frame(picture), quality, self._integrity)

    def frame(self, picture: Picture) -> Any:
        """The picture as av.VideoFrame, not to be changed. Not for Motion JPEG. Raises CaptureFailure decode_failed."""
        refuse_incomplete(picture)
        self.forget()
        if (best := self._best) is not None and best.packet is picture.packet:
            self._best = None
            return best.frame
        kept = self._kept.get(id(picture.packet)) or self._decode(picture)
        # Damage that does not concern the picture: the decoder begins again.
        if kept is None and self._stained is not None and not picture.damaged:
            kept = self._decode(picture)
        if picture.damaged:  # learnt just now
            raise CaptureFailure("decode_failed", "The picture's data is damaged.")
        if kept is None:
            raise CaptureFailure("decode_failed", "The picture could not be decoded whole.")
        self._trim(picture)
        return kept.frame

    def advance(self, picture: Picture) -> None:
        """Decodes up to the picture and keeps its frame, so that `decode` has little left to do: a live decoder.

        Cheap only when called for each packet as it comes. Raises nothing: errors are raised when the picture is wanted.
        """
        if self._info.codec == "mjpeg" or picture.damaged or not picture.decodable or id(picture.packet) in self._kept:
            return
        self.forget()
        self._run(picture, self._plan(picture))
        self._trim(picture)

    def forget(self) -> bool:
        """Releases frames that were decoded KEPT_SECONDS ago; True when others are left. Not while it decodes."""
        oldest = self._monotonic() - KEPT_SECONDS
        self._kept = {key: kept for key, kept in self._kept.items() if kept.at > oldest}
        if self._best is not None and self._best.at < self._monotonic() - _BEST_SECONDS:
            self._best = None
        return bool(self._kept) or self._best is not None

    def _trim(self, picture: Picture) -> None:
        """Of the frames up to the picture the latest stay, of those after it the next ones."""
        kept = sorted(self._kept.items(), key=lambda item: item[1].packet.pts)
        upto = sum(one.packet.pts <= picture.packet.pts for _, one in kept)
        self._kept = dict(kept[max(0, upto - KEPT) : upto + _AHEAD])

    # -- decoding ----------------------------------------------------------------------------------------------

    def _decode(self, picture: Picture) -> _Kept | None:
        self._run(picture, self._plan(picture))
        wanted = id(picture.packet)
        alone = self._whole_from is picture.packet and self._last is picture.packet  # a keyframe: a drain is cheapest
        if not alone and wanted not in self._kept:
            for fed in self._ahead(picture):
                self._feed(fed, picture)
                if wanted in self._kept or picture.damaged:
                    break
        if wanted not in self._kept and self._last is not None:
            # A drain outputs what the decoder holds back; after it the decoder has to begin again.
            self._take(lambda: self._context.decode(None), None, picture)
            self._last = None
        if alone and wanted in self._kept and not (self._goes_on and self._last is not None):
            # Keyframes only: the next one needs nothing of this. An idle context has 6 MB.
            self._give_back(picture)
            self._restart()
        self._goes_on = not picture.packet.key
        return self._kept.get(wanted)

    def _give_back(self, picture: Picture) -> None:
        context, self._context = self._context, None
        if self._contexts is not None and self._shared is not None and self._stained is None:
            context.flush_buffers()
            pixels = max(picture.gop.sets.pixels, self._info.width * self._info.height)
            self._contexts.give(self._shared, context, pixels)

    def _run(self, picture: Picture, plan: list[_Fed]) -> None:
        """Feeds the plan up to the first packet that spoils the picture."""
        for fed in plan:
            self._feed(fed, picture)
            if picture.damaged:
                break

    def _plan(self, picture: Picture) -> list[_Fed]:
        """The packets to feed up to the picture: on from the decoder's position, or from the keyframe."""
        gop, index = picture.gop, picture.index
        packets, before, last = gop.packets, gop.previous, self._last
        if last is not None and self._context is not None and self._stained is None:
            began_before = self._whole_from is not packets[0]
            at = _position(packets, last)
            if at is not None and (began_before or not picture.needs_previous):
                if at < index:
                    return _entries(packets, gop.damage, at + 1, index + 1)
                if self._is_pending(picture.packet):
                    return []
            if gop.following and _position(gop.following, last) is not None and self._is_pending(picture.packet):
                return []
            if last is gop.before and not gop.previous_damage.any:
                return _entries(packets, gop.damage, 0, index + 1)
        self._begin(picture)
        if not picture.needs_previous:
            self._whole_from = packets[0]
            return _entries(packets, gop.damage, 0, index + 1, blind=True)
        self._whole_from = before[0]
        earlier = _entries(before, gop.previous_damage, 0, len(before), blind=True)
        return [*earlier, *_entries(packets, gop.damage, 0, index + 1)]

    def _ahead(self, picture: Picture) -> list[_Fed]:
        """The packets after the picture, from the decoder's position: a decoder holds a picture back while others may
        be shown before it.
        """
        gop, blind = picture.gop, self._whole_from is picture.gop.packets[0]
        coming = _entries(gop.packets, gop.damage, picture.index + 1, len(gop.packets), blind=blind)
        coming += _entries(gop.following, gop.following_damage, 0, len(gop.following))
        reached = next((at for at, fed in enumerate(coming) if fed.packet is self._last), -1)
        return coming[reached + 1 :]

    def _is_pending(self, packet: Packet) -> bool:
        return any(fed.packet is packet for fed in self._pending.values())

    def _feed(self, fed: _Fed, picture: Picture) -> None:
        self._label += 1
        fed.label = self._label
        self._pending[self._label] = fed
        if len(self._pending) > _PENDING:
            del self._pending[next(iter(self._pending))]
        self._last = fed.packet
        from services.rtsp_capture.media.ffmpeg import av_packet

        packet = av_packet(fed.packet, self._label)
        self._take(lambda: self._context.decode(packet), fed, picture)

    def _take(self, decode: Callable[[], list[Any]], fed: _Fed | None, picture: Picture) -> None:
        """Keeps the frames that come out, from the picture on; an error spoils its packet and those after it."""
        from services.rtsp_capture.media.ffmpeg import FFmpegError, decoder_errors

        with decoder_errors() as damaged:
            try:
                frames = decode()
            except FFmpegError:
                frames, failed = [], True
            else:
                failed = damaged()
        if failed and fed is not None:
            self._spoil(fed)
        for frame in frames:
            one = self._pending.pop(frame.pts, None) if frame.pts is not None else None
            if one is None:
                continue
            # Frames come out in the order of showing: what should have come before this one never will.
            self._pending = {label: each for label, each in self._pending.items() if each.packet.pts > one.packet.pts}
            if frame.is_corrupt:
                self._spoil(one)
            elif self._stained is not None and one.label >= self._stained:
                continue
            elif one.packet is picture.packet or one.packet.pts > picture.packet.pts:
                self._kept[id(one.packet)] = _Kept(one.packet, frame, self._monotonic())

    def _spoil(self, fed: _Fed) -> None:
        if not fed.blind:
            fed.damage.failed(fed.index, leading=fed.leading)
            self._stained = min(fed.label, self._stained or fed.label)

    def _begin(self, picture: Picture) -> None:
        if self._context is None or self._stained is not None:
            from services.rtsp_capture.media.ffmpeg import new_context

            self._shared = key_of(self._info, picture.gop) if self._contexts is not None else None
            waiting = self._contexts.take(self._shared) if self._contexts is not None and self._shared is not None else None
            self._context, self._stained = waiting or new_context(self._info), None
        else:
            self._shared = None  # it may know parameter sets of groups before
            self._context.flush_buffers()
        self._restart()

    def _restart(self) -> None:
        self._last = self._whole_from = None
        self._pending.clear()

    def sharpness(self, picture: Picture, best: float | None) -> float:
        """How sharp the picture is. One that is sharper than `best`, that of the best one before (None: there is none), is
        what `decode` has at hand next. Raises CaptureFailure decode_failed."""
        from services.quality.sharpness import WIDTH, sharpness
        from services.rtsp_capture.media.luma import received_luma, small_luma

        if self._info.codec == "mjpeg":
            return sharpness(received_luma(picture.packet.data, WIDTH))
        if best is None:
            self._best = None
        frame = self.frame(picture)
        found = sharpness(small_luma(frame, WIDTH))
        if best is None or found > best:
            self._best = _Kept(picture.packet, frame, self._monotonic())
        return found

    def luma(self, picture: Picture, width: int) -> Luma:
        """The picture in grey, `width` wide, for analysis, not for storing. Raises CaptureFailure decode_failed."""
        from services.rtsp_capture.media.luma import received_luma, small_luma

        if self._info.codec == "mjpeg":
            return received_luma(picture.packet.data, width)
        return small_luma(self.frame(picture), width)


def silent(info: StreamInfo) -> bool:
    """Whether a lost part may show nowhere: H.265's decoder mostly says nothing of one within an access unit, and H.264's
    not always."""
    return info.codec != "mjpeg" and not info.tells_losses


def refuse_incomplete(picture: Picture) -> None:
    """Raises CaptureFailure decode_failed for a picture that is known not to be whole, before anything is decoded."""
    if picture.damaged:
        raise CaptureFailure("decode_failed", "Data of the picture, or of one that it refers to, was lost.")
    if not picture.decodable:
        raise CaptureFailure("decode_failed", "The picture refers to some from before the connection.")


def _entries(gop: list[Packet], damage: Damage, start: int, end: int, *, blind: bool = False) -> list[_Fed]:
    """Packets of a GOP. `blind`: those shown before the keyframe refer to what was not decoded."""
    fed = []
    for at in range(start, end):
        packet = gop[at]
        leading = not packet.key and packet.pts < gop[0].pts
        fed.append(_Fed(packet, damage, at, leading, blind and leading))
    return fed


def _position(packets: list[Packet], packet: Packet) -> int | None:
    """The index of that very packet."""
    return next((at for at in range(len(packets) - 1, -1, -1) if packets[at] is packet), None)
