"""Prometheus metrics: the one place where they are named. docs/metrics.md explains them.

Labels are bounded: route templates, codes and reasons, never secrets, URLs, subjects or ids. The exceptions are the camera
id of STREAM_DOWN, whose series exist only while a camera is down, and of CAMERA_..., of METRICS__MAX_CAMERAS cameras.

Longer than 250 lines: a list of names, in one place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from prometheus_client import Gauge as _Gauge
from prometheus_client.gc_collector import GCCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# Several processes behind one port (API__PROCESSES) have one set of metrics, in files of this folder.
SHARED = "PROMETHEUS_MULTIPROC_DIR" in os.environ
# What a gauge is then: the sum over living processes, unless it says otherwise.
Gauge = partial(_Gauge, multiprocess_mode="livesum")
_FOLLOWED: dict[_Gauge, Callable[[], float]] = {}


def follow(gauge: _Gauge, function: Callable[[], float]) -> None:
    """The gauge is what the function says whenever it is asked."""
    gauge.set_function(function)
    if SHARED:  # files know no functions
        _FOLLOWED[gauge] = function


def refresh() -> None:
    """Writes followed gauges down for the other processes; on the event loop."""
    for gauge, function in _FOLLOWED.items():
        gauge.set(function())


def exposition() -> bytes:
    """All metrics as text, of all processes that share them. Any thread."""
    if not SHARED:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

HTTP_REQUESTS = Counter(
    "ingestion_requests", "HTTP requests by route template.", ["endpoint", "method", "status"], registry=REGISTRY
)
HTTP_DURATION = Histogram(
    "ingestion_request_duration_seconds", "Seconds from the first byte in to the last byte out.",
    ["endpoint", "method"], buckets=_LATENCY, registry=REGISTRY,
)  # fmt: skip
HTTP_IN_FLIGHT = Gauge("ingestion_http_in_flight", "HTTP requests being served.", registry=REGISTRY)
KEPT_ANSWERS = Counter(
    "ingestion_kept_answers",
    "Frames and requests that a read asked for, and cameras of new captures, by whether they were kept in memory.",
    ["kind", "found"], registry=REGISTRY,
)  # fmt: skip
FRAMES = Counter("ingestion_frames", "Frames that reached an end.", ["source", "outcome"], registry=REGISTRY)
FRAMES_DROPPED = Counter("ingestion_frames_dropped", "Slots without a frame, by reason.", ["reason"], registry=REGISTRY)
QUALITY_FRAMES = Counter(
    "ingestion_quality_frames", "Pictures judged, by verdict; failed: they could not be.", ["verdict"], registry=REGISTRY
)
QUALITY_CHANGES = Counter(
    "ingestion_quality_changes", "Cameras that became bad, or good again, as this process told.", ["verdict"],
    registry=REGISTRY,
)  # fmt: skip
CAMERAS_BAD = Gauge(
    "ingestion_cameras_bad", "Cameras that this process judges and that are bad.", registry=REGISTRY,
    multiprocess_mode="livemax",
)  # fmt: skip
REJECTED = Counter("ingestion_upload_rejected", "Files refused, by code.", ["code"], registry=REGISTRY)
UPLOADS_IN_FLIGHT = Gauge("ingestion_uploads_in_flight", "Uploads being received or stored.", registry=REGISTRY)
UPLOAD_BYTES = Gauge(
    "ingestion_upload_bytes_in_flight", "Bytes of uploads that are being received or stored.", registry=REGISTRY
)
UPLOADS_REFUSED = Counter(
    "ingestion_uploads_refused", "Uploads refused before their body was read, by reason.", ["reason"], registry=REGISTRY
)
UPLOAD_SESSIONS = Gauge(
    "ingestion_upload_sessions",
    "Direct uploads that are open, of all processes.",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
UPLOAD_SESSIONS_ENDED = Counter(
    "ingestion_upload_sessions_ended", "Direct uploads that ended, by status.", ["status"], registry=REGISTRY
)
STAGING_REMOVED = Counter(
    "ingestion_staging_removed", "Staging objects and multipart uploads removed by the sweeper.", registry=REGISTRY
)
CAPTURES = Gauge("ingestion_captures", "Captures of this process by state.", ["state"], registry=REGISTRY)
WORKER_CALLS = Counter(
    "ingestion_worker_calls", "What this process asked of others that capture, by outcome.", ["kind", "outcome"],
    registry=REGISTRY,
)  # fmt: skip
CAPTURES_UNCLAIMABLE = Gauge(
    "ingestion_captures_unclaimable", "Captures that wait at a site at which no process runs captures.", ["site"],
    registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
WORKERS = Gauge(
    "ingestion_workers",
    "Processes that are alive and do not drain.",
    ["role", "site"],
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
CODE = Gauge(
    "ingestion_code", "1: the version of this process's code, and the newest revision of the schema that it knows.",
    ["version", "revision"], registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
SCHEMA_AHEAD = Gauge(
    "ingestion_schema_ahead", "Steps of the schema that this process's code does not know; below 0: steps that wait.",
    registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
CAPTURES_FINISHED = Counter("ingestion_captures_finished", "Captures ended, by final status.", ["status"], registry=REGISTRY)
CAPTURES_RESUMED = Counter("ingestion_captures_resumed", "Captures taken over from a lapsed lease.", registry=REGISTRY)
SECRET_KEYS_MISSING = Gauge(
    "ingestion_secret_keys_missing", "Keys that the database holds something under and that this process lacks.",
    registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
REQUESTS_POISONED = Counter(
    "ingestion_requests_poisoned", "Captures failed because owner after owner died of them.", registry=REGISTRY
)
LEASES_LOST = Counter("ingestion_leases_lost", "Captures given up because another owner has them.", registry=REGISTRY)
LEASES_FENCED = Counter(
    "ingestion_leases_fenced", "Leases given up by this host's clock because no renewal succeeded in time.",
    registry=REGISTRY,
)  # fmt: skip
LEASE_RENEWAL = Histogram(
    "ingestion_lease_renewal_seconds", "Seconds of one renewal of all leases of this process.",
    buckets=_LATENCY, registry=REGISTRY,
)  # fmt: skip
STREAMS = Gauge("ingestion_streams", "RTSP streams by state.", ["state"], registry=REGISTRY)
STREAM_DOWN = Gauge(
    "ingestion_stream_down_seconds", "Seconds for which a wanted camera has had no stream; absent while it has one.",
    ["camera_id"],
    registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
CAMERA_PICTURE_AGE = Gauge(
    "ingestion_camera_picture_age_seconds", "Seconds since a picture of a wanted camera came, or since it is wanted.",
    ["camera_id"], registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
CAMERA_FRAME_AGE = Gauge(
    "ingestion_camera_frame_age_seconds", "Seconds since a frame of the camera was stored by this process.",
    ["camera_id"], registry=REGISTRY, multiprocess_mode="livemin",
)  # fmt: skip
CAMERA_STATE = Gauge(
    "ingestion_camera_state_seconds", "Seconds for which the camera's stream has been in the state that it is in.",
    ["camera_id", "state"], registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
CAMERA_SLOTS_DROPPED = Counter(
    "ingestion_camera_slots_dropped", "Slots of the camera without a frame, by reason.", ["camera_id", "reason"],
    registry=REGISTRY,
)  # fmt: skip
CAMERAS_WITHOUT_SERIES = Gauge(
    "ingestion_cameras_without_series", "Streams of cameras beyond METRICS__MAX_CAMERAS.", registry=REGISTRY
)
PICKS = Counter(
    "ingestion_picks", "Pictures that were chosen as the sharpest of several, by whether all could be compared.",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
PROBES = Counter("ingestion_probes", "Cameras tried, by outcome: reachable, or the code.", ["outcome"], registry=REGISTRY)
DISCOVERIES = Counter(
    "ingestion_discoveries", "Searches for cameras, and devices asked for their profiles, by outcome: ok, or the code.",
    ["kind", "outcome"], registry=REGISTRY,
)  # fmt: skip
DISCOVERY_ANSWERS = Counter(
    "ingestion_discovery_answers", "Datagrams that came during searches for cameras, by what became of them.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
LATEST_PICTURES = Counter(
    "ingestion_latest_pictures", "Answers of latest.jpg, by where the picture came from.", ["source"], registry=REGISTRY
)
THUMBNAILS = Counter(
    "ingestion_thumbnails", "Thumbnails that were not in memory, by where they came from.", ["outcome"], registry=REGISTRY
)
STREAM_FAILURES = Counter(
    "ingestion_stream_failures", "Failed opens and broken streams, by code.", ["code"], registry=REGISTRY
)
STREAM_OPEN = Histogram(
    "ingestion_stream_open_seconds", "Seconds from the check before opening to the first packet.",
    buckets=_LATENCY, registry=REGISTRY,
)  # fmt: skip
PACKETS = Counter("ingestion_packets", "Video packets read from cameras.", registry=REGISTRY)
PACKETS_DROPPED = Counter("ingestion_packets_dropped", "Packets not kept, by reason.", ["reason"], registry=REGISTRY)
CAMERA_CLOCKS_OFF = Gauge(
    "ingestion_camera_clocks_off", "Connections whose camera's clock is off by more than is allowed.", registry=REGISTRY
)
HELD_FULL = Counter(
    "ingestion_held_full", "Times that a connection held as many reads as it may, before its turn.", registry=REGISTRY
)
READERS_LEFT = Gauge(
    "ingestion_readers_left", "Reader threads in a read that does not end, for which nobody waits.", registry=REGISTRY
)
HOST_CLOCK_STEPS = Counter("ingestion_host_clock_steps", "Times that this host's wall clock was set.", registry=REGISTRY)
RING_BYTES = Gauge("ingestion_ring_bytes", "Encoded video kept in memory.", registry=REGISTRY)
RING_GOPS_EVICTED = Counter(
    "ingestion_ring_gops_evicted", "Groups of pictures given up to keep the process's ring budget.", registry=REGISTRY
)
DECODE_SECONDS = Histogram(
    "ingestion_decode_seconds", "Seconds to decode and encode one picture.", buckets=_LATENCY, registry=REGISTRY
)
CAPTURE_TO_STORED = Histogram(
    "ingestion_capture_to_stored_seconds", "Seconds from a frame's capture time to its committed row.",
    buckets=_LATENCY, registry=REGISTRY,
)  # fmt: skip
CAPTURE_EVENTS = Counter(
    "ingestion_capture_events", "Events of event_driven captures, by kind.", ["kind"], registry=REGISTRY
)
MOTION_LOOKS = Counter("ingestion_motion_looks", "Pictures compared with the background for motion.", registry=REGISTRY)
MOTION_SKIPPED = Counter(
    "ingestion_motion_skipped", "Pictures not looked at for motion because too many waited.", registry=REGISTRY
)
SPOOL_FRAMES = Gauge("ingestion_spool_frames", "Frames in the spool.", registry=REGISTRY)
SPOOL_BYTES = Gauge("ingestion_spool_bytes", "Bytes on disk that the spool's frames take.", registry=REGISTRY)
SPOOL_OLDEST = Gauge(
    "ingestion_spool_oldest_seconds",
    "How long the spool's oldest frame has waited.",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
SPOOL_WRITTEN = Counter("ingestion_spool_written", "Frames written to the spool.", registry=REGISTRY)
SPOOL_REPLAYED = Counter(
    "ingestion_spool_replayed", "Frames that left the spool for the store, by outcome.", ["outcome"], registry=REGISTRY
)
SPOOL_DROPPED = Counter(
    "ingestion_spool_dropped", "Frames that the spool refused or gave up, by reason.", ["reason"], registry=REGISTRY
)
SPOOL_DEAD = Counter(
    "ingestion_spool_dead", "Spooled frames that can never be stored, by reason.", ["reason"], registry=REGISTRY
)
PICTURE_BYTES = Gauge("ingestion_picture_bytes", "Encoded pictures on their way into the object store.", registry=REGISTRY)
QUEUE_DEPTH = Gauge("ingestion_queue_depth", "Items waiting, by queue.", ["queue"], registry=REGISTRY)
POOL_BUSY = Gauge(
    "ingestion_pool_busy", "Calls running or waiting in a pool of threads or processes.", ["pool"], registry=REGISTRY
)
MEMORY_RESERVED = Gauge(
    "ingestion_pool_memory_reserved_bytes",
    "Memory that large jobs of a process pool may take now; uploads: bodies kept in memory.", ["pool"], registry=REGISTRY,
)  # fmt: skip
WORKERS_REPLACED = Counter(
    "ingestion_workers_replaced",
    "Worker processes replaced: crashed, killed (from outside), timeout, retired (many jobs, or kept memory).",
    ["pool", "reason"], registry=REGISTRY,
)  # fmt: skip
TRIAL_PICTURES = Counter(
    "ingestion_trial_pictures",
    "Pictures of streams that have not proved themselves, by outcome: ok, failed, error, crashed, killed, timeout, refused, "
    "unavailable.",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
SOURCE_PICTURES_DECODED = Counter(
    "ingestion_source_pictures_decoded",
    "Source pictures that were decoded for the first time after they were stored, by what was found: verified, unknown "
    "(parts may be lost without a sign), damaged.",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
STREAMS_CONDEMNED = Counter(
    "ingestion_streams_condemned", "Streams left alone because their pictures made workers die again and again.",
    registry=REGISTRY,
)  # fmt: skip
STORAGE_SECONDS = Histogram(
    "ingestion_storage_seconds", "Seconds of one object store call.", ["operation"], buckets=_LATENCY, registry=REGISTRY
)
STORAGE_ERRORS = Counter("ingestion_storage_errors", "Failed object store calls.", ["operation"], registry=REGISTRY)
STORAGE_RETRIES = Counter("ingestion_storage_retries", "PUTs from memory that were tried again.", registry=REGISTRY)
DB_POOL = Gauge("ingestion_db_pool_connections", "Database connections checked out.", registry=REGISTRY)
DB_WAITING = Gauge("ingestion_db_waiting", "Callers that wait for a database connection.", registry=REGISTRY)
DB_READ_POOL = Gauge(
    "ingestion_db_read_connections",
    "Connections in use of the pool for status, lists, captures' rows and uploads.",
    registry=REGISTRY,
)
DB_ERRORS = Counter("ingestion_db_errors", "Failed transactions, by kind.", ["kind"], registry=REGISTRY)
IDEMPOTENCY = Counter(
    "ingestion_idempotency", "Requests with an Idempotency-Key, by what became of the key.", ["outcome"], registry=REGISTRY
)
IDEMPOTENCY_RUNNING = Gauge("ingestion_idempotency_running", "Keys whose request is being served.", registry=REGISTRY)
IDEMPOTENCY_SWEPT = Counter("ingestion_idempotency_swept", "Keys removed after their time.", registry=REGISTRY)
JOB_RUNS = Counter(
    "ingestion_job_runs", "Runs of background jobs, by outcome: ok, unavailable (database or store), failed.",
    ["task", "outcome"], registry=REGISTRY,
)  # fmt: skip
JOB_LAST_SUCCESS = Gauge(
    "ingestion_job_last_success_timestamp_seconds",
    "When a background job last succeeded.",
    ["task"],
    registry=REGISTRY,
    multiprocess_mode="max",
)
EMBEDDED_RESTARTS = Counter(
    "ingestion_embedded_restarts", "Embedded parts started again after dying.", ["part"], registry=REGISTRY
)
DEPENDENCY_UP = Gauge(
    "ingestion_dependency_up",
    "1 when the last health check of a part passed.",
    ["dependency"],
    registry=REGISTRY,
    multiprocess_mode="livemin",
)
EVENTS_RELAYED = Counter("ingestion_events_relayed", "Events that this process put into the log.", registry=REGISTRY)
EVENTS_EXPIRED = Counter("ingestion_events_expired", "Events that this process removed for their age.", registry=REGISTRY)
EVENT_RELAY_SECONDS = Histogram(
    "ingestion_event_relay_seconds", "Seconds from the transaction of a batch's oldest event to its place in the log.",
    buckets=_LATENCY, registry=REGISTRY,
)  # fmt: skip
EVENT_READERS = Gauge("ingestion_event_readers", "Readers of events that wait, by kind.", ["kind"], registry=REGISTRY)
WAKES_SENT = Counter(
    "ingestion_wakes_sent", "Messages to wake workers, by outcome: sent, dropped, away, failed.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
WAKES_RECEIVED = Counter("ingestion_wakes_received", "Messages that woke this worker.", registry=REGISTRY)
WEBSOCKETS = Gauge("ingestion_websockets", "WebSockets that are open.", registry=REGISTRY)
WEBSOCKET_SUBSCRIPTIONS = Gauge("ingestion_websocket_subscriptions", "Subscriptions of open WebSockets.", registry=REGISTRY)
WEBSOCKET_MESSAGES = Counter(
    "ingestion_websocket_messages", "Messages sent to WebSockets: event, progress, reply.", ["kind"], registry=REGISTRY
)
WEBSOCKET_LAGS = Counter(
    "ingestion_websocket_lags", "Times that a subscription fell behind and read on from the database.", registry=REGISTRY
)
WEBSOCKETS_CLOSED = Counter(
    "ingestion_websockets_closed", "WebSockets that were closed, by code; 1006: the connection was lost.", ["code"],
    registry=REGISTRY,
)  # fmt: skip
EVENT_LOOP_LAG = Gauge(
    "ingestion_event_loop_lag_seconds",
    "Longest delay of the event loop in the last 5 s.",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
DELETE_LEFTOVERS = Counter(
    "ingestion_delete_leftovers", "Objects that a delete could not remove at once.", registry=REGISTRY
)
SWEPT = Counter(
    "ingestion_sweeper_objects", "Objects that the sweeper looked at, condemned, deleted, could not delete.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
SWEEPER_ALARM = Gauge(
    "ingestion_sweeper_alarm",
    "1 while the sweeper deletes nothing for that reason.",
    ["reason"],
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
BUCKET_STATE = Gauge(
    "ingestion_bucket_state", "1 for what the bucket is to this database: ours, copy, foreign, unclaimed.", ["state"],
    registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
SWEEPER_LAST_PASS = Gauge(
    "ingestion_sweeper_last_pass_timestamp_seconds",
    "When the last whole pass over the bucket ended.",
    registry=REGISTRY,
    multiprocess_mode="max",
)
INTEGRITY_VIOLATIONS = Counter(
    "ingestion_integrity_violations", "Frames newly found without the object of their row.", ["kind"], registry=REGISTRY
)
INTEGRITY_OPEN = Gauge(
    "ingestion_integrity_violations_open", "Stored frames without the object of their row, now.", ["kind"],
    registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
RETENTION_DELETED = Counter(
    "ingestion_retention_deleted", "Frames deleted by retention: by age, or for room.", ["reason"], registry=REGISTRY
)
RETENTION_CAPPED = Gauge(
    "ingestion_retention_capped_cameras",
    "Cameras of which more was to be deleted today than RETENTION__MAX_SHARE_PER_DAY.",
    registry=REGISTRY, multiprocess_mode="livemax",
)  # fmt: skip
STORED_BYTES = Gauge(
    "ingestion_stored_bytes",
    "Bytes of all stored frames.",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
STORED_FRAMES = Gauge(
    "ingestion_stored_frames",
    "Stored frames.",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
