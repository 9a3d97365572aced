-- The event frame.deleted, once, when a delete begins.
CREATE OR REPLACE FUNCTION report_frame_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
        'type', 'frame.deleted', 'subject', NEW.id, 'camera_id', NEW.camera_id, 'time', wire_time(clock_timestamp()),
        'data', jsonb_build_object(
            'frame_id', NEW.id, 'request_id', NEW.request_id, 'camera_id', NEW.camera_id, 'sequence', NEW.sequence,
            'storage_path', NEW.storage_path, 'timestamp', wire_time(NEW.capture_timestamp), 'sha256', NEW.sha256)));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER report_deleted AFTER UPDATE OF state ON frames
    FOR EACH ROW WHEN (OLD.state = 'stored' AND NEW.state <> 'stored')
    EXECUTE FUNCTION report_frame_deleted();
