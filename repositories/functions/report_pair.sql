-- The event pair.created, and pair.aligned where the alignment came later, with both frames and the alignment. Of the frames
-- nothing that says who or where (file name, meta, EXIF): what is deleted with a frame stands in no event of its pairs.
CREATE OR REPLACE FUNCTION report_pair() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    seen jsonb;
BEGIN
    SELECT jsonb_object_agg(CASE f.id WHEN NEW.before_id THEN 'before' ELSE 'after' END, jsonb_build_object(
        'frame_id', f.id, 'request_id', f.request_id, 'camera_id', f.camera_id, 'storage_path', f.storage_path,
        'timestamp', wire_time(f.capture_timestamp), 'width', f.width, 'height', f.height, 'size_bytes', f.size_bytes,
        'format', f.format, 'content_type', f.content_type, 'sha256', f.sha256)) INTO seen
    FROM frames f WHERE f.id IN (NEW.before_id, NEW.after_id);
    INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
        'type', CASE TG_OP WHEN 'INSERT' THEN 'pair.created' ELSE 'pair.aligned' END,
        'subject', NEW.id, 'camera_id', NEW.before_camera, 'time', wire_time(clock_timestamp()),
        'data', seen || jsonb_build_object(
            'pair_id', NEW.id, 'label', NEW.label, 'subject', NEW.subject,
            'alignment', NEW.alignment || jsonb_build_object('status', NEW.status))));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER report_pair_created AFTER INSERT ON pairs
    FOR EACH ROW
    EXECUTE FUNCTION report_pair();

CREATE OR REPLACE TRIGGER report_pair_aligned AFTER UPDATE OF status ON pairs
    FOR EACH ROW WHEN (OLD.status = 'pending' AND NEW.status <> 'pending')
    EXECUTE FUNCTION report_pair();
