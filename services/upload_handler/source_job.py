"""Source pictures (`rtsp_capture.media.source_file`) as JPEGs: jobs of a worker process. Other kinds: `jpeg_job`.

Each answers with what was seen of the picture besides (`seen`); without any picture the JPEG is empty.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from services.rtsp_capture.media.jpeg import encode_jpeg
from services.rtsp_capture.media.seen import attach_seen
from services.rtsp_capture.media.source_reading import open_source, rgb, seen
from services.upload_handler import jpeg_job


def whole_jpeg(kind: str, max_pixels: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """In its size; the JPEG that a capture with encoding jpeg would have stored."""
    found = open_source(data, max_pixels)
    made = encode_jpeg(found.frame, jpeg_job.WHOLE_QUALITY).data if found.frame is not None else b""
    return attach_seen({}, made, [seen(found)])


def to_jpeg(kind: str, max_pixels: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """As jpeg_job.to_jpeg."""
    found = open_source(data, max_pixels)
    made = jpeg_job.shown(Image.fromarray(rgb(found.frame))) if found.frame is not None else b""
    return attach_seen({}, made, [seen(found)])


def thumbnail(kind: str, max_pixels: int, width: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """As jpeg_job.thumbnail."""
    found = open_source(data, max_pixels)
    made = jpeg_job.small(Image.fromarray(rgb(found.frame)), width) if found.frame is not None else b""
    return attach_seen({}, made, [seen(found)])
