"""The demo scene drawn and encoded as it happens."""

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fractions import Fraction

import av
from aio_rtsp_toolkit.server_media import parse_parameter_sets

from demo.colour import matrix_of, name_colours, to_planes
from demo.frame_number import NUMBER_BITS
from demo.rtp import video_payloads
from demo.scene import Scene
from demo.sources import Join, Source, Unit
from demo.tracks import video_track


class Live(Source):
    """A scene whose burnt-in clock shows UTC."""

    def __init__(
        self,
        label: str,
        seed: int,
        size: tuple[int, int],
        fps: int,
        bitrate: int,
        join: Join,
        rtp_start: int,
        limit: int = 1400,
    ) -> None:
        self._fps = fps
        self._limit = limit
        self._matrix = matrix_of(size[1])
        self._scene = Scene(*size, seed, label)
        self._encoder = encoder = av.VideoCodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = *size, "yuv420p"
        encoder.framerate, encoder.time_base = Fraction(fps), Fraction(1, fps)
        encoder.gop_size, encoder.max_b_frames, encoder.bit_rate, encoder.thread_count = fps, 0, bitrate, 1
        name_colours(encoder, self._matrix)
        encoder.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "forced-idr": "1",
            "sc_threshold": "0",
            "x264-params": f"vbv-maxrate={bitrate // 1000}:vbv-bufsize={bitrate // 1000}",
        }
        self._key = True
        self._worker = ThreadPoolExecutor(1, "scene")
        _, found = parse_parameter_sets("h264", self._encode(math.floor(time.time() * fps)))
        self._sets = [found["sps"], found["pps"]]
        super().__init__(video_track("h264", found), join, rtp_start)

    def _want_key(self) -> None:
        self._key = True

    def _encode(self, number: int) -> bytes:
        clock = f"{datetime.fromtimestamp(number / self._fps + 1e-5, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
        image = self._scene.render(number / self._fps, clock, number)
        frame = av.VideoFrame.from_ndarray(to_planes(image, self._matrix), format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, self._fps)
        if self._key:
            self._key = False
            frame.pict_type = av.video.frame.PictureType.I
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._key = True
        number = math.floor(self.now() * self._fps) + 1
        while True:
            await asyncio.sleep(max(0.0, number / self._fps - self.now()))
            nalus = annexb(await loop.run_in_executor(self._worker, self._encode, number))
            coded = [nalu for nalu in nalus if nalu[0] & 31 in (1, 5)]
            key = any(nalu[0] & 31 == 5 for nalu in coded)
            payloads = video_payloads("h264", [*(self._sets if key else []), *coded], self._limit)
            self._publish(Unit(number / self._fps, number % (1 << NUMBER_BITS), key, payloads))
            number = max(number + 1, math.floor(self.now() * self._fps))


def annexb(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B byte stream."""
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    return [part for part in parts if part]
