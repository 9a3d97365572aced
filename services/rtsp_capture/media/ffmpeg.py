"""FFmpeg's decoders: one for a stream, what it is fed, and its own reports of damage.

Importing this is most of the 0.4 s of CPU that `decoder` leaves to the first picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
from av.codec.context import ThreadType
from av.error import FFmpegError

from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import StreamInfo

__all__ = ["FFmpegError", "av_packet", "decoder_errors", "new_context"]

_TIME_BASE = Fraction(1, 90_000)

# PyAV hands FFmpeg's messages to a capture in the same thread, and the rest to the loggers "libav.*". Those are silenced,
# as messages of the demuxers may hold whole URLs. Repeated messages must not be dropped: a second damaged picture causes
# the same message as the first.
av.logging.set_level(av.logging.WARNING)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").propagate = False
logging.getLogger("libav").addHandler(logging.NullHandler())

# Errors that change no picture: in supplemental information and display hints, which some cameras get wrong in every
# keyframe; and, where decoding began at an open GOP's keyframe, commands to drop pictures of the GOP before (a picture
# that refers to a missing one has an error of its own).
_HARMLESS = ("SEI", "VUI", "icture timing", "uffering period", "aspect ratio", "mmco: unref short failure")


@contextmanager
def decoder_errors() -> Iterator[Callable[[], bool]]:
    """Within it: whether FFmpeg, in this thread, has reported damage. Measured at 3 µs each."""
    with av.logging.Capture() as logs:
        yield lambda: any(level <= av.logging.ERROR and not any(one in text for one in _HARMLESS) for level, _, text in logs)


def new_context(info: StreamInfo) -> Any:
    """A decoder of one thread."""
    context = av.CodecContext.create(info.codec, "r")
    context.thread_count = 1
    context.thread_type = ThreadType.NONE
    # The last of three bounds: what readers and trials judge by the parameter sets, the decoder refuses by itself.
    context.options = {"max_pixels": str(info.max_pixels)}
    if info.codec == "hevc":  # a picture whose references are missing is not shown
        context.options = {**context.options, "err_detect": "explode"}
    if info.extradata:
        context.extradata = info.extradata
    return context


def av_packet(packet: Packet, label: int) -> Any:
    """With a label of its own as its time: streams' times may repeat, and frames must not be confused."""
    made = av.Packet(packet.data)
    made.pts = label
    made.time_base = _TIME_BASE
    made.is_keyframe = packet.key
    return made
