"""Capture from RTSP cameras. Each package may import only those below it:

- captures: one capture from its claim to its end. `job` (the table of modes), `capture`, `capture_end`, `mode` (what a mode
  decides; one module each), the slot filler, the request's state, motion
- frames: from a chosen picture to a stored frame. `frame_pipeline`, `slot_ledger` (what became of each slot),
  `ledger_writer` (commits in batches), PUTs, the way into the spool
- streams: one shared connection a camera, kept open and reconnected. `stream_hub`, `stream`, its decoder, its status,
  `keep_open`, `probe`
- connection: from a URL to packets. `camera_address` (what is allowed), `dial`; the reader `native` (`native_reader`,
  `rtsp_client`, `rtsp_session`, `native_media`; what is understood of bytes is in `rtsp`, without I/O); the reader `opencv`
  (`opencv_reader`, `rtsp_relay`, `relayed_reader`, `reader_thread`); `stamper` (capture times)
- grid: which picture fills which slot, and which slots capture events want. Pure
- media: packets, the GOP buffer, damage, decoding, JPEG
- timing: when a picture was taken, and by whose clock. Pure, but for the host's clock
"""

import os

# FFmpeg and OpenCV write whole URLs, passwords included, to stderr past any logger, so they are silenced. OpenCV reads
# these variables when it is loaded. Failures have codes of our own.
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
