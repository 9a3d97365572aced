"""One connection's reader thread: opens, reads until it is stopped or the stream breaks, closes. All in that thread.

Packets are handed to the event loop through a bounded queue, the first at once, later ones in `batches`. A full queue (a
blocked loop) drops the packets that wait; those until the next keyframe cannot be decoded, and are dropped and counted,
too.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from services.rtsp_capture.connection.batches import Batches
from services.rtsp_capture.connection.reader import ConnectionEnd, PacketReader
from services.rtsp_capture.connection.stamper import Stamper
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.timing.host_clock import HOST, HostClock
from utils.exceptions import CaptureFailure
from utils.metrics import PACKETS, PACKETS_DROPPED, QUEUE_DEPTH, READERS_LEFT

MAX_WAITING_PACKETS = 2000  # packets between thread and loop
MAX_ABANDONED = 16  # threads of the process whose read does not end, and which are not waited for any more
_DEPTH = QUEUE_DEPTH.labels(queue="packets")


class ReaderThread:
    """Runs one `PacketReader` in a thread of its own. Made and used on the event loop."""

    def __init__(
        self,
        name: str,
        reader: PacketReader,
        segment: int,
        on_open: Callable[[StreamInfo], None],
        on_packets: Callable[[list[Packet]], None],
        *,
        max_offset: float = 1.0,
        host: HostClock = HOST,
        batches: Batches | None = None,
    ) -> None:
        """`max_offset`: RTSP__MAX_CLOCK_OFFSET; `host` brings the reader's receipt times to wall time; without `batches`
        each packet is handed over at once."""
        self._camera_id = name
        self._max_offset = max_offset
        self._host = host
        self._stamper: Stamper | None = None
        self._reader = reader
        self._segment = segment
        self._on_open = on_open
        self._on_packets = on_packets
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Packet] = deque()
        self._guard = threading.Lock()
        self._waking = False
        self._batches = batches
        self._prompt_until = math.inf  # monotonic seconds: until then each packet is handed over at once
        self._quit = threading.Event()
        self._count = 0
        self._after_loss = False  # packets were dropped, and no keyframe has come since
        self._abandoned = False
        self.ended: asyncio.Future[ConnectionEnd] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"rtsp-{name}"[:60], daemon=False)

    @property
    def reported(self) -> bool:
        """Whether the camera has sent its clock, believed or not."""
        return self._stamper is not None and self._stamper.reported

    def start(self) -> None:
        if self._batches is not None:
            self._batches.add(self._drain)
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end, which it does within the read timeout or the open timeout. `ended` says when."""
        self._quit.set()

    def abandon(self, failure: CaptureFailure) -> bool:
        """Ends the connection although its thread is in a read that does not end.

        The thread ends with the read; its packets are ignored. False when MAX_ABANDONED threads are abandoned already.
        """
        if len(_abandoned) >= MAX_ABANDONED:
            return False
        _abandoned.add(self)
        READERS_LEFT.set(len(_abandoned))
        self._abandoned = True
        self._quit.set()
        self._finish(ConnectionEnd(failure, self._count))
        return True

    # -- in the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        failure: CaptureFailure | None = None
        try:
            if not self._quit.is_set():
                self._read()
        except CaptureFailure as error:
            failure = error
        except Exception as error:  # cv2's own errors, whose texts hold the URL
            failure = CaptureFailure("stream_ended", f"Reading the stream failed ({type(error).__name__}).")
        finally:
            self._reader.close()
            if self._stamper is not None:
                self._stamper.close()
        self._post(lambda: self._finish(ConnectionEnd(failure, self._count)))
        self._post(self._gone)

    def _read(self) -> None:
        info = self._reader.open()
        self._post(lambda: self._on_open(info))
        # FFmpeg's parser hands a picture over when the next one begins; Motion JPEG's are ended by the marker bit.
        parsed = info.codec != "mjpeg"
        self._stamper = stamper = Stamper(
            self._camera_id, self._segment, info, max_offset=self._max_offset, host=self._host, parsed=parsed
        )
        while not self._quit.is_set():
            raw = self._reader.read()
            self._count += 1
            PACKETS.inc()
            for packet in stamper.push(raw):
                if self._after_loss and not packet.key:
                    PACKETS_DROPPED.labels(reason="after_loss").inc()
                else:
                    self._after_loss = not self._hand_over(packet)

    def _hand_over(self, packet: Packet) -> bool:
        with self._guard:
            if len(self._waiting) >= MAX_WAITING_PACKETS:
                PACKETS_DROPPED.labels(reason="queue_full").inc(len(self._waiting) + 1)
                _DEPTH.dec(len(self._waiting))
                self._waiting.clear()
                return False
            self._waiting.append(packet)
            _DEPTH.inc()
            if self._waking or time.monotonic() >= self._prompt_until:
                return True
            self._waking = True
        self._post(self._drain)
        return True

    def _post(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: the process is ending
            self._quit.set()

    # -- on the loop -------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        with self._guard:
            packets = list(self._waiting)
            self._waiting.clear()
            self._waking = False
        if not packets:
            return
        _DEPTH.dec(len(packets))
        if self._batches is not None and self._prompt_until == math.inf:
            self._prompt_until = -math.inf
        if not self._abandoned:
            self._on_packets(packets)

    async def catch_up(self, prompt: float = 0.0) -> None:
        """As `reader.PacketConnection`."""
        if self._prompt_until != math.inf:
            self._prompt_until = max(self._prompt_until, time.monotonic() + prompt)
            self._drain()

    def _finish(self, end: ConnectionEnd) -> None:
        self._drain()
        if self._batches is not None:
            self._batches.remove(self._drain)
        if not self.ended.done():
            self.ended.set_result(end)

    def _gone(self) -> None:
        _abandoned.discard(self)
        READERS_LEFT.set(len(_abandoned))

    async def join(self) -> None:
        """Waits for the thread's end without blocking the loop; not for one that was abandoned."""
        while self._thread.is_alive() and not self._abandoned:
            await asyncio.sleep(0.02)


_abandoned: set[ReaderThread] = set()  # on the loop
