-- Events are written by triggers, in the transaction of what they report: no writer of a row can forget them.
-- Row triggers with WHEN: the UPDATE that keeps a ledger, which comes with every frame, calls none of them.
CREATE OR REPLACE FUNCTION report_frame_stored() RETURNS trigger
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
            'integrity', NEW.integrity, 'duplicate_of', NEW.duplicate_of, 'exif', NEW.exif, 'meta', NEW.meta,
            'quality', NEW.quality, 'stored_at', wire_time(NEW.stored_at))));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER report_stored AFTER INSERT ON frames
    FOR EACH ROW WHEN (NEW.state = 'stored')
    EXECUTE FUNCTION report_frame_stored();
