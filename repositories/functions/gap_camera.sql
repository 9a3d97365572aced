-- A gap has its request's camera, whoever writes it: a service of the version before knows of no such column.
CREATE OR REPLACE FUNCTION gap_camera() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.camera_id := (SELECT r.camera_id FROM ingestion_requests r WHERE r.id = NEW.request_id);
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER gap_camera BEFORE INSERT ON capture_gaps
    FOR EACH ROW
    EXECUTE FUNCTION gap_camera();
