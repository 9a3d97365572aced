"""The protocol between a stream and the reader of a camera's packets.

Threads: open, read and close of one reader are called from one and the same thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.rtsp_capture.media.packets import RawPacket, StreamInfo


class PacketReader(Protocol):
    """Opens a stream and returns its packets in decoding order."""

    def open(self) -> StreamInfo:
        """Connects; blocks up to the open timeout. Raises CaptureFailure."""

    def read(self) -> RawPacket:
        """The next packet; blocks up to the read timeout. Raises CaptureFailure when the stream broke."""

    def close(self) -> None:
        """Disconnects. From the thread that opened."""


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """How to open: the URL with credentials and with its host resolved; seconds; tcp or udp."""

    url: str
    transport: str
    open_timeout: float
    read_timeout: float
    tls_verify: bool = True

    def __repr__(self) -> str:
        return f"ReaderOptions({self.transport})"


ReaderFactory = Callable[[ReaderOptions], PacketReader]
