"""Example bodies for /openapi.json."""

from __future__ import annotations

from typing import Any

from config import VERSION

_REQUEST = "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4e"
_FRAME = "01934f5e-2c10-8a5b-8f21-0c9d8e7f6a5b"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_AT = "2026-05-04T13:30:00.000000Z"

FRAME: dict[str, Any] = {
    "frame_id": _FRAME, "request_id": _REQUEST, "camera_id": "pit-lane-1", "source_type": "rtsp", "sequence": 0,
    "filename": None, "storage_path": f"frames/2026/05/04/pit-lane-1/{_FRAME}-5c1f0a9be2d47c36.jpg",
    "storage_url": "http://127.0.0.1:9000/trackshift-frames/frames/2026/05/04/pit-lane-1/...?X-Amz-Signature=...",
    "url_expires_at": "2026-05-04T14:30:01.000000Z", "timestamp": _AT, "timestamp_source": "receipt",
    "timestamp_uncertainty_ms": 60.0, "camera_timestamp": None, "width": 1920, "height": 1080, "size_bytes": 251904,
    "format": "jpg", "content_type": "image/jpeg", "sha256": _SHA256, "integrity": "verified",
    "duplicate_of": None, "exif": None,
    "meta": {"session": "FP1"},
    "quality": {
        "verdict": "suspect", "reasons": ["blurred"], "sharpness": 41.7, "brightness": 104.2, "contrast": 48.9,
        "dark_share": 0.012, "bright_share": 0.003, "frozen_s": 0.0,
    },
    "stored_at": "2026-05-04T13:30:00.310000Z",
    "held_at": None, "hold_reason": None,
}  # fmt: skip
HOLD: dict[str, Any] = {"reason": "protest of car 44"}
HELD: dict[str, Any] = {**FRAME, "held_at": "2026-05-04T15:02:00.000000Z", "hold_reason": "protest of car 44"}
VERIFIED: dict[str, Any] = {"ok": True, "sha256": FRAME["sha256"], "size_bytes": FRAME["size_bytes"]}
NEAREST: dict[str, Any] = {**FRAME, "distance_ms": 12.5}
PROGRESS: dict[str, Any] = {
    "expected": 1, "stored": 1, "in_flight": 0, "dropped": {}, "duplicates": 0, "gaps": [], "reconnects": 0,
    "last_frame_at": _AT,
}  # fmt: skip
SUMMARY: dict[str, Any] = {
    "request_id": _REQUEST, "group_id": None, "status": "completed", "camera_id": "pit-lane-1", "source_type": "rtsp",
    "capture_mode": "single_frame", "message": "Completed: 1 of 1 frames stored, 0 dropped.", "frames_total": 1,
    "worker": None,
    "progress": PROGRESS, "error": None, "rejected": [], "meta": {"session": "FP1"},
    "source": {"url": "rtsp://192.168.1.20:554/stream1", "codec": "h264", "width": 1920, "height": 1080, "fps": 25.0},
    "grid_start": _AT, "created_at": "2026-05-04T13:29:58.000000Z", "started_at": "2026-05-04T13:29:58.020000Z",
    "completed_at": "2026-05-04T13:30:00.320000Z", "updated_at": "2026-05-04T13:30:00.320000Z",
}  # fmt: skip
FINAL: dict[str, Any] = {**SUMMARY, "frames": [FRAME]}
ACCEPTED: dict[str, Any] = {
    **SUMMARY, "status": "pending", "message": "Waiting for its turn.", "frames_total": 0, "frames": [],
    "progress": {**PROGRESS, "expected": 0, "stored": 0, "last_frame_at": None}, "grid_start": None,
    "source": {"url": "rtsp://192.168.1.20:554/stream1", "codec": None, "width": None, "height": None, "fps": None},
    "started_at": None, "completed_at": None, "updated_at": "2026-05-04T13:29:58.000000Z",
}  # fmt: skip
UPLOADED: dict[str, Any] = {
    **FINAL, "source_type": "upload", "capture_mode": None, "source": None, "grid_start": None,
    "message": "1 of 1 files stored.",
    "frames": [{**FRAME, "source_type": "upload", "filename": "car-44.jpg", "timestamp_source": "exif"}],
}  # fmt: skip
_SESSION = "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d44"
_STAGING = f"http://127.0.0.1:9000/trackshift-frames/staging/{_SESSION}/object?X-Amz-Signature=..."
SESSION_NEW: dict[str, Any] = {
    "camera_id": "pit-lane-1", "filename": "car-44.jpg", "size_bytes": 251904, "content_type": "image/jpeg",
    "sha256": _SHA256, "meta": {"session": "FP1"},
}  # fmt: skip
SESSION: dict[str, Any] = {
    "session_id": _SESSION, "status": "open", **SESSION_NEW, "method": "single", "upload_url": _STAGING,
    "headers": {"Content-Length": "251904"}, "part_size": None, "parts": None, "received_bytes": 0,
    "urls_expire_at": "2026-05-04T14:30:00.000000Z", "request_id": None, "error": None, "created_at": _AT,
    "expires_at": "2026-05-05T13:30:00.000000Z",
}  # fmt: skip
SESSION_PARTS: dict[str, Any] = {
    **SESSION, "filename": "car-44.tif", "content_type": "image/tiff", "size_bytes": 12582912, "method": "multipart",
    "upload_url": None, "headers": {}, "part_size": 8388608, "received_bytes": 8388608,
    "parts": [
        {
            "number": 1, "offset": 0, "size": 8388608, "arrived": True, "etag": "5f363e0e58a95f06cbe9bbc662c5dfb6",
            "url": None,
        },
        {"number": 2, "offset": 8388608, "size": 4194304, "arrived": False, "etag": None, "url": _STAGING},
    ],
}  # fmt: skip
SESSION_COMPLETE: dict[str, Any] = {"parts": [{"number": 1, "etag": "5f363e0e58a95f06cbe9bbc662c5dfb6"}]}
BURST_NEW: dict[str, Any] = {
    "camera_ids": ["pit-lane-1", "pit-lane-2"], "at": None, "tolerance_ms": 100.0, "meta": {"session": "FP1"},
}  # fmt: skip
BURST: dict[str, Any] = {
    "group_id": "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d40", "at": "2026-05-04T13:29:59.990000Z", "tolerance_ms": 100.0,
    "skew_ms": None, "complete": False, "stored": 1,
    "results": [
        {
            "camera_id": "pit-lane-1", "request_id": _REQUEST, "status": "completed", "offset_ms": 10.0,
            "within_tolerance": True, "frame": FRAME, "error": None,
        },
        {
            "camera_id": "pit-lane-2", "request_id": "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4f", "status": "failed",
            "offset_ms": None, "within_tolerance": False, "frame": None,
            "error": {
                "code": "connection_refused", "message": "Nothing listens at the camera's address and port.",
                "retryable": True,
            },
        },
    ],
}  # fmt: skip
REQUEST_PAGE: dict[str, Any] = {"items": [SUMMARY], "next_cursor": None}
FRAME_PAGE: dict[str, Any] = {"items": [FRAME], "next_cursor": None}
HISTOGRAM: dict[str, Any] = {
    "buckets": [{"at": _AT, "frames": 60, "bad": 2}, {"at": "2026-05-04T13:31:00.000000Z", "frames": 0, "bad": 0}]
}
LOSSES: dict[str, Any] = {
    "buckets": [{"at": _AT, "dropped": {"camera_down": 25}}, {"at": "2026-05-04T13:31:00.000000Z", "dropped": {}}]
}
GAP_PAGE: dict[str, Any] = {
    "items": [
        {"from": _AT, "to": "2026-05-04T13:30:12.480000Z", "reason": "camera_down", "request_id": _REQUEST},
        {"from": "2026-05-04T14:02:00.000000Z", "to": None, "reason": "camera_down", "request_id": _REQUEST},
    ],
    "next_cursor": None,
}
TRIGGER: dict[str, Any] = {"label": "car 44 enters", "at": _AT}
TRIGGERED: dict[str, Any] = {"event_id": "01934f5e-2e00-7a11-8c44-5b6a79880011"}
EVENT: dict[str, Any] = {
    "event_id": "01934f5e-2e00-7a11-8c44-5b6a79880011", "request_id": _REQUEST, "kind": "motion", "label": None,
    "score": 0.112, "from": _AT, "to": "2026-05-04T13:30:06.400000Z", "frames": 67, "first_sequence": 290,
    "last_sequence": 356, "created_at": "2026-05-04T13:30:00.240000Z",
}  # fmt: skip
EVENT_PAGE: dict[str, Any] = {"items": [EVENT], "next_cursor": None}
_LOG = "7f0c2a44-5d0e-4c39-9a34-0f8d1c7b2e61"
CLOUD_EVENT: dict[str, Any] = {
    "specversion": "1.0", "id": f"{_LOG}.4711", "source": "/trackshift/ingestion", "type": "frame.stored", "subject": _FRAME,
    "time": "2026-05-04T13:30:00.310000Z", "datacontenttype": "application/json", "cameraid": "pit-lane-1",
    "data": {key: value for key, value in FRAME.items() if key not in ("storage_url", "url_expires_at")},
}  # fmt: skip
CLOUD_EVENT_PAGE: dict[str, Any] = {"items": [CLOUD_EVENT], "next_cursor": f"{_LOG}.4711"}
TICKET: dict[str, Any] = {"ticket": "kq3…", "expires_at": "2026-05-04T13:30:30.000000Z"}
EVENT_STREAM = f'retry: 1000\n\nevent: frame.stored\ndata: {{"specversion":"1.0", ...}}\nid: {_LOG}.4711\n\n: \n\n'
_HEALTHY = {"status": "healthy", "latency_ms": 1.2, "detail": None}
HEALTH: dict[str, Any] = {
    "status": "healthy", "timestamp": _AT, "version": VERSION,
    "dependencies": {"database": "healthy", "storage": "healthy"},
    "checks": {"database": _HEALTHY, "storage": _HEALTHY},
}  # fmt: skip
_CAMERA_INPUT: dict[str, Any] = {
    "name": "Pit lane, entry", "description": None, "transport": "tcp", "location": "Pit entry",
    "camera_angle": "front left, 30 degrees", "calibration": {"fx": 1400.2, "fy": 1398.7}, "default_fps": 1.0,
    "enabled": True, "keep_open": True, "reader": None, "encoding": "jpeg", "retention_days": 30.0,
    "exif_timezone": "Europe/Rome", "site": "default", "meta": {"mast": 4},
}  # fmt: skip
CAMERA_NEW: dict[str, Any] = {
    "camera_id": "pit-lane-1", "rtsp_url": "rtsp://viewer:pass%2Fword@192.168.1.20:554/stream1", **_CAMERA_INPUT,
}  # fmt: skip
CAMERA_PATCH: dict[str, Any] = {"default_fps": 2.0, "description": None, "meta": {"mast": 5}}
CAMERA: dict[str, Any] = {
    "camera_id": "pit-lane-1", "rtsp_url": "rtsp://192.168.1.20:554/stream1", **_CAMERA_INPUT,
    "created_at": "2026-05-04T09:00:00.000000Z", "updated_at": "2026-05-04T09:12:30.000000Z",
    "stream": {
        "state": "live", "since": "2026-05-04T09:12:31.000000Z", "codec": "h264", "width": 1920, "height": 1080, "fps": 25.0,
        "ring_seconds": 32.4, "ring_bytes": 16411022, "jobs": 1, "last_packet_at": _AT, "reconnects": 1,
        "clock": {"source": "receipt", "offset_ms": None},
        "refused_logins": 0, "retry_at": None,
        "last_error": {
            "code": "read_timeout", "message": "The camera sent nothing for RTSP__READ_TIMEOUT seconds.",
            "at": "2026-05-04T09:12:29.000000Z",
        },
    },
}  # fmt: skip
CAMERA_PAGE: dict[str, Any] = {"items": [CAMERA], "next_cursor": None}
PROBE: dict[str, Any] = {
    "reachable": True, "code": None, "detail": None, "codec": "h264", "width": 1920, "height": 1080, "fps": 25.0,
    "keyframe_interval_s": 10.0, "bitrate_bps": 4012000, "clock": {"source": "receipt", "offset_ms": None},
    "connect_ms": 18.4, "first_frame_ms": 412.0, "mb_per_day_at_1fps": 21765.0,
    "warnings": ["Keyframes are 10.0 s apart: exact sampling decodes up to 250 pictures for one, "
                 "keyframe sampling is no denser than that."],
}  # fmt: skip
DISCOVERED: dict[str, Any] = {
    "items": [
        {
            "address": "192.168.1.20", "xaddr": "http://192.168.1.20:80/onvif/device_service", "name": "Pit lane entry",
            "hardware": "P3245-LV", "onvif": True, "registered_as": "pit-lane-1", "clock_offset_s": 1.4,
            "profiles": [
                {
                    "token": "profile_1", "name": "main", "codec": "h265", "width": 1920, "height": 1080, "fps": 25.0,
                    "bitrate_bps": 4096000, "rtsp_url": "rtsp://192.168.1.20:554/stream1", "rtsp_ref": "ref1.enc1:…",
                    "snapshot_uri": "http://192.168.1.20:80/snapshot.jpg", "code": None,
                }
            ],
        }
    ]
}  # fmt: skip
SNAPSHOT: dict[str, Any] = {"meta": {"session": "FP1"}, "jpeg_quality": 90, "max_staleness": 0.0}
KEY_NEW: dict[str, Any] = {"name": "consumer", "scopes": ["frames:read", "events:read"], "cameras": ["pit-*"]}
KEY: dict[str, Any] = {
    "key_id": "4fT0aZ9qLmXw", **KEY_NEW, "created_at": _AT, "expires_at": None, "last_used_at": None, "revoked_at": None,
}  # fmt: skip
KEY_MADE: dict[str, Any] = {**KEY, "key": "tsk_4fT0aZ9qLmXw_…"}
KEY_PAGE: dict[str, Any] = {"items": [KEY], "next_cursor": None}
ME: dict[str, Any] = {
    "subject": "4fT0aZ9qLmXw", "kind": "key", "scopes": ["frames:read", "events:read"], "cameras": ["pit-*"],
    "expires_at": None, "csrf_token": None,
}  # fmt: skip
AUDIT_PAGE: dict[str, Any] = {
    "items": [
        {
            "at": _AT, "subject": "4fT0aZ9qLmXw", "kind": "key", "address": "192.168.1.7", "action": "frame.delete",
            "target": _FRAME, "status": 204, "trace_id": _REQUEST,
        }
    ],
    "next_cursor": None,
}  # fmt: skip
WORKERS: dict[str, Any] = {
    "items": [
        {
            "worker_id": "01970a2b-5c3d-7e4f-8a9b-0c1d2e3f4a5b", "role": "worker", "site": "default", "host": "ingest-2",
            "version": "0.1.0", "schema_revision": "0029", "started_at": "2026-05-04T08:00:00.000000Z", "seen_at": _AT,
            "captures": 12, "streams": 9, "draining": False,
        }
    ]
}  # fmt: skip
_PAIR_ID = "01970b11-7d2e-7a40-b1c2-3d4e5f607182"
_AFTER: dict[str, Any] = {**FRAME, "frame_id": "01934f5e-9a10-8a5b-8f21-0c9d8e7f6a5c", "meta": {"phase": "after"}}
PAIR_NEW: dict[str, Any] = {
    "before": {"frame_id": _FRAME},
    "after": {"camera_id": "pit-lane-1", "at": "2026-05-04T15:30:00.000000Z", "within_s": 5.0}, "label": "car-44 FP1",
    "subject": "car-44", "meta": {}, "align": True,
}  # fmt: skip
PAIR: dict[str, Any] = {
    "pair_id": _PAIR_ID, "label": "car-44 FP1", "subject": "car-44", "meta": {}, "before": FRAME, "after": _AFTER,
    "seconds_apart": 7200.0,
    "alignment": {
        "status": "aligned", "reason": None, "method": "orb_homography_ecc",
        "matrix": [1.0, 0.0, -4.2, 0.0, 1.0, 1.7, 0.0, 0.0, 1.0], "inliers": 611, "overlap": 0.96, "shift_px": 4.53,
        "ssim": 0.981, "changed_share": 0.0131,
        "regions": [{"x": 604, "y": 311, "width": 140, "height": 96, "score": 0.74}],
    },
    "created_at": _AT,
}  # fmt: skip
PAIR_PAGE: dict[str, Any] = {"items": [PAIR], "next_cursor": None}
MATCH_NEW: dict[str, Any] = {
    "before": {"session": "FP1", "phase": "before"}, "after": {"session": "FP1", "phase": "after"}, "by": "camera_id",
    "choose": "nearest", "label": "FP1",
}  # fmt: skip
MATCH: dict[str, Any] = {
    "items": [PAIR], "unmatched": [{"key": "pit-lane-2", "side": "after", "code": "no_frame"}],
}  # fmt: skip
RESOURCE: dict[str, Any] = {
    "resource": "https://ingest.example", "authorization_servers": ["https://issuer.example"],
    "scopes_supported": ["ingest:read"], "bearer_methods_supported": ["header"], "resource_name": "TrackShift Ingestion",
}  # fmt: skip
