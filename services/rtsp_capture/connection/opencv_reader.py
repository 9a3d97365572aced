"""The default reader: cv2.VideoCapture (FFmpeg) in raw-packet mode, which returns access units and never decodes.

Threads: releasing a VideoCapture from any thread but the one that opened it crashes the process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from services.rtsp_capture.connection.opencv_timestamps import OpenCvTimestamps
from services.rtsp_capture.connection.reader import ReaderOptions
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.timing.host_clock import HOST
from utils.exceptions import CaptureFailure

# How long FFmpeg probes a stream before it returns packets; the SDP has the rest.
_PROBING = "analyzeduration;100000"
# FFmpeg opens are serialised by OpenCV anyway, and the options are read from the environment inside the open.
_open_lock = threading.Lock()


class OpenCvReader:
    """cv2.VideoCapture with CAP_PROP_FORMAT = -1: raw packets, about 0.6 % of a core at 25 a second."""

    def __init__(self, options: ReaderOptions, clock: Callable[[], float] = HOST.steady) -> None:
        self._options = options
        self._clock = clock
        self._cv2: Any = None  # imported when the stream is opened: 0.2 s of CPU in the first reader's thread
        self._capture: Any = None
        self._fps: float | None = None
        self._times = OpenCvTimestamps()

    def open(self) -> StreamInfo:
        import cv2

        self._cv2, options = cv2, self._options
        parameters = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(options.open_timeout * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(options.read_timeout * 1000),
            cv2.CAP_PROP_FORMAT, -1,
        ]  # fmt: skip
        flags = f"rtsp_transport;tcp|{_PROBING}"
        started = time.monotonic()
        with _open_lock:
            os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = flags
            try:
                self._capture = cv2.VideoCapture(options.url, cv2.CAP_FFMPEG, parameters)
            except cv2.error:  # its text holds the URL
                self._capture = None
        if self._capture is None or not self._capture.isOpened():
            self.close()
            if time.monotonic() - started >= options.open_timeout:
                raise CaptureFailure("connect_timeout", "The stream did not open in time.")
            raise CaptureFailure("stream_ended", "The camera answered, and the stream could not be opened.")
        return self._info()

    def _info(self) -> StreamInfo:
        cv2, capture = self._cv2, self._capture
        fourcc = int(capture.get(cv2.CAP_PROP_FOURCC))
        name = "".join(chr((fourcc >> shift) & 0xFF) for shift in (0, 8, 16, 24)).strip("\0 ").lower()
        codec = {"h264": "h264", "avc1": "h264", "hevc": "hevc", "hev1": "hevc", "hvc1": "hevc", "mjpg": "mjpeg"}.get(name)
        if codec is None:
            self.close()
            raise CaptureFailure("unsupported_codec", "The video is neither H.264, H.265 nor Motion JPEG.")
        index = int(capture.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX))
        found, extra = capture.retrieve(None, index) if index >= 0 else (False, None)
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self._fps = fps if 0 < fps < 1000 else None
        return StreamInfo(
            codec,
            extra.tobytes() if found and extra is not None else b"",
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            self._fps,
            max_pixels=self._options.max_pixels,
        )

    def read(self) -> RawPacket:
        cv2, capture = self._cv2, self._capture
        started = time.monotonic()
        if not capture.grab():
            if time.monotonic() - started >= self._options.read_timeout * 0.9:
                raise CaptureFailure("read_timeout", "The camera sent nothing for RTSP__READ_TIMEOUT seconds.")
            raise CaptureFailure("stream_ended", "The camera ended the stream or closed the connection.")
        received = self._clock()
        found, data = capture.retrieve()
        if not found or data is None:
            raise CaptureFailure("stream_ended", "The camera's stream could not be read.")
        return RawPacket(
            data.tobytes(),
            self._stream_time(),
            bool(capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME)),
            received,
            self._times.origin,
        )

    def _stream_time(self) -> float | None:
        cv2, capture = self._cv2, self._capture
        return self._times.next(
            float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0, float(capture.get(cv2.CAP_PROP_PTS)), self._fps
        )

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None
