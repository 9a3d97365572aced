-- The events camera.gap_opened and camera.gap_closed, once each; a gap may be inserted closed.
CREATE OR REPLACE FUNCTION report_gap() RETURNS trigger
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
END $$;

CREATE OR REPLACE TRIGGER report_opened AFTER INSERT ON capture_gaps
    FOR EACH ROW
    EXECUTE FUNCTION report_gap();

CREATE OR REPLACE TRIGGER report_closed AFTER UPDATE OF to_at ON capture_gaps
    FOR EACH ROW WHEN (OLD.to_at IS NULL AND NEW.to_at IS NOT NULL)
    EXECUTE FUNCTION report_gap();
