"""The SQL functions and triggers of revision 0005: events, in the transaction of what they tell of.

Triggers, not code of the writers: whoever changes a row tells of it, and of nothing else. They are row triggers with WHEN
(chosen over statement triggers with transition tables: every hot writer changes one row a statement), so the UPDATE
that keeps a ledger, which comes with every frame, calls none of them. Frozen with the revision; a later change makes a
new module and replaces the functions.
"""

from __future__ import annotations

LOCK_KEY = 0x65766E74  # any constant: who moves events from outbox_pending into events, or removes old ones

REASONS = (
    "camera_down", "no_picture", "decode_failed", "queue_full", "spool_full",
    "spooled", "surplus", "lease_lost", "cancelled", "rejected",
)  # fmt: skip

# Times as the HTTP interface writes them: UTC, Z, six digits.
WIRE_TIME = """
CREATE OR REPLACE FUNCTION wire_time(at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$
"""

TELL_FRAME_STORED = """
CREATE OR REPLACE FUNCTION tell_frame_stored() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
        'type', 'frame.stored', 'subject', NEW.id, 'camera_id', NEW.camera_id, 'time', wire_time(NEW.stored_at),
        'data', jsonb_build_object(
            'frame_id', NEW.id, 'request_id', NEW.request_id, 'camera_id', NEW.camera_id,
            'source_type', NEW.source_type, 'sequence', NEW.sequence, 'filename', NEW.filename,
            'storage_path', NEW.storage_path, 'timestamp', wire_time(NEW.capture_timestamp),
            'timestamp_source', NEW.timestamp_source, 'timestamp_uncertainty_ms', NEW.timestamp_uncertainty_ms,
            'camera_timestamp', wire_time(NEW.camera_timestamp), 'width', NEW.width, 'height', NEW.height,
            'size_bytes', NEW.size_bytes, 'format', NEW.format, 'content_type', NEW.content_type, 'sha256', NEW.sha256,
            'duplicate_of', NEW.duplicate_of, 'exif', NEW.exif, 'meta', NEW.meta, 'stored_at', wire_time(NEW.stored_at))));
    RETURN NULL;
END $$
"""

TELL_FRAME_DELETED = """
CREATE OR REPLACE FUNCTION tell_frame_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
        'type', 'frame.deleted', 'subject', NEW.id, 'camera_id', NEW.camera_id, 'time', wire_time(clock_timestamp()),
        'data', jsonb_build_object(
            'frame_id', NEW.id, 'request_id', NEW.request_id, 'camera_id', NEW.camera_id, 'sequence', NEW.sequence,
            'storage_path', NEW.storage_path, 'timestamp', wire_time(NEW.capture_timestamp), 'sha256', NEW.sha256)));
    RETURN NULL;
END $$
"""

_DROPPED = ", ".join(f"'{reason}', nullif(slot_count(NEW.dropped_{reason}), 0)" for reason in REASONS)

# rtsp_url stays where it is: encrypted, and in no event.
TELL_REQUEST = f"""
CREATE OR REPLACE FUNCTION tell_request() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    kind text := CASE NEW.status WHEN 'in_progress' THEN 'started' ELSE NEW.status END;
    at timestamptz := CASE NEW.status WHEN 'in_progress' THEN NEW.started_at ELSE NEW.completed_at END;
    fault jsonb := nullif(NEW.error, 'null'::jsonb);
BEGIN
    IF fault IS NOT NULL THEN
        fault := fault || jsonb_build_object('at', wire_time((fault ->> 'at')::timestamptz));
    END IF;
    INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
        'type', 'request.' || kind, 'subject', NEW.id, 'camera_id', NEW.camera_id,
        'time', wire_time(coalesce(at, clock_timestamp())),
        'data', jsonb_build_object(
            'request_id', NEW.id, 'group_id', NEW.group_id, 'camera_id', NEW.camera_id, 'status', NEW.status,
            'source_type', NEW.source_type, 'capture_mode', NEW.capture_mode, 'error', fault,
            'frames_total', NEW.stored - NEW.deleted,
            'progress', jsonb_build_object(
                'expected', NEW.expected - slot_count(NEW.idle_slots), 'stored', NEW.stored, 'in_flight', NEW.in_flight,
                'dropped', jsonb_strip_nulls(jsonb_build_object({_DROPPED})),
                'duplicates', NEW.duplicates, 'reconnects', NEW.reconnects,
                'last_frame_at', wire_time(NEW.last_frame_at)),
            'meta', NEW.meta, 'grid_start', wire_time(NEW.grid_start), 'created_at', wire_time(NEW.created_at),
            'started_at', wire_time(NEW.started_at), 'completed_at', wire_time(NEW.completed_at))));
    RETURN NULL;
END $$
"""

# A gap that is inserted closed, or reopened by nobody: opened and closed are told once each.
TELL_GAP = """
CREATE OR REPLACE FUNCTION tell_gap() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    camera text := (SELECT r.camera_id FROM ingestion_requests r WHERE r.id = NEW.request_id);
    now_at text := wire_time(clock_timestamp());
    gap jsonb := jsonb_build_object('gap_id', NEW.id, 'request_id', NEW.request_id, 'camera_id', camera,
                                    'from', wire_time(NEW.from_at), 'to', NULL, 'reason', NEW.reason);
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
            'type', 'camera.gap_opened', 'subject', NEW.request_id, 'camera_id', camera, 'time', now_at, 'data', gap));
    END IF;
    IF NEW.to_at IS NOT NULL THEN
        INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
            'type', 'camera.gap_closed', 'subject', NEW.request_id, 'camera_id', camera, 'time', now_at,
            'data', gap || jsonb_build_object('to', wire_time(NEW.to_at))));
    END IF;
    RETURN NULL;
END $$
"""

