"""Cameras, their streams and probes as the wire shows them."""

from __future__ import annotations

from datetime import UTC, datetime

from models.entities import CameraConfiguration as CameraRow
from models.schemas import CameraClock, CameraConfiguration, ProbeResponse, StreamError, StreamStatus
from models.values import Encoding, Transport
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.streams.probe import ProbeResult
from services.rtsp_capture.streams.stream import Stream
from utils.secret_box import SecretBox

_DAY = 86_400  # seconds


def to_camera(row: CameraRow, secrets: SecretBox, stream: StreamStatus | None) -> CameraConfiguration:
    """The camera, its URL masked. Raises SecretUnreadable."""
    return CameraConfiguration(
        camera_id=row.camera_id, name=row.name, description=row.description, rtsp_url=secrets.masked(row.rtsp_url),
        transport=Transport(row.transport), location=row.location, camera_angle=row.camera_angle,
        calibration=row.calibration, default_fps=row.default_fps, enabled=row.enabled, keep_open=row.keep_open,
        reader=row.reader, encoding=Encoding(row.encoding), retention_days=row.retention_days,
        exif_timezone=row.exif_timezone, site=row.site, meta=row.meta,
        created_at=row.created_at, updated_at=row.updated_at, stream=stream,
    )  # fmt: skip


def to_stream_status(stream: Stream, jobs: int) -> StreamStatus:
    """The status of a stream that `jobs` captures use."""
    status, span, info = stream.status, stream.ring.span, stream.info
    failed = status.last_failure
    return StreamStatus(
        state=status.state.value, since=_utc(status.since), codec=info.codec if info else None,
        width=(info.width or None) if info else None, height=(info.height or None) if info else None,
        fps=info.fps if info else None,
        ring_seconds=round(max(0.0, span[1] - span[0]), 3) if span else 0.0, ring_bytes=stream.ring.bytes, jobs=jobs,
        last_packet_at=_utc(stream.last_packet.received) if stream.last_packet is not None else None,
        reconnects=stream.reconnects, clock=to_clock(stream.last_packet) if stream.last_packet is not None else None,
        last_error=_error(failed[0].code, failed[0].message, failed[1]) if failed is not None else None,
        refused_logins=status.refused_logins, retry_at=_utc(status.retry_at) if status.retry_at is not None else None,
    )  # fmt: skip


def to_clock(packet: Packet) -> CameraClock:
    """The clock that stamped this packet, and the camera's offset from this host's clock."""
    offset = packet.clock_offset
    return CameraClock(source=packet.source.value, offset_ms=round(offset * 1000, 3) if offset is not None else None)


def to_probe(result: ProbeResult) -> ProbeResponse:
    """What a probe has found."""
    seen, picture, failure = result.findings, result.picture, result.failure
    info, keys = seen.info, seen.keys
    size = picture or info
    return ProbeResponse(
        reachable=result.reachable, code=failure.code if failure else None, detail=failure.message if failure else None,
        codec=info.codec if info else None,
        width=(size.width or None) if size else None, height=(size.height or None) if size else None,
        fps=_rounded(seen.fps, 3), keyframe_interval_s=_rounded(seen.keyframe_interval, 3), bitrate_bps=seen.bitrate,
        clock=to_clock(seen.packets[-1]) if seen.packets else None,
        connect_ms=_rounded(result.connect_s and result.connect_s * 1000, 1),
        first_frame_ms=round((keys[0].received - result.began_at) * 1000, 1) if keys else None,
        mb_per_day_at_1fps=round(len(picture.data) * _DAY / 1e6, 1) if picture else None,
        warnings=list(result.warnings),
    )  # fmt: skip


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _error(code: str, message: str, at: float) -> StreamError:
    return StreamError(code=code, message=message, at=_utc(at))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
