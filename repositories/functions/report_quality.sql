-- The event camera.quality_changed, once for each change of a camera's verdict, whichever process found it.
CREATE OR REPLACE FUNCTION report_quality() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_pending (event) VALUES (jsonb_build_object(
        'type', 'camera.quality_changed', 'subject', NEW.camera_id, 'camera_id', NEW.camera_id,
        'time', wire_time(clock_timestamp()),
        'data', jsonb_build_object(
            'camera_id', NEW.camera_id, 'verdict', NEW.verdict, 'reasons', NEW.reasons, 'frames', NEW.streak,
            'since', wire_time(NEW.since))));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER report_quality_changed AFTER UPDATE OF verdict ON camera_quality
    FOR EACH ROW WHEN (OLD.verdict <> NEW.verdict)
    EXECUTE FUNCTION report_quality();