# One relay at a time, in whichever process. The lock is asked for in a statement before the one that moves, so that this
# one's snapshot has all that the relay before it committed: numbers are given, and become readable, in one order.
RELAY_EVENTS = f"""
CREATE OR REPLACE FUNCTION relay_events(at_most int)
RETURNS TABLE (moved int, busy boolean, waited float8, log uuid, head bigint)
LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz;
BEGIN
    moved := 0; busy := false; waited := 0;
    IF EXISTS (SELECT 1 FROM outbox_pending) THEN
        IF pg_try_advisory_xact_lock({LOCK_KEY}) THEN
            WITH batch AS (
                DELETE FROM outbox_pending p
                WHERE p.id = ANY (ARRAY(SELECT o.id FROM outbox_pending o ORDER BY o.id LIMIT at_most))
                RETURNING p.id, p.event, p.created_at
            ), numbers AS (
                UPDATE event_log l SET seq = l.seq + (SELECT count(*) FROM batch) WHERE l.id = 1 RETURNING l.seq AS last
            ), told AS (
                INSERT INTO events (seq, type, camera_id, event)
                SELECT n.last - count(*) OVER () + row_number() OVER (ORDER BY b.id),
                       b.event ->> 'type', b.event ->> 'camera_id', b.event
                FROM batch b CROSS JOIN numbers n
                RETURNING 1
            )
            SELECT count(*), min(b.created_at) INTO moved, oldest FROM batch b;
            waited := coalesce(extract(epoch FROM clock_timestamp() - oldest), 0);
        ELSE
            busy := true;
        END IF;
    END IF;
    SELECT l.log_id, l.seq INTO log, head FROM event_log l WHERE l.id = 1;
    RETURN NEXT;
END $$
"""

# Events older than `retention` seconds, always a whole beginning of the log: what is left has no holes, whatever the
# clock did. Returns how many went.
EXPIRE_EVENTS = f"""
CREATE OR REPLACE FUNCTION expire_events(retention float8, at_most int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    first bigint;
    last bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock({LOCK_KEY}) THEN
        RETURN 0;
    END IF;
    SELECT l.oldest INTO first FROM event_log l WHERE l.id = 1;
    SELECT max(s.seq) INTO last FROM (
        SELECT f.seq, bool_and(f.created_at < clock_timestamp() - make_interval(secs => retention)) OVER (ORDER BY f.seq) AS old
        FROM (SELECT e.seq, e.created_at FROM events e WHERE e.seq >= first ORDER BY e.seq LIMIT at_most) AS f
    ) AS s WHERE s.old;
    IF last IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM events e WHERE e.seq >= first AND e.seq <= last;
    UPDATE event_log l SET oldest = last + 1 WHERE l.id = 1;
    RETURN last - first + 1;
END $$
"""

TRIGGERS = (
    "CREATE OR REPLACE TRIGGER tell_stored AFTER INSERT ON frames FOR EACH ROW WHEN (NEW.state = 'stored')"
    " EXECUTE FUNCTION tell_frame_stored()",
    "CREATE OR REPLACE TRIGGER tell_deleted AFTER UPDATE OF state ON frames FOR EACH ROW"
    " WHEN (OLD.state = 'stored' AND NEW.state <> 'stored') EXECUTE FUNCTION tell_frame_deleted()",
    "CREATE OR REPLACE TRIGGER tell_new AFTER INSERT ON ingestion_requests FOR EACH ROW WHEN (NEW.status <> 'pending')"
    " EXECUTE FUNCTION tell_request()",
    "CREATE OR REPLACE TRIGGER tell_status AFTER UPDATE OF status ON ingestion_requests FOR EACH ROW"
    " WHEN (OLD.status <> NEW.status AND NEW.status <> 'pending') EXECUTE FUNCTION tell_request()",
    "CREATE OR REPLACE TRIGGER tell_opened AFTER INSERT ON capture_gaps FOR EACH ROW EXECUTE FUNCTION tell_gap()",
    "CREATE OR REPLACE TRIGGER tell_closed AFTER UPDATE OF to_at ON capture_gaps FOR EACH ROW"
    " WHEN (OLD.to_at IS NULL AND NEW.to_at IS NOT NULL) EXECUTE FUNCTION tell_gap()",
)

CREATE_OR_REPLACE = (
    WIRE_TIME, TELL_FRAME_STORED, TELL_FRAME_DELETED, TELL_REQUEST, TELL_GAP, RELAY_EVENTS, EXPIRE_EVENTS, *TRIGGERS,
)  # fmt: skip
DROP = (
    "DROP TRIGGER tell_stored ON frames",
    "DROP TRIGGER tell_deleted ON frames",
    "DROP TRIGGER tell_new ON ingestion_requests",
    "DROP TRIGGER tell_status ON ingestion_requests",
    "DROP TRIGGER tell_opened ON capture_gaps",
    "DROP TRIGGER tell_closed ON capture_gaps",
    "DROP FUNCTION expire_events(float8, int)",
    "DROP FUNCTION relay_events(int)",
    "DROP FUNCTION tell_gap()",
    "DROP FUNCTION tell_request()",
    "DROP FUNCTION tell_frame_deleted()",
    "DROP FUNCTION tell_frame_stored()",
    "DROP FUNCTION wire_time(timestamptz)",
)
