"""The protocols between a stream and what brings it a camera's packets.

A stream knows a `Connector`: it connects and gives a `PacketConnection`, which delivers packets on the event loop until it
ends. `PacketReader` is for libraries that block: `reader_thread` makes a connection of one. Threads: open, read and close of
one reader are called from one and the same thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from services.rtsp_capture.connection.camera_address import CameraAddress
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.timing.host_clock import HostClock
from utils.exceptions import CaptureFailure


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
    """What to open, over TCP; seconds."""

    url: str
    open_timeout: float
    read_timeout: float
    max_pixels: int = 67_108_864


ReaderFactory = Callable[[ReaderOptions], PacketReader]


@dataclass(frozen=True, slots=True)
class ConnectionEnd:
    """How a connection ended: `failure` is None when it was stopped. `goodbye`: the camera said so (RTCP BYE)."""

    failure: CaptureFailure | None
    packets: int
    goodbye: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionPlan:
    """What to connect to, and who receives what comes. Callbacks are called on the event loop."""

    name: str  # of the camera, for the log
    address: CameraAddress
    transport: str  # tcp or udp
    segment: int  # counts the stream's connections
    host: HostClock
    on_open: Callable[[StreamInfo], None]
    on_packets: Callable[[list[Packet]], None]

    def __repr__(self) -> str:
        return f"ConnectionPlan({self.name})"


class PacketConnection(Protocol):
    """One connection that delivers packets. On the event loop."""

    ended: asyncio.Future[ConnectionEnd]

    @property
    def reported(self) -> bool:
        """Whether the camera has sent its clock, believed or not."""

    async def catch_up(self, prompt: float = 0.0) -> None:
        """Delivers what has come and waits for its batch; what comes in the next `prompt` seconds is delivered at once."""

    def stop(self) -> None:
        """Asks it to end; `ended` says when it has."""

    def abandon(self, failure: CaptureFailure) -> bool:
        """Ends it though it does not react; False when that is not possible."""

    async def join(self) -> None:
        """Waits until nothing of it is left; not for one that was abandoned."""


# Raises CaptureFailure when the camera cannot be connected to.
Connector = Callable[[ConnectionPlan], Awaitable[PacketConnection]]
