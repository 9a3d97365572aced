-- The events request.started, request.completed, request.failed and request.cancelled.
-- rtsp_url stays where it is: encrypted, and in no event.
CREATE OR REPLACE FUNCTION report_request() RETURNS trigger
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
                'dropped', jsonb_strip_nulls(jsonb_build_object(
                    'camera_down', nullif(slot_count(NEW.dropped_camera_down), 0),
                    'no_picture', nullif(slot_count(NEW.dropped_no_picture), 0),
                    'decode_failed', nullif(slot_count(NEW.dropped_decode_failed), 0),
                    'queue_full', nullif(slot_count(NEW.dropped_queue_full), 0),
                    'spool_full', nullif(slot_count(NEW.dropped_spool_full), 0),
                    'spooled', nullif(slot_count(NEW.dropped_spooled), 0),
                    'surplus', nullif(slot_count(NEW.dropped_surplus), 0),
                    'lease_lost', nullif(slot_count(NEW.dropped_lease_lost), 0),
                    'cancelled', nullif(slot_count(NEW.dropped_cancelled), 0),
                    'rejected', nullif(slot_count(NEW.dropped_rejected), 0))),
                'duplicates', NEW.duplicates, 'reconnects', NEW.reconnects,
                'last_frame_at', wire_time(NEW.last_frame_at)),
            'meta', NEW.meta, 'grid_start', wire_time(NEW.grid_start), 'created_at', wire_time(NEW.created_at),
            'started_at', wire_time(NEW.started_at), 'completed_at', wire_time(NEW.completed_at))));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER report_new AFTER INSERT ON ingestion_requests
    FOR EACH ROW WHEN (NEW.status <> 'pending')
    EXECUTE FUNCTION report_request();

CREATE OR REPLACE TRIGGER report_status AFTER UPDATE OF status ON ingestion_requests
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND NEW.status <> 'pending')
    EXECUTE FUNCTION report_request();
