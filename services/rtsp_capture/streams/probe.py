"""Tries a camera: the check, then some seconds of its packets over a connection of its own, one picture decoded.

A stranger, who is no administrator, is told what a camera says. Of all else, which has never answered RTSP, he is told
NO_CAMERA after a fixed time, whatever is there: probes are no way to find out what listens in a network.

What is found is in `ProbeFindings` (pure: packets in, figures and warnings out). The connection is made as for a capture,
and is always stopped and joined, also when the caller is cancelled.

Longer than 250 lines: what is tried, found and told of it is one order of steps.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from services.rtsp_capture.connection.camera_address import CameraAddress
from services.rtsp_capture.connection.reader import ConnectionPlan, PacketConnection
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.gop_buffer import Gop, Packet, Picture
from services.rtsp_capture.media.packets import Jpeg, StreamInfo
from services.rtsp_capture.streams.stream import StreamDeps
from utils.concurrency_limit import ConcurrencyLimit
from utils.exceptions import CaptureFailure
from utils.logger import get_logger
from utils.metrics import PROBES

log = get_logger(__name__)

MIN_SECONDS = 3.0  # of packets, at least
KEYFRAME_TIMEOUT = 12.0  # seconds that a second keyframe is waited for
REPORT_TIMEOUT = 8.0  # seconds that a second sender report is waited for, where there was a first
MAX_BYTES = 64 * 1024 * 1024
MAX_CONCURRENT = 4
MAX_WAITING = 16
BUSY = "Cameras are being tried already, and others wait for it. Try again."
QUALITY = 90
MAX_NO_CAMERA = 15.0  # seconds
NO_CAMERA = "No camera answered there in time. Administrators are told why; so is the service's log."
LONG_KEYFRAME_INTERVAL = 4.0  # seconds between keyframes that deserve a warning
_REORDER_SECONDS = 0.001  # seconds; a picture shown this much before one that came earlier: B-frames


@dataclass
class ProbeFindings:
    """What a connection gave."""

    info: StreamInfo | None = None
    connect_s: float | None = None  # until the camera had answered
    reported: bool = False  # the camera has sent its clock, believed or not
    packets: list[Packet] = field(default_factory=list)
    bytes: int = 0

    def take(self, packets: list[Packet]) -> None:
        """Packets of one connection, in decoding order; beyond MAX_BYTES the rest is not kept."""
        for packet in packets:
            if self.bytes < MAX_BYTES:
                self.packets.append(packet)
                self.bytes += len(packet.data)

    @property
    def keys(self) -> list[Packet]:
        return [packet for packet in self.packets if packet.key]

    @property
    def span(self) -> float:
        """Seconds of stream time from the first picture to the last."""
        times = [packet.pts for packet in self.packets]
        return max(times) - min(times) if times else 0.0

    @property
    def enough(self) -> bool:
        """Whether more packets would add nothing."""
        if self.bytes >= MAX_BYTES or self.span >= KEYFRAME_TIMEOUT:
            return True
        clock = not self.reported or self.packets[-1].clock_offset is not None or self.span >= REPORT_TIMEOUT
        return len(self.keys) > 1 and self.span >= MIN_SECONDS and clock

    @property
    def fps(self) -> float | None:
        """Pictures a second by the median distance of neighbours in the order of showing: gaps do not falsify it."""
        steps = [b - a for a, b in pairwise(sorted(packet.pts for packet in self.packets)) if b - a > 0]
        return 1 / median(steps) if len(steps) >= 2 else None

    @property
    def keyframe_interval(self) -> float | None:
        times = sorted(packet.pts for packet in self.keys)
        return median([b - a for a, b in pairwise(times)]) if len(times) > 1 else None

    @property
    def bitrate(self) -> int | None:
        """Bits a second. The last picture's own duration is not in the span, so its bytes are not counted."""
        return round((self.bytes - len(self.packets[-1].data)) * 8 / self.span) if self.span > 0 else None

    @property
    def out_of_order(self) -> bool:
        newest = float("-inf")
        for packet in self.packets:
            if packet.pts < newest - _REORDER_SECONDS:
                return True
            newest = max(newest, packet.pts)
        return False

    def warnings(self, transport: str, max_offset: float = 1.0) -> list[str]:
        """Sentences for the person who sets up the camera. `max_offset`: RTSP__MAX_CLOCK_OFFSET."""
        found = []
        fps, interval = self.fps, self.keyframe_interval
        if not self.keys:
            found.append(f"No keyframe was seen in {self.span:.1f} s: nothing can be decoded.")
        elif interval is None:
            found.append(f"No second keyframe was seen in {self.span:.1f} s: keyframes are far apart or come only once.")
        elif interval >= LONG_KEYFRAME_INTERVAL:
            cost = f" exact sampling decodes up to {round(interval * fps)} pictures for one," if fps else ""
            found.append(f"Keyframes are {interval:.1f} s apart:{cost} keyframe sampling is no denser than that.")
        if self.out_of_order:
            found.append("The stream has B-frames: pictures come out of order, and later than they were taken.")
        stated_fps = self.info.fps if self.info else None
        if fps and stated_fps and abs(fps - stated_fps) > 0.1 * stated_fps:
            found.append(f"The camera says {stated_fps:.4g} frames a second and sends {fps:.4g}.")
        offset = self.packets[-1].clock_offset if self.packets else None
        if offset is not None and abs(offset) > max_offset:
            side = "ahead of" if offset > 0 else "behind"
            found.append(
                f"The camera's clock is {abs(offset):.1f} s {side} ours: frames get our time. Set up NTP in the camera."
            )
        if transport == "udp":
            found.append("UDP: a lost packet damages pictures until the next keyframe; prefer tcp.")
        return found


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe has found. Times in seconds since the epoch, durations in seconds."""

    reachable: bool
    failure: CaptureFailure | None  # of the connection, or of decoding the picture
    connect_s: float | None  # until the camera had answered DESCRIBE
    findings: ProbeFindings
    began_at: float
    picture: Jpeg | None = None
    warnings: tuple[str, ...] = ()


def _may_be_told(failure: CaptureFailure) -> bool:
    """Whether it tells no more of a network than that a camera is there, or that the operator forbids the address."""
    return failure.answered or failure.code == "address_not_allowed"


class Prober:
    """At most MAX_CONCURRENT cameras at a time, and as many for strangers. On the event loop; shares the streams' check,
    readers and decoding pool."""

    def __init__(self, deps: StreamDeps) -> None:
        self._deps = deps
        self._limits = {stranger: ConcurrencyLimit(MAX_CONCURRENT, MAX_WAITING, BUSY) for stranger in (False, True)}
        self._ending: set[asyncio.Task[None]] = set()

    async def probe(
        self, name: str, address: CameraAddress, transport: str, reader: str | None = None, *, stranger: bool = False
    ) -> ProbeResult:
        """What the camera is like; one that cannot be reached is an answer too. Raises Overloaded."""
        async with self._limits[stranger].permit():
            # A stranger's turn lasts as long as his answer takes: else the others' waiting would tell the time.
            answer_at = asyncio.get_running_loop().time() + self.no_camera_after
            found = await self._probe(name, address, transport, reader, self.no_camera_after if stranger else None)
            code, info = found.failure.code if found.failure else None, found.findings.info
            PROBES.labels(outcome="reachable" if found.reachable else code).inc()
            codec = info.codec if info else None
            log.info("camera_probed", camera_id=name, reachable=found.reachable, code=code, codec=codec)
            if stranger and found.failure is not None and not found.reachable and not _may_be_told(found.failure):
                await asyncio.sleep(answer_at - asyncio.get_running_loop().time())
                return ProbeResult(
                    False, CaptureFailure("connect_timeout", NO_CAMERA), None, ProbeFindings(), found.began_at
                )
        return found

    @property
    def no_camera_after(self) -> float:
        """Seconds after which a stranger is told that no camera is there: resolving, connecting, and being silent."""
        return min(2 * self._deps.settings.OPEN_TIMEOUT + 2, MAX_NO_CAMERA)

    async def close(self) -> None:
        """Waits for the readers' threads."""
        if self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)

    async def _probe(
        self, name: str, address: CameraAddress, transport: str, reader: str | None, connect_within: float | None
    ) -> ProbeResult:
        seen = ProbeFindings()
        if self._deps.trials is not None:
            self._deps.trials.warm()
        began_at = time.time()
        try:
            await self._watch(name, seen, address, transport, reader, connect_within)
        except CaptureFailure as failure:
            return ProbeResult(False, failure, seen.connect_s, ProbeFindings(), began_at)
        undecoded: CaptureFailure | None = None
        picture: Jpeg | None = None
        try:
            picture = await self._picture(name, seen, lossy=transport == "udp")
        except CaptureFailure as failure:
            undecoded = failure
        warnings = tuple(seen.warnings(transport, self._deps.settings.MAX_CLOCK_OFFSET))
        return ProbeResult(True, undecoded, seen.connect_s, seen, began_at, picture, warnings)

    async def _watch(
        self, name: str, seen: ProbeFindings, address: CameraAddress, transport: str, reader: str | None,
        connect_within: float | None,
    ) -> None:  # fmt: skip
        """Packets until there are enough. Raises CaptureFailure when none came."""
        enough = asyncio.Event()
        connection: PacketConnection | None = None

        def opened(info: StreamInfo) -> None:
            seen.info = info

        def came(packets: list[Packet]) -> None:
            seen.take(packets)
            seen.reported = connection is not None and connection.reported
            if seen.enough:
                enough.set()

        plan = ConnectionPlan(f"probe-{name}", address, transport, 1, self._deps.host, opened, came)
        settings, began = self._deps.settings, time.monotonic()
        try:
            async with asyncio.timeout(connect_within):
                connection = await self._deps.connector(reader)(plan)
        except TimeoutError:
            raise CaptureFailure("read_timeout", "Asking the camera took too long.") from None
        seen.connect_s = time.monotonic() - began
        try:
            connection.ended.add_done_callback(lambda _: enough.set())
            try:
                async with asyncio.timeout(settings.OPEN_TIMEOUT + settings.READ_TIMEOUT + KEYFRAME_TIMEOUT):
                    await enough.wait()
            except TimeoutError:
                pass
            if not seen.packets:
                failure = connection.ended.result().failure if connection.ended.done() else None
                failure = failure or CaptureFailure("read_timeout", "The stream opened and sent no video.")
                failure.answered = True  # it was asked, and plays
                raise failure
        finally:
            connection.stop()
            # Not waited for here: a reader's thread may be in a read that lasts; it must be gone before the process is.
            ending = asyncio.create_task(connection.join())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _picture(self, name: str, seen: ProbeFindings, *, lossy: bool) -> Jpeg | None:
        """A keyframe as it would be stored. Raises CaptureFailure decode_failed."""
        if seen.info is None or not seen.keys:
            return None
        picture = Picture(seen.keys[0], Gop.begin(seen.keys[0], None), 0)
        if self._deps.trials is not None:
            return await self._deps.trials.of(f"probe-{name}", None, lossy=lossy).jpeg(seen.info, picture, QUALITY)
        return await self._deps.decode_pool.run(PictureDecoder(seen.info).decode, picture, QUALITY)
