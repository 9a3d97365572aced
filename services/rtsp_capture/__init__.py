"""Capture from RTSP cameras, from the socket up:

- connection: `address` (where a camera may be), `preflight` (the check before FFmpeg), `reader` and `pyav_reader`
  (encoded packets), `session` (a reader's thread), `stream_times` (what OpenCV hides)
- time: `host_clock`, `clock` (by receipt), `camera_clock` (by RTCP), `capture_clock` (which of them)
- stream: `hub` (who shares which), `stream` (kept open, again and again), `stream_state`, `keeper` (keep_open), `packets`
  (the ring), `ring_budget`
- pictures: `damage` and `h264` (which are whole), `decoder`, `in_step`, `jpeg`, `luma`
- captures: `job` (from a claim), `capture` (continuous, and what the modes share), `single_frame`, `event_capture`,
  `sampler` (which picture fills which slot), `slots`, `event_slots`, `orders`, `request_state`
- motion: `motion` (arithmetic), `motion_watch` (what is looked at)
- storing: `frame_store` (all of it), `in_hand`, `frame_puts`, `frame_rows`, `frame_spool`, `frame_record`, `picture_budget`
- beside captures: `probe`
"""

import os

# FFmpeg and OpenCV write whole URLs, passwords included, to stderr past any logger: they are told to be quiet, and
# OpenCV reads these when it is loaded. What failed is told by our own codes.
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
