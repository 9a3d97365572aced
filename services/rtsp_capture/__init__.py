"""Capture from RTSP cameras.

`hub` owns the streams, one RTSP connection each; `stream` keeps one open (check, read, back off, again); `reader`
hands over encoded packets from a thread of its own; `clock` gives each its capture time; `sampler` chooses the
picture of each slot; `decoder` turns the chosen ones into pictures and `jpeg` those into JPEG, `damage` tells which are
not whole; `capture` runs one request on top of all that.
"""

import os

# FFmpeg and OpenCV write whole URLs, passwords included, to stderr past any logger: they are told to be quiet, and
# OpenCV reads these when it is loaded. What failed is told by our own codes.
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
