"""Decoders that wait for the next keyframe: of any stream with the same parameter sets.

Making one for each keyframe costs more than the half of decoding it (its frames are allocated and their pages touched
again), and one for each stream would keep 6 MB of each camera at 1080p. One that has decoded a keyframe alone, and was
flushed, holds nothing of that picture but the parameter sets; so it is given only to pictures with exactly these.
Any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from services.rtsp_capture.media.gop_buffer import Gop
from services.rtsp_capture.media.packets import StreamInfo

MOST_PIXELS = 16 * 1920 * 1088  # of one picture of each that waits: about 100 MB
Key = tuple[str, bytes, int, frozenset[bytes]]


def key_of(info: StreamInfo, gop: Gop) -> Key | None:
    """What a decoder knows that has decoded this group's keyframe; None: it cannot be told."""
    sets = gop.sets.scan(info.codec, gop.packets, 1)
    return None if sets.too_many else (info.codec, info.extradata, info.max_pixels, frozenset(sets.found))


class DecoderContexts:
    """One a process. Beyond MOST_PIXELS those that have waited longest are given up."""

    def __init__(self, most_pixels: int = MOST_PIXELS) -> None:
        self._most = most_pixels
        self._guard = threading.Lock()
        self._waiting: OrderedDict[int, tuple[Key, Any, int]] = OrderedDict()  # oldest first
        self._pixels = 0

    def take(self, key: Key) -> Any:
        """The one that was given last with this key; None: there is none."""
        with self._guard:
            for name in reversed(self._waiting):
                if self._waiting[name][0] == key:
                    _, context, pixels = self._waiting.pop(name)
                    self._pixels -= pixels
                    return context
        return None

    def give(self, key: Key, context: Any, pixels: int) -> None:
        """A flushed one that nobody else uses. `pixels`: of its pictures."""
        dropped = []  # their memory is released outside of the lock
        with self._guard:
            self._waiting[id(context)] = (key, context, pixels)
            self._pixels += pixels
            while self._pixels > self._most:
                _, (_, old, size) = self._waiting.popitem(last=False)
                self._pixels -= size
                dropped.append(old)

    def __len__(self) -> int:
        return len(self._waiting)
